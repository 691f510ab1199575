"""Snapshot ensembles: a ticket at the end of each learning rate cycle."""

import keras

from keras_freetickets import keras_adapter
from keras_freetickets.arguments import check_count
from keras_freetickets.callbacks.claims import SETS_THE_RATE
from keras_freetickets.callbacks.claims import claim
from keras_freetickets.callbacks.ticket_checkpoint import TicketCollector
from keras_freetickets.types import Logs
from keras_freetickets.types import Model
from keras_freetickets.types import PathLike


class Snapshot(TicketCollector):
    """Collects a ticket at the end of each cosine cycle of the learning rate.

    In each cycle the learning rate decays from the compiled rate to 0 along
    half a cosine, step by step, and then starts again. The model at the end of
    each cycle is saved. It works with dense and sparse models, with or without
    a method's callback. Put it before `Backup`. After training the optimizer
    keeps the schedule.

    Args:
        directory: Directory of the tickets.
        num_members: Positive integer, the number of cycles. Defaults to 5
            (README of gaohuang/SnapshotEnsemble).
        cycle_epochs: Positive integer, epochs of each cycle. Defaults to 40
            (the same README: 200 epochs in total).

    Attributes:
        epochs: Integer, the epochs to pass to `fit`.

    Raises:
        ValueError: If an argument is out of range, the directory is not
            writable, the optimizer has made steps or has a schedule already,
            `fit` has fewer epochs than the cycles need, or the number of
            steps per epoch is unknown.

    Example:

    ```python
    snapshot = keras_freetickets.callbacks.Snapshot("run", cycle_epochs=40)
    model.fit(train, epochs=snapshot.epochs, callbacks=[snapshot])
    ensemble = snapshot.ensemble()
    ```

    Reference:
        Huang et al., 2017, arXiv:1704.00109.
    """

    keeps_if_stopped = False

    def __init__(
        self, directory: PathLike, num_members: int = 5, cycle_epochs: int = 40
    ) -> None:
        check_count("num_members", num_members)
        check_count("cycle_epochs", cycle_epochs)
        super().__init__(directory, monitor=None, mode="auto")
        self.num_members = num_members
        self.cycle_epochs = cycle_epochs

    @property
    def epochs(self) -> int:
        return self.num_members * self.cycle_epochs

    def ticket_file(self, epoch: int) -> str | None:
        cycle = epoch // self.cycle_epochs
        return f"ticket_{cycle}.keras" if epoch < self.epochs else None

    def is_last(self, epoch: int) -> bool:
        return (epoch + 1) % self.cycle_epochs == 0

    def phase_name(self, epoch: int) -> str:
        return f"cycle_{epoch // self.cycle_epochs + 1}"

    def set_model(self, model: Model) -> None:
        super().set_model(model)
        claim(self, SETS_THE_RATE)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        epochs, steps = self.params.get("epochs"), self.params.get("steps")
        if epochs is not None and epochs < self.epochs:
            raise ValueError(
                f"`epochs` must be at least {self.epochs}, which the cycles "
                f"need: fit(..., epochs=snapshot.epochs). Received: "
                f"epochs={epochs}"
            )
        if int(keras.ops.convert_to_numpy(self.model.optimizer.iterations)):
            raise ValueError(
                "`optimizer` must be new, because cycles start at its first "
                "step: compile the model again. Received: an optimizer after "
                f"{int(self.model.optimizer.iterations)} steps"
            )
        if not steps:
            raise ValueError(
                "`steps_per_epoch` must be given, because the size of the data "
                f"is unknown. Received: steps_per_epoch={steps}"
            )
        self._set_schedule(steps * self.cycle_epochs)

    def on_train_end(self, logs: Logs | None = None) -> None:
        super().on_train_end(logs)
        self.warn_of_missing(self.num_members)

    def _set_schedule(self, steps: int) -> None:
        optimizer = self.model.optimizer
        schedule = keras_adapter.learning_rate_schedule(optimizer)
        if schedule is not None:
            raise ValueError(
                "`learning_rate` of the optimizer must be a float, with which "
                "each cycle starts. "
                f"Received: {type(schedule).__name__}"
            )
        rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
        optimizer.learning_rate = (
            keras.optimizers.schedules.CosineDecayRestarts(
                rate, steps, t_mul=1.0, m_mul=1.0
            )
        )
