"""Recipes that get all members from a single training run."""

import dataclasses
import typing
from collections.abc import Callable

import keras

from keras_freetickets.arguments import check_count
from keras_freetickets.callbacks import freetickets
from keras_freetickets.callbacks import snapshot
from keras_freetickets.callbacks.cost import TrainingCost
from keras_freetickets.callbacks.drop_and_grow import DropAndGrow
from keras_freetickets.callbacks.ticket_checkpoint import TicketCheckpoint
from keras_freetickets.models import mimo
from keras_freetickets.models.conversion import check_sparsity
from keras_freetickets.models.conversion import sparsify
from keras_freetickets.recipes.independent import LearningRate
from keras_freetickets.recipes.independent import check_growing
from keras_freetickets.recipes.independent import check_rate
from keras_freetickets.recipes.independent import check_sparse
from keras_freetickets.recipes.independent import growing_cost
from keras_freetickets.recipes.independent import rate_factor
from keras_freetickets.recipes.recipe import Recipe
from keras_freetickets.recipes.registry import register
from keras_freetickets.recipes.workspace import Workspace
from keras_freetickets.topology import RigL


@register("edst")
@dataclasses.dataclass(kw_only=True)
class EDST(Recipe):
    """FreeTickets' EDST ensemble: several sparse tickets of one run.

    Args:
        sparsity: As for `keras_freetickets.sparsify`. Defaults to 0.8 (paper).
        num_members: Positive integer. Defaults to 3 (paper).
        exploration_epochs: Positive integer. Defaults to 150 (paper, CIFAR).
        refinement_epochs: Positive integer, of each. Defaults to 100 (the
            same).
        distribution, growth, update_interval, drop_fraction: As for `DST`.
        global_drop_fraction: Float in (0, 1], the share that is replaced
            between refinements. Defaults to 0.8 (paper).
        learning_rate: `"paper"`; or three factors of the compiled rate, for
            exploration and for the first and the second half of each
            refinement (paper: 1, 0.1 and 0.01); or `None` to leave the rate
            unchanged.
        monitor: Name of the epoch log whose best value chooses the epoch of
            each member, e.g. `"val_loss"` for a regressor. `None` for its
            last epoch. Defaults to `"val_accuracy"` (VITA-Group/FreeTickets).

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    recipe = keras_freetickets.recipes.EDST(
        sparsity=0.8, exploration_epochs=150, refinement_epochs=100
    )
    ensemble = recipe.fit(make_model, compile_model, data, "run/edst")
    ```

    Reference:
        Liu et al., 2022, arXiv:2106.14568.
    """

    sparsity: typing.Any = 0.8
    num_members: int = 3
    exploration_epochs: int = 150
    refinement_epochs: int = 100
    distribution: typing.Any = "erk"
    growth: str = "gradient"
    update_interval: int = 1000
    drop_fraction: typing.Any = 0.5
    global_drop_fraction: float = 0.8
    learning_rate: str | tuple[float, float, float] | None = "paper"
    monitor: str | None = "val_accuracy"

    def __post_init__(self) -> None:
        check_sparse(self.sparsity, self.distribution)
        check_count("num_members", self.num_members)
        check_count("exploration_epochs", self.exploration_epochs)
        check_count("refinement_epochs", self.refinement_epochs)
        check_growing(self.growth, self.update_interval, self.drop_fraction)
        freetickets.check_global_drop(self.global_drop_fraction)
        freetickets.check_factors(self.learning_rate)

    def train(self, work: Workspace) -> list[str]:
        seed = work.seed_of(0)

        def network() -> keras.Model:
            model = work.make_model(seed)
            return sparsify(model, self.sparsity, self.distribution, seed=seed)

        return [
            work.run(
                "run",
                0,
                network,
                self.exploration_epochs
                + self.num_members * self.refinement_epochs,
                lambda folder: [self._callback(folder, seed)],
                growing_cost(self.growth, self.update_interval),
            )
        ]

    def _callback(self, folder: str, seed: int) -> freetickets.EDST:
        return freetickets.EDST(
            self.exploration_epochs,
            self.refinement_epochs,
            self.num_members,
            self.growth,
            self.update_interval,
            self.drop_fraction,
            self.global_drop_fraction,
            self.learning_rate,
            self.monitor,
            folder,
            seed=seed,
        )


@register("snapshot")
@dataclasses.dataclass(kw_only=True)
class Snapshot(Recipe):
    """A snapshot ensemble: one dense network, kept after each cosine cycle.

    Args:
        num_members: Positive integer, the number of cycles. Defaults to 5
            (README of gaohuang/SnapshotEnsemble).
        cycle_epochs: Positive integer, the length of a cycle. Defaults to 40
            (the same: 200 epochs in all, with cycles that start at a learning
            rate of 0.2).

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    recipe = keras_freetickets.recipes.get("snapshot", cycle_epochs=40)
    ensemble = recipe.fit(make_model, compile_model, data, "run/snapshot")
    ```

    Reference:
        Huang et al., 2017, arXiv:1704.00109; gaohuang/SnapshotEnsemble.
    """

    num_members: int = 5
    cycle_epochs: int = 40

    def __post_init__(self) -> None:
        check_count("num_members", self.num_members)
        check_count("cycle_epochs", self.cycle_epochs)

    def train(self, work: Workspace) -> list[str]:
        return [
            work.run(
                "run",
                0,
                lambda: work.make_model(work.seed_of(0)),
                self.num_members * self.cycle_epochs,
                lambda folder: [
                    snapshot.Snapshot(
                        folder, self.num_members, self.cycle_epochs
                    )
                ],
                TrainingCost("dense"),
            )
        ]


@register("mimo")
@dataclasses.dataclass(kw_only=True)
class MIMO(Recipe):
    """Subnetworks of one network, dense or sparse; see `kft.MIMO`.

    `make_model` returns the body of a classifier. It takes the images of all
    members, joined along the channels, and returns the logits of all members:
    `num_members` times as many channels and logits as one network has. If the
    body is made sparse, its first and its last kernel stay dense, so that
    every member keeps its input and its head.

    Args:
        num_members: As for `keras_freetickets.MIMO`. Defaults to 3 (paper).
        epochs: Positive integer. Defaults to 250
            (google/uncertainty-baselines, CIFAR).
        batch_repetitions, input_repetition: As for `keras_freetickets.MIMO`.
        sparsity: Float in [0, 1), of the body between its ends. Defaults to
            0: dense.
        distribution: As for `sparsify`.
        update_interval: Optimizer updates between topology updates, of a
            sparse body. Defaults to 100 (RigL's flag).
        drop_fraction: Float in [0, 1] or a schedule. Defaults to 0.3 (the
            same). RigL lets it fall along a cosine up to `stop_step`, which
            takes the number of steps: `Cosine(0.3, stop_step)`.
        stop_step: Integer, the optimizer update after which the topology no
            longer changes. `None` (default) for no end. (RigL: after 75 % of
            the training.)
        learning_rate: `"paper"`: half the compiled rate in the first epoch
            (in place of a linear warm-up over it), a fifth of it after 0.4,
            0.8 and 0.9 of the epochs, each (google/uncertainty-baselines:
            100, 200 and 225 of 250); a function from an epoch to a factor;
            or `None`.
        monitor: As for `Dense`. Defaults to `None`: the last epoch (the
            same).

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    recipe = keras_freetickets.recipes.MIMO(
        num_members=3, sparsity=0.5, learning_rate=None
    )
    ensemble = recipe.fit(make_body, compile_model, data, "run/mimo")
    ```

    Reference:
        Havasi et al., 2021, arXiv:2010.06610; baselines/cifar/mimo.py of
        google/uncertainty-baselines.
    """

    num_members: int = 3
    epochs: int = 250
    batch_repetitions: int = 4
    input_repetition: float = 0.0
    sparsity: float = 0.0
    distribution: typing.Any = "erk"
    update_interval: int = 100
    drop_fraction: typing.Any = 0.3
    stop_step: int | None = None
    learning_rate: LearningRate = "paper"
    monitor: str | None = None

    def __post_init__(self) -> None:
        check_count("num_members", self.num_members)
        check_count("epochs", self.epochs)
        check_count("batch_repetitions", self.batch_repetitions)
        mimo.check_share(self.input_repetition)
        check_sparsity(self.sparsity)  # no callable, of which parts stay dense
        check_sparse(self.sparsity, self.distribution)
        self._method(seed=0)
        check_rate(self.learning_rate)

    def train(self, work: Workspace) -> list[str]:
        kind = "rigl" if self.sparsity else "dense"
        return [
            work.run(
                "run",
                0,
                lambda: self._network(work),
                self.epochs,
                lambda folder: self._callbacks(folder, work.seed_of(0)),
                TrainingCost(
                    kind, self.update_interval, self.batch_repetitions
                ),
                rate_factor(self.learning_rate, self._paper_factor),
            )
        ]

    def _paper_factor(self, epoch: int) -> float:
        if epoch == 0:
            return 0.5
        ends = (0.4, 0.8, 0.9)
        return 0.2 ** sum(epoch >= round(e * self.epochs) for e in ends)

    def _network(self, work: Workspace) -> keras.Model:
        seed = work.seed_of(0)
        body = work.make_model(seed)
        if self.sparsity:
            body = sparsify(
                body,
                self.sparsity,
                self.distribution,
                filters=_between(body),
                seed=seed,
            )
        return mimo.MIMO(
            body,
            self.num_members,
            self.batch_repetitions,
            self.input_repetition,
            seed,
        )

    def _callbacks(
        self, folder: str, seed: int
    ) -> list[keras.callbacks.Callback]:
        ticket = TicketCheckpoint(folder, monitor=self.monitor)
        if not self.sparsity:
            return [ticket]
        return [DropAndGrow(self._method(seed)), ticket]

    def _method(self, seed: int) -> RigL:
        return RigL(
            self.update_interval,
            self.drop_fraction,
            stop_step=self.stop_step,
            seed=seed,
        )


def _between(body: keras.Model) -> Callable[[keras.layers.Layer], bool]:
    """Function that tells whether a layer is neither first nor last."""
    sparse = sparsify(body, 0.0, mask_initializer="magnitude")
    names = [layer.name for layer in sparse.sparse_layers]
    if len(names) < 3:
        raise ValueError(
            "`make_model` must return a body of three or more kernels to be "
            "made sparse, as the first and the last stay dense; or give "
            f"MIMO(sparsity=0). Received: a body with {names}"
        )
    ends = {names[0], names[-1]}
    return lambda layer: layer.name not in ends
