"""Callbacks that collect tickets from any model, dense or sparse."""

import math
import os
import typing
import warnings
from collections.abc import Callable

import keras

from keras_freetickets import keras_adapter
from keras_freetickets.callbacks.claims import SingleWriter
from keras_freetickets.callbacks.claims import claim
from keras_freetickets.callbacks.claims import end_claims
from keras_freetickets.callbacks.claims import name_of
from keras_freetickets.callbacks.composite import CompositeCallback
from keras_freetickets.ensembles.ensemble_model import EnsembleModel
from keras_freetickets.ensembles.ticket_files import TicketEntry
from keras_freetickets.ensembles.ticket_files import TicketStore
from keras_freetickets.files import check_directory
from keras_freetickets.models.side_by_side import SideBySide
from keras_freetickets.types import Logs
from keras_freetickets.types import Model
from keras_freetickets.types import PathLike

_MONITOR_MODES = ("auto", "min", "max")


def _check_mode(mode: typing.Any) -> None:
    if mode not in _MONITOR_MODES:
        raise ValueError(
            f"`mode` must be one of {list(_MONITOR_MODES)}. "
            f"Received: mode={mode}"
        )


class TicketCollector(keras.callbacks.Callback):
    """Base class: saves the best epoch of each phase of a training as a ticket.

    A subclass defines `ticket_file` and `is_last`.

    Args:
        directory: Directory of the tickets.
        monitor: Name of the epoch log whose best value selects the ticket of
            a phase. `None` for its last epoch.
        mode: `"max"`, `"min"` or `"auto"`: the metric's own direction.

    Attributes:
        owner: The composite callback that contains this one, or `None`.

    Raises:
        ValueError: If an argument is wrong, the directory is not writable, or
            the monitored log does not exist.

    Example:

    ```python
    class Last(TicketCollector):
        def ticket_file(self, epoch):
            return "ticket_0.keras"

        def is_last(self, epoch):
            return epoch == self.params["epochs"] - 1
    ```
    """

    # Whether the last epoch of an interrupted phase is saved as a ticket.
    keeps_if_stopped = True

    def __init__(
        self, directory: PathLike, monitor: str | None, mode: str
    ) -> None:
        super().__init__()
        self.owner: CompositeCallback | None = None
        check_directory(directory)
        self.directory = str(directory)
        self.monitor = monitor
        self.mode = mode
        self.store = TicketStore(directory)
        self._writer = SingleWriter()
        _check_mode(mode)
        self._improves: Callable[[float, float], typing.Any] | None = None
        self._started = False
        self._latest: dict[str, tuple[Model, TicketEntry]] = {}

    def ticket_file(self, epoch: int) -> str | None:
        """Name of the ticket that this epoch may become, or `None`."""
        raise NotImplementedError  # abstract

    def is_last(self, epoch: int) -> bool:
        """Whether no later epoch may become the same ticket."""
        raise NotImplementedError  # abstract

    def set_model(self, model: Model) -> None:
        # Any Keras model, or members side by side.
        members = model.members if isinstance(model, SideBySide) else [model]
        tickets = [ticket_of(one) for one in members]
        if not all(getattr(one, "outputs", None) for one in tickets):
            raise ValueError(
                f"{name_of(self)} collects tickets of functional models. "
                "Make yours with keras_freetickets.sparsify or "
                "SparseModel(inputs, outputs). Received: model of type "
                f"{type(model).__name__}"
            )
        super().set_model(model)
        self._writer.check(self)
        folder = os.path.realpath(self.directory)
        claim(self, f"writes tickets to '{folder}'")

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        self._started = False
        self._latest = {}

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        if not self._started:
            # Only now is it known at which epoch a resumed run continues.
            self.store.forget_from(epoch)
            self._started = True

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_end(epoch, logs)
        for model, monitor, file in self.candidates(epoch):
            value = self._monitored(monitor, logs or {})
            if file is not None:
                self._keep_if_best(model, file, epoch, value)

    def warn_of_missing(self, wanted: int) -> None:
        """Warns if a finished training left too few tickets."""
        found = len(self.store.read())
        if found < wanted:
            warnings.warn(
                f"Training ended before all {wanted} tickets were saved: "
                f"'{self.directory}' holds {found}.",
                stacklevel=3,
            )

    def candidates(
        self, epoch: int
    ) -> list[tuple[Model, str | None, str | None]]:
        """List of models, their monitored logs and their ticket files."""
        return [(self.model, self.monitor, self.ticket_file(epoch))]

    def _keep_if_best(
        self, model: Model, file: str, epoch: int, value: float | None
    ) -> None:
        entry = self._entry(file, epoch, value)
        if self.monitor is None:
            self._latest[file] = (model, entry)
            stops = self.keeps_if_stopped and self.model.stop_training
            if self.is_last(epoch) or stops:
                self._save_latest()
        elif self._is_better(value, self.store.read().get(file)):
            self.store.save(ticket_of(model), entry)

    def _save_latest(self) -> None:
        for model, entry in self._latest.values():
            self.store.save(ticket_of(model), entry)
        self._latest = {}

    def on_train_end(self, logs: Logs | None = None) -> None:
        super().on_train_end(logs)
        if self.keeps_if_stopped:
            # Another callback may have ended the training.
            self._save_latest()
        end_claims(self)

    def _monitored(self, monitor: str | None, logs: Logs) -> float | None:
        """The monitored value of an epoch; `None` for NaN."""
        if monitor is None or self.monitor is None:
            return None
        if monitor not in logs:
            raise ValueError(
                "`monitor` must be one of the epoch's logs, "
                f"{sorted(logs)}; names with `val_` need `validation_data`. "
                f"Received: monitor={self.monitor!r}"
            )
        if self._improves is None:
            self._improves = keras_adapter.improvement_of(
                self.model, self.monitor, self.mode
            )
        value = float(logs[monitor])
        return None if math.isnan(value) else value

    def _is_better(
        self, value: float | None, held: dict[str, typing.Any] | None
    ) -> bool:
        if held is None or held["value"] is None:
            return True
        if value is None or self._improves is None:
            return False
        return bool(self._improves(value, held["value"]))

    def _entry(self, file: str, epoch: int, value: float | None) -> TicketEntry:
        return {
            "file": file,
            "phase": self.phase_name(epoch),
            "epoch": epoch,
            "monitor": self.monitor,
            "value": value,
        }

    def phase_name(self, epoch: int) -> str:
        """The name of the phase of an epoch."""
        return "run"

    def ensemble(self, **kwargs: typing.Any) -> EnsembleModel:
        """Returns the `EnsembleModel` of the collected tickets.

        Args:
            **kwargs: Further arguments of `EnsembleModel`.
        """
        from keras_freetickets.ensembles.ensemble_model import EnsembleModel

        return EnsembleModel.from_tickets(self.directory, **kwargs)


def ticket_of(model: Model) -> Model:
    """The model to save as a ticket: the model, or the predictor of a `MIMO`.

    Args:
        model: A Keras model.

    Returns:
        A Keras model.

    Example:

    ```python
    ticket_of(mimo).save("ticket_0.keras")
    ```
    """
    return model.predictor() if hasattr(model, "predictor") else model


def _check_ticket_name(name: typing.Any) -> None:
    """Raises unless it is a file name without a folder."""
    if not isinstance(name, str) or not name or os.sep in name:
        raise ValueError(
            "`ticket_name` must be a file name without a folder. "
            f"Received: ticket_name={name}"
        )


class TicketCheckpoint(TicketCollector):
    """Collects one ticket of a run of any model, dense or sparse.

    Use it for ensemble members with static masks or without masks. `DST` also
    collects one ticket, and lets a method change the connections.

    With a `keras_freetickets.SideBySide` it collects a ticket of each member:
    `ticket_0.keras`, `ticket_1.keras` ..., each from the epoch that is best by
    the member's own log (`val_accuracy_0`, `val_accuracy_1` ...).

    Args:
        directory: Directory of the ticket; use one for each run, for example
            named by its seed.
        ticket_name: Name of the file, without `.keras`.
        monitor: Name of the epoch log whose best value selects the epoch.
            `None` for the last epoch. Defaults to `"val_accuracy"`
            (VITA-Group/FreeTickets).
        mode: `"max"`, `"min"` or `"auto"`: the metric's own direction, as
            `keras.callbacks.EarlyStopping` infers it.

    Raises:
        ValueError: If an argument is wrong, the directory is not writable, or
            the monitored log does not exist.

    Example:

    ```python
    ticket = keras_freetickets.callbacks.TicketCheckpoint("run/seed_0")
    model.fit(train, validation_data=val, epochs=250, callbacks=[ticket])
    ```
    """

    def __init__(
        self,
        directory: PathLike,
        ticket_name: str = "ticket_0",
        monitor: str | None = "val_accuracy",
        mode: str = "auto",
    ) -> None:
        _check_ticket_name(ticket_name)
        super().__init__(directory, monitor, mode)
        self.ticket_name = ticket_name

    def ticket_file(self, epoch: int) -> str | None:
        return f"{self.ticket_name}.keras"

    def is_last(self, epoch: int) -> bool:
        return epoch == self.params.get("epochs", epoch + 1) - 1

    def candidates(
        self, epoch: int
    ) -> list[tuple[Model, str | None, str | None]]:
        if not isinstance(self.model, SideBySide):
            return super().candidates(epoch)
        return [
            (
                member,
                None if self.monitor is None else f"{self.monitor}_{i}",
                f"ticket_{i}.keras",
            )
            for i, member in enumerate(self.model.members)
        ]
