"""Members that are trained one after another, each by itself."""

import dataclasses
import typing

from keras_freetickets.arguments import check_count
from keras_freetickets.callbacks import freetickets
from keras_freetickets.callbacks.cost import TrainingCost
from keras_freetickets.callbacks.ticket_checkpoint import TicketCheckpoint
from keras_freetickets.models.conversion import check_sparsity
from keras_freetickets.models.conversion import sparsify
from keras_freetickets.recipes.recipe import Recipe
from keras_freetickets.recipes.workspace import falling
from keras_freetickets.topology import Method
from keras_freetickets.topology import distributions


def check_rate(learning_rate):
    """Raises unless it is `"paper"`, `None` or a function."""
    if learning_rate not in ("paper", None) and not callable(learning_rate):
        raise ValueError(
            '`learning_rate` must be "paper", None, or a function from an '
            "epoch to a factor of the compiled rate. "
            f"Received: learning_rate={learning_rate!r}"
        )


def rate_factor(learning_rate, paper):
    """The function that `learning_rate` stands for."""
    return paper if learning_rate == "paper" else learning_rate


@dataclasses.dataclass(kw_only=True)
class Dense(Recipe):
    """A deep ensemble: dense networks from different seeds.

    Args:
        num_members: Positive integer. Defaults to 4 (FreeTickets' reference;
            google/uncertainty-baselines).
        epochs: Positive integer, epochs of each. Defaults to 250 (the
            members of VITA-Group/FreeTickets).
        learning_rate: `"paper"`: the compiled rate, a tenth of it from 1/2 of
            the epochs and a hundredth from 3/4 on (the same); a function from
            an epoch to a factor of the compiled rate; or `None` to leave the
            rate alone, e.g. to a callback of your own.
        monitor: Name of the epoch log whose best value chooses a member's
            epoch. `None` for the last. Defaults to `"val_accuracy"` (the
            same).

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    recipe = keras_freetickets.recipes.Dense(num_members=4, epochs=250)
    ensemble = recipe.fit(make_model, compile_model, data, "run/dense")
    ```

    Reference:
        Lakshminarayanan et al., 2017, arXiv:1612.01474.
    """

    num_members: int = 4
    epochs: int = 250
    learning_rate: typing.Any = "paper"
    monitor: typing.Any = "val_accuracy"

    cost = "dense"

    def __post_init__(self):
        check_count("num_members", self.num_members)
        check_count("epochs", self.epochs)
        check_rate(self.learning_rate)

    def train(self, work):
        factor = rate_factor(self.learning_rate, falling(self.epochs))
        return [
            work.run(
                f"member_{i}",
                i,
                lambda i=i: self._network(work, i),
                self.epochs,
                lambda folder, i=i: self._callbacks(folder, work.seed_of(i)),
                self._training_cost(),
                factor,
            )
            for i in range(self.num_members)
        ]

    def _network(self, work, member):
        """The model of a member, not trained."""
        return work.make_model(work.seed_of(member))

    def _callbacks(self, folder, seed):
        return [TicketCheckpoint(folder, monitor=self.monitor)]

    def _training_cost(self):
        return TrainingCost(self.cost)


@dataclasses.dataclass(kw_only=True)
class Static(Dense):
    """Sparse networks from different seeds whose masks rest.

    Args:
        num_members: Positive integer. Defaults to 3 (paper).
        epochs: As for `Dense`.
        learning_rate: As for `Dense`.
        monitor: As for `Dense`.
        sparsity: As for `keras_freetickets.sparsify`. Defaults to 0.8 (paper).
        distribution: As for `sparsify`. Defaults to `"erk"` (paper).

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    recipe = keras_freetickets.recipes.Static(sparsity=0.8, epochs=250)
    ensemble = recipe.fit(make_model, compile_model, data, "run/static")
    ```

    Reference:
        Liu et al., 2022, arXiv:2106.14568, a reference of its tables.
    """

    sparsity: typing.Any = 0.8
    num_members: int = 3
    distribution: typing.Any = "erk"

    cost = "static"

    def __post_init__(self):
        super().__post_init__()
        check_sparse(self.sparsity, self.distribution)

    def _network(self, work, member):
        return sparsify(
            super()._network(work, member),
            self.sparsity,
            self.distribution,
            seed=work.seed_of(member),
        )


@dataclasses.dataclass(kw_only=True)
class DST(Static):
    """FreeTickets' DST ensemble: sparse networks that drop and grow.

    Args:
        num_members: As for `Static`.
        epochs: As for `Dense`.
        learning_rate: As for `Dense`.
        monitor: As for `Dense`.
        sparsity: As for `Static`.
        distribution: As for `Static`.
        growth: `"gradient"` (default) or `"random"`.
        update_interval: Optimizer updates between topology updates. Defaults
            to 1000 (paper, CIFAR, batches of 128).
        drop_fraction: Float in [0, 1] or a schedule. Defaults to 0.5 (paper
            and README of its code).

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    recipe = keras_freetickets.recipes.DST(sparsity=0.8, epochs=250)
    ensemble = recipe.fit(make_model, compile_model, data, "run/dst")
    ```

    Reference:
        Liu et al., 2022, arXiv:2106.14568.
    """

    growth: str = "gradient"
    update_interval: int = 1000
    drop_fraction: typing.Any = 0.5

    def __post_init__(self):
        super().__post_init__()
        check_growing(self.growth, self.update_interval, self.drop_fraction)

    def _callbacks(self, folder, seed):
        return [
            freetickets.DST(
                folder,
                growth=self.growth,
                update_interval=self.update_interval,
                drop_fraction=self.drop_fraction,
                monitor=self.monitor,
                seed=seed,
            )
        ]

    def _training_cost(self):
        return growing_cost(self.growth, self.update_interval)


def check_sparse(sparsity, distribution):
    """Raises unless `sparsify` takes them."""
    if not callable(sparsity):
        check_sparsity(sparsity)
    distributions.get(distribution)


def check_growing(growth, update_interval, drop_fraction):
    """Raises unless a method and its cost can be made of them."""
    growing_cost(growth, update_interval)
    Method(update_interval, drop_fraction, growth=growth)


def growing_cost(growth, update_interval):
    """What training costs with connections that grow."""
    method = {"gradient": "rigl", "random": "set"}.get(growth)
    if method is None:
        raise ValueError(
            '`growth` must be "gradient" or "random". '
            f"Received: growth={growth!r}"
        )
    return TrainingCost(method, update_interval)
