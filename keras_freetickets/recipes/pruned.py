"""Ensembles of dense networks that are trained first and then pruned."""

import dataclasses
import math
import os
import typing

import keras

from keras_freetickets.arguments import check_count
from keras_freetickets.callbacks.cost import TrainingCost
from keras_freetickets.callbacks.ticket_checkpoint import TicketCheckpoint
from keras_freetickets.files import atomic_path
from keras_freetickets.models.conversion import check_sparsity
from keras_freetickets.models.pruning import prune
from keras_freetickets.recipes.independent import check_rate
from keras_freetickets.recipes.independent import rate_factor
from keras_freetickets.recipes.recipe import Recipe
from keras_freetickets.recipes.workspace import falling


@dataclasses.dataclass(kw_only=True)
class PruneAndFinetune(Recipe):
    """Prune and fine-tune: dense networks, pruned globally, trained on.

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
    recipe = keras_freetickets.recipes.PruneAndFinetune(epochs=250)
    ensemble = recipe.fit(make_model, compile_model, data, "run/pf")
    ```

    Reference:
        Liu et al., 2022, arXiv:2106.14568; VITA-Group/FreeTickets
        (main_PF.py).
    """

    sparsity: float = 0.8
    num_members: int = 3
    epochs: int = 250
    fine_tuning_epochs: typing.Any = None
    fine_tuning_rate: float = 0.01
    learning_rate: typing.Any = "paper"
    monitor: typing.Any = "val_accuracy"

    def __post_init__(self):
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

    def train(self, work):
        return [self._train_member(work, i) for i in range(self.num_members)]

    def _train_member(self, work, i):
        trained = work.run(
            f"dense_{i}",
            i,
            lambda: work.make_model(work.seed_of(i)),
            self.epochs,
            lambda folder: [TicketCheckpoint(folder, monitor=self.monitor)],
            TrainingCost("dense"),
            rate_factor(self.learning_rate, falling(self.epochs)),
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


@dataclasses.dataclass(kw_only=True)
class LotteryTicketRewinding(Recipe):
    """Lottery tickets: magnitude pruning with rewinding to early weights.

    One dense network is trained; the smallest weights are removed globally,
    the others go back to what they were after `rewind_epochs`, and the rest of
    the training is repeated. After the last round the members are trained
    from the same mask and early weights, each with an order of the data of its
    own.

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
        learning_rate: As for `Dense`; a training that was rewound goes on
            with the rate of the epoch after.
        monitor: As for `Dense`.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    recipe = keras_freetickets.recipes.LotteryTicketRewinding(epochs=250)
    ensemble = recipe.fit(make_model, compile_model, data, "run/ltr")
    ```

    Reference:
        Frankle et al., 2020, arXiv:1912.05671; Liu et al., 2022,
        arXiv:2106.14568, a reference of its tables.
    """

    sparsity: float = 0.8
    num_members: int = 3
    epochs: int = 250
    rounds: int = 1
    rewind_epochs: typing.Any = None
    learning_rate: typing.Any = "paper"
    monitor: typing.Any = "val_accuracy"

    def __post_init__(self):
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

    def sparsity_of(self, round_):
        """The sparsity after a round, from 1 on."""
        if round_ == self.rounds:
            return self.sparsity
        return 1.0 - (1.0 - self.sparsity) ** (round_ / self.rounds)

    def train(self, work):
        if self.num_members > 1 and not work.data_has_seed:
            raise ValueError(
                "`data` must be a function from a seed: the members of "
                "LotteryTicketRewinding share mask and weights and differ in "
                "the order of the data alone. Received: a dict"
            )
        factor = rate_factor(self.learning_rate, falling(self.epochs))
        dense = trained = work.run(
            "dense",
            0,
            lambda: work.make_model(work.seed_of(0)),
            self.epochs,
            lambda folder: [
                _KeepEarly(folder, self.rewind_epochs),
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
        self, work, name, member, dense, trained, round_, factor
    ):
        later = None
        if factor is not None:

            def later(epoch):
                return factor(epoch + self.rewind_epochs)

        return work.run(
            name,
            member,
            lambda: prune(
                work.load(trained),
                self.sparsity_of(round_),
                rewind_to=work.load(dense, _EARLY),
            ),
            self.epochs - self.rewind_epochs,
            lambda folder: [TicketCheckpoint(folder, monitor=self.monitor)],
            TrainingCost("static"),
            later,
        )


_EARLY = "early.keras"


class _KeepEarly(keras.callbacks.Callback):
    """Saves the model after so many epochs."""

    def __init__(self, folder, epochs):
        super().__init__()
        self.folder = folder
        self.epochs = epochs

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self.epochs:
            with atomic_path(os.path.join(self.folder, _EARLY)) as path:
                self.model.save(path)
