"""Recipes whose members are trained one after another, independently."""

import dataclasses
import functools
import typing
from collections.abc import Callable

import keras

from keras_freetickets.arguments import check_count
from keras_freetickets.callbacks import freetickets
from keras_freetickets.callbacks.cost import TrainingCost
from keras_freetickets.callbacks.ticket_checkpoint import TicketCheckpoint
from keras_freetickets.models.conversion import check_sparsity
from keras_freetickets.models.conversion import sparsify
from keras_freetickets.recipes.recipe import Recipe
from keras_freetickets.recipes.registry import register
from keras_freetickets.recipes.workspace import Workspace
from keras_freetickets.recipes.workspace import step_decay
from keras_freetickets.topology import Method
from keras_freetickets.topology import distributions

LearningRate = str | Callable[[int], float] | None


def check_rate(learning_rate: LearningRate) -> None:
    """Raises unless it is `"paper"`, `None` or a function."""
    if learning_rate not in ("paper", None) and not callable(learning_rate):
        raise ValueError(
            '`learning_rate` must be "paper", None, or a function from an '
            "epoch to a factor of the compiled rate. "
            f"Received: learning_rate={learning_rate!r}"
        )


def rate_factor(
    learning_rate: LearningRate, paper: Callable[[int], float]
) -> Callable[[int], float] | None:
    """The function that `learning_rate` stands for."""
    if learning_rate == "paper":
        return paper
    return typing.cast(Callable[[int], float] | None, learning_rate)


@register("dense")
@dataclasses.dataclass(kw_only=True)
class Dense(Recipe):
    """A deep ensemble: dense networks trained from different seeds.

    Args:
        num_members: Positive integer. Defaults to 4 (FreeTickets' reference;
            google/uncertainty-baselines).
        epochs: Positive integer, how long each member is trained. Defaults to
            250 (the members of VITA-Group/FreeTickets).
        learning_rate: `"paper"`: the compiled rate, a tenth of it from 1/2 of
            the epochs and a hundredth from 3/4 on (the same); a function from
            an epoch to a factor of the compiled rate; or `None` to leave the
            rate unchanged, e.g. for a callback of your own.
        monitor: Name of the epoch log whose best value chooses the epoch at
            which a member is kept, e.g. `"val_loss"` for a regressor. `None`
            for the last epoch. Defaults to `"val_accuracy"` (the same).

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
    learning_rate: LearningRate = "paper"
    monitor: str | None = "val_accuracy"

    cost: typing.ClassVar[str] = "dense"

    def __post_init__(self) -> None:
        check_count("num_members", self.num_members)
        check_count("epochs", self.epochs)
        check_rate(self.learning_rate)

    def train(self, work: Workspace) -> list[str]:
        factor = rate_factor(self.learning_rate, step_decay(self.epochs))
        return [
            work.run(
                f"member_{i}",
                i,
                functools.partial(self._network, work, i),
                self.epochs,
                functools.partial(self._callbacks, seed=work.seed_of(i)),
                self._training_cost(),
                factor,
            )
            for i in range(self.num_members)
        ]

    def _network(self, work: Workspace, member: int) -> keras.Model:
        """The untrained model of a member."""
        return work.make_model(work.seed_of(member))

    def _callbacks(
        self, folder: str, seed: int
    ) -> list[keras.callbacks.Callback]:
        return [TicketCheckpoint(folder, monitor=self.monitor)]

    def _training_cost(self) -> TrainingCost:
        return TrainingCost(self.cost)


@register("static")
@dataclasses.dataclass(kw_only=True)
class Static(Dense):
    """Sparse networks with fixed random masks, from different seeds.

    Args:
        num_members: Positive integer. Defaults to 3 (paper).
        epochs, learning_rate, monitor: As for `Dense`.
        sparsity: As for `keras_freetickets.sparsify`. Defaults to 0.8 (paper).
        distribution: As for `sparsify`. Defaults to `"erk"` (paper).

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    recipe = keras_freetickets.recipes.Static(sparsity=0.8)
    ensemble = recipe.fit(make_model, compile_model, data, "run/static")
    ```

    Reference:
        Liu et al., 2022, arXiv:2106.14568, a baseline in its tables.
    """

    sparsity: typing.Any = 0.8
    num_members: int = 3
    distribution: typing.Any = "erk"

    cost: typing.ClassVar[str] = "static"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sparse(self.sparsity, self.distribution)

    def _network(self, work: Workspace, member: int) -> keras.Model:
        return sparsify(
            super()._network(work, member),
            self.sparsity,
            self.distribution,
            seed=work.seed_of(member),
        )


@register("dst")
@dataclasses.dataclass(kw_only=True)
class DST(Static):
    """FreeTickets' DST ensemble: dynamic sparse training, one run a member.

    Args:
        num_members, epochs, learning_rate, monitor, sparsity, distribution: As
            for `Static`.
        growth: `"gradient"` (default) or `"random"`.
        update_interval: Positive integer, optimizer updates between topology
            updates. Defaults to 1000 (paper, CIFAR, batches of 128).
        drop_fraction: Float in [0, 1] or a schedule, the share of connections
            that an update replaces. Defaults to 0.5 (paper and README of its
            code).

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    recipe = keras_freetickets.recipes.DST(sparsity=0.9, growth="random")
    ensemble = recipe.fit(make_model, compile_model, data, "run/dst")
    ```

    Reference:
        Liu et al., 2022, arXiv:2106.14568.
    """

    growth: str = "gradient"
    update_interval: int = 1000
    drop_fraction: typing.Any = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_growing(self.growth, self.update_interval, self.drop_fraction)

    def _callbacks(
        self, folder: str, seed: int
    ) -> list[keras.callbacks.Callback]:
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

    def _training_cost(self) -> TrainingCost:
        return growing_cost(self.growth, self.update_interval)


def check_sparse(sparsity: typing.Any, distribution: typing.Any) -> None:
    """Raises unless `sparsify` takes these arguments."""
    if not callable(sparsity):
        check_sparsity(sparsity)
    distributions.get(distribution)


def check_growing(
    growth: str, update_interval: int, drop_fraction: typing.Any
) -> None:
    """Raises unless they are arguments of a method that drops and grows."""
    growing_cost(growth, update_interval)
    Method(update_interval, drop_fraction, growth=growth)


def growing_cost(growth: str, update_interval: int) -> TrainingCost:
    """The callback that logs what training with drop-and-grow costs."""
    method = {"gradient": "rigl", "random": "set"}.get(growth)
    if method is None:
        raise ValueError(
            '`growth` must be "gradient" or "random". '
            f"Received: growth={growth!r}"
        )
    return TrainingCost(method, update_interval)
