"""Recipes that train dense networks first and then prune them."""

import dataclasses
import math
import os
import typing
from collections.abc import Callable

import keras

from keras_freetickets.arguments import check_count
from keras_freetickets.callbacks.cost import TrainingCost
from keras_freetickets.callbacks.ticket_checkpoint import TicketCheckpoint
from keras_freetickets.files import atomic_path
from keras_freetickets.models.conversion import check_sparsity
from keras_freetickets.models.pruning import prune
from keras_freetickets.recipes.independent import LearningRate
from keras_freetickets.recipes.independent import check_rate
from keras_freetickets.recipes.independent import rate_factor
from keras_freetickets.recipes.recipe import Recipe
from keras_freetickets.recipes.registry import register
from keras_freetickets.recipes.workspace import Workspace
from keras_freetickets.recipes.workspace import step_decay


@register("prune_and_finetune")
@dataclasses.dataclass(kw_only=True)
class PruneAndFinetune(Recipe):
    """Dense networks that are pruned by global magnitude and fine-tuned.

    Args:
        sparsity: Float in [0, 1). Defaults to 0.8 (paper).
        num_members: Positive integer. Defaults to 3 (paper).
        epochs: Positive integer, of dense training. Defaults to 250
            (VITA-Group/FreeTickets).
        fine_tuning_epochs: Positive integer. Defaults to `epochs`: the
            paper's recipe is not known; its cost of 3.75 dense trainings for
            3 members is that of fine-tuning as long as training.
        fine_tuning_rate: Positive float, the factor of the compiled rate in
            fine-tuning. Defaults to 0.01 (0.001 of 0.1, README of
            VITA-Group/FreeTickets).
        learning_rate: As for `Dense`, in dense training.
        monitor: As for `Dense`, in both.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    recipe = keras_freetickets.recipes.PruneAndFinetune(learning_rate=None)
    ensemble = recipe.fit(make_model, compile_model, data, "run/pf")
    ```

    Reference:
        Liu et al., 2022, arXiv:2106.14568; VITA-Group/FreeTickets
        (main_PF.py).
    """

    sparsity: float = 0.8
    num_members: int = 3
    epochs: int = 250
    fine_tuning_epochs: int | None = None
    fine_tuning_rate: float = 0.01
    learning_rate: LearningRate = "paper"
    monitor: str | None = "val_accuracy"

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)
        check_count("num_members", self.num_members)
        check_count("epochs", self.epochs)
        if self.fine_tuning_epochs is None:
            self.fine_tuning_epochs = self.epochs
        check_count("fine_tuning_epochs", self.fine_tuning_epochs)
        if not 0.0 < self.fine_tuning_rate < math.inf:
            raise ValueError(
                "`fine_tuning_rate` must be a positive factor of the compiled "
                f"rate. Received: fine_tuning_rate={self.fine_tuning_rate}"
            )
        check_rate(self.learning_rate)

    def train(self, work: Workspace) -> list[str]:
        return [self._train_member(work, i) for i in range(self.num_members)]

    def _train_member(self, work: Workspace, i: int) -> str:
        assert self.fine_tuning_epochs is not None  # set by __post_init__
        trained = work.run(
            f"dense_{i}",
            i,
            lambda: work.make_model(work.seed_of(i)),
            self.epochs,
            lambda folder: [TicketCheckpoint(folder, monitor=self.monitor)],
            TrainingCost("dense"),
            rate_factor(self.learning_rate, step_decay(self.epochs)),
        )
        return work.run(
            f"member_{i}",
            i,
            lambda: prune(work.load(trained), self.sparsity),
            self.fine_tuning_epochs,
            lambda folder: [TicketCheckpoint(folder, monitor=self.monitor)],
            TrainingCost("static"),
            lambda epoch: self.fine_tuning_rate,
        )


@register("lottery_ticket_rewinding")
@dataclasses.dataclass(kw_only=True)
class LotteryTicketRewinding(Recipe):
    """Lottery tickets: magnitude pruning with rewinding to early weights.

    One dense network is trained; the smallest weights are removed globally,
    the others are reset to their values after `rewind_epochs`, and the rest of
    the training is repeated. After the last round the members are trained
    from the same mask and early weights, each with its own data or order of
    the data.

    Args:
        sparsity: Float in [0, 1), after the last round. Defaults to 0.8
            (paper).
        num_members: Positive integer. Defaults to 3 (paper).
        epochs: Positive integer, of each training. Defaults to 250 (that of
            the other members of VITA-Group/FreeTickets).
        rounds: Positive integer, in how many steps the sparsity is reached,
            each keeping the same share. Defaults to 1: the paper's recipe is
            not known; its 4 trainings at the cost of 1.75 dense ones for 3
            members leave no room for more.
        rewind_epochs: Positive integer below `epochs`. Defaults to a
            fiftieth of them, at least 1 (Frankle et al. rewind to some
            percent of the training).
        learning_rate: As for `Dense`; a rewound training starts with the rate
            of the epoch after `rewind_epochs`.
        monitor: As for `Dense`.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    name = "lottery_ticket_rewinding"
    recipe = keras_freetickets.recipes.get(name, rounds=2, rewind_epochs=5)
    ensemble = recipe.fit(make_model, compile_model, data, "run/ltr")
    ```

    Reference:
        Frankle et al., 2020, arXiv:1912.05671; Liu et al., 2022,
        arXiv:2106.14568, a baseline in its tables.
    """

    sparsity: float = 0.8
    num_members: int = 3
    epochs: int = 250
    rounds: int = 1
    rewind_epochs: int | None = None
    learning_rate: LearningRate = "paper"
    monitor: str | None = "val_accuracy"

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)
        check_count("num_members", self.num_members)
        check_count("epochs", self.epochs, least=2)
        check_count("rounds", self.rounds)
        if self.rewind_epochs is None:
            self.rewind_epochs = max(1, self.epochs // 50)
        check_count("rewind_epochs", self.rewind_epochs)
        if self.rewind_epochs >= self.epochs:
            raise ValueError(
                f"`rewind_epochs` must be below epochs={self.epochs}. "
                f"Received: rewind_epochs={self.rewind_epochs}"
            )
        check_rate(self.learning_rate)

    def sparsity_of(self, round_: int) -> float:
        """The sparsity after a round.

        Args:
            round_: Integer in [1, rounds].

        Returns:
            Float.
        """
        if round_ == self.rounds:
            return self.sparsity
        return 1.0 - (1.0 - self.sparsity) ** (round_ / self.rounds)

    def train(self, work: Workspace) -> list[str]:
        if self.num_members > 1 and not callable(work.data):
            raise ValueError(
                "`data` must be a function from a seed: the members of "
                "LotteryTicketRewinding share a mask and weights and differ "
                "only in the order of their data. Received: a dict"
            )
        factor = rate_factor(self.learning_rate, step_decay(self.epochs))
        assert self.rewind_epochs is not None  # set by __post_init__
        rewind_epochs = self.rewind_epochs
        dense = trained = work.run(
            "dense",
            0,
            lambda: work.make_model(work.seed_of(0)),
            self.epochs,
            lambda folder: [
                _KeepEarly(folder, rewind_epochs),
                TicketCheckpoint(folder, monitor=self.monitor),
            ],
            TrainingCost("dense"),
            factor,
        )
        for i in range(1, self.rounds):
            trained = self._train_rewound(
                work, f"round_{i}", 0, dense, trained, i, factor
            )
        return [
            self._train_rewound(
                work, f"member_{i}", i, dense, trained, self.rounds, factor
            )
            for i in range(self.num_members)
        ]

    def _train_rewound(
        self,
        work: Workspace,
        name: str,
        member: int,
        dense: str,
        trained: str,
        round_: int,
        factor: Callable[[int], float] | None,
    ) -> str:
        assert self.rewind_epochs is not None  # set by __post_init__
        rewind_epochs = self.rewind_epochs
        later: Callable[[int], float] | None = None
        if factor is not None:

            def later(epoch: int) -> float:
                return factor(epoch + rewind_epochs)

        return work.run(
            name,
            member,
            lambda: prune(
                work.load(trained),
                self.sparsity_of(round_),
                rewind_to=work.load(dense, _EARLY),
            ),
            self.epochs - rewind_epochs,
            lambda folder: [TicketCheckpoint(folder, monitor=self.monitor)],
            TrainingCost("static"),
            later,
        )


_EARLY = "early.keras"


class _KeepEarly(keras.callbacks.Callback):
    """Saves the model after `epochs` epochs."""

    def __init__(self, folder: str, epochs: int):
        super().__init__()
        self.folder = folder
        self.epochs = epochs

    def on_epoch_end(
        self, epoch: int, logs: dict[str, typing.Any] | None = None
    ) -> None:
        if epoch + 1 == self.epochs:
            with atomic_path(os.path.join(self.folder, _EARLY)) as path:
                self.model.save(path)
