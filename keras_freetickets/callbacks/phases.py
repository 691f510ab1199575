"""Phases of a training: their learning rates, and the drops between them."""

import dataclasses
import math
import typing
import warnings
from collections.abc import Sequence

import keras
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.arguments import check_choice
from keras_freetickets.arguments import is_within
from keras_freetickets.callbacks.claims import SETS_THE_RATE
from keras_freetickets.callbacks.claims import claim
from keras_freetickets.callbacks.claims import end_claims
from keras_freetickets.callbacks.drop_and_grow import DropAndGrow
from keras_freetickets.types import Logs
from keras_freetickets.types import Model
from keras_freetickets.types import Optimizer

# Factors of the compiled rate: exploration, first and second half of each
# refinement. The paper's 0.1, 0.01 and 0.001 (VITA-Group/FreeTickets).
PAPER_FACTORS = (1.0, 0.1, 0.01)


@dataclasses.dataclass
class Phase:
    """Consecutive epochs with one purpose.

    The arguments are also the attributes.

    Args:
        name: `"exploration"` or `"refinement_1"`, `"refinement_2"` ...
        index: Integer, 0 for exploration.
        start_epoch: First epoch, counted from 0.
        stop_epoch: The epoch after the last.

    Example:

    ```python
    edst.phases[1]  # Phase("refinement_1", 1, start_epoch=150, stop_epoch=250)
    ```
    """

    name: str
    index: int
    start_epoch: int
    stop_epoch: int

    @property
    def middle(self) -> int:
        """The first epoch of the second half, rounded up."""
        return self.start_epoch + math.ceil(
            (self.stop_epoch - self.start_epoch) / 2
        )


def check_global_drop(fraction: typing.Any) -> None:
    """Raises unless it is a share to replace between refinements.

    Args:
        fraction: Float in (0, 1].

    Raises:
        ValueError: If it is not a number in (0, 1].

    Example:

    ```python
    check_global_drop(0.8)
    ```
    """
    if not is_within(fraction, "(0, 1]"):
        raise ValueError(
            "`global_drop_fraction` must be in (0, 1]. Received: "
            f"global_drop_fraction={fraction}"
        )


def check_factors(
    learning_rate: typing.Any,
) -> tuple[float, ...] | None:
    """The factors of the compiled learning rate that `learning_rate` means.

    Args:
        learning_rate: `"paper"`, three positive factors, or `None`.

    Returns:
        Tuple of three floats, or `None`.

    Raises:
        ValueError: If `learning_rate` is none of these.

    Example:

    ```python
    check_factors("paper")  # (1.0, 0.1, 0.01)
    ```
    """
    if learning_rate is None or learning_rate == "paper":
        return PAPER_FACTORS if learning_rate else None
    try:
        factors = tuple(float(factor) for factor in learning_rate)
    except (TypeError, ValueError):
        factors = ()
    if len(factors) != 3 or not all(0 < f < math.inf for f in factors):
        raise ValueError(
            '`learning_rate` must be "paper", None, or three positive factors '
            "of the compiled rate: for exploration and for the first and the "
            "second half of each refinement. "
            f"Received: learning_rate={learning_rate}"
        )
    return factors


def edst_phases(
    exploration_epochs: int, refinement_epochs: int, num_tickets: int
) -> list[Phase]:
    """The phases of EDST: exploration, and a refinement for each ticket.

    Args:
        exploration_epochs: Positive integer.
        refinement_epochs: Positive integer, epochs of each refinement.
        num_tickets: Positive integer, the number of refinements.

    Returns:
        List of `Phase`.

    Example:

    ```python
    edst_phases(150, 100, num_tickets=3)[-1].stop_epoch  # 450
    ```
    """
    phases = [Phase("exploration", 0, 0, exploration_epochs)]
    for i in range(1, num_tickets + 1):
        start = phases[-1].stop_epoch
        stop = start + refinement_epochs
        phases.append(Phase(f"refinement_{i}", i, start, stop))
    return phases


class PhaseSchedule(keras.callbacks.Callback):
    """Sets the learning rate of each phase, and drops between refinements.

    The first batch of every refinement, except the first, replaces a large
    share of the connections at once, to leave the loss basin of the previous
    ticket.

    Args:
        drop_and_grow: The `DropAndGrow` of the same training, earlier in the
            list of callbacks.
        phases: List of `Phase`, in the order of their epochs.
        learning_rate: As for `EDST`.
        global_drop_fraction: As for `EDST`.
        counters: As for `EDST`.

    Raises:
        ValueError: If an argument is out of range, the optimizer has a
            learning rate schedule, or `fit` has fewer epochs than the phases.

    Example:

    ```python
    phases = edst_phases(150, 100, num_tickets=3)
    drop_and_grow = DropAndGrow("set")
    parts = [drop_and_grow, PhaseSchedule(drop_and_grow, phases)]
    ```
    """

    def __init__(
        self,
        drop_and_grow: DropAndGrow,
        phases: Sequence[Phase],
        learning_rate: typing.Any = "paper",
        global_drop_fraction: float = 0.8,
        counters: str = "shared",
    ) -> None:
        super().__init__()
        check_global_drop(global_drop_fraction)
        check_choice("counters", counters, ("shared", "per_member"))
        self.factors = check_factors(learning_rate)
        self.learning_rate = learning_rate
        self.drop_and_grow = drop_and_grow
        self.phases = list(phases)
        self.global_drop_fraction = global_drop_fraction
        self.counters = counters
        self._rate: float | None = None
        self._set_rate: float | None = None
        self._rate_moved = False

    @property
    def epochs(self) -> int:
        """The epochs that the phases need."""
        return self.phases[-1].stop_epoch

    def phase_at(self, epoch: int) -> Phase:
        """The phase of an epoch; after the last phase, the last one.

        Args:
            epoch: Non-negative integer, counted from 0.
        """
        for phase in self.phases:
            if epoch < phase.stop_epoch:
                return phase
        return self.phases[-1]

    def learning_rate_factor(self, epoch: int) -> float | None:
        """The factor of the compiled learning rate in an epoch, or `None`.

        Args:
            epoch: Non-negative integer, counted from 0.
        """
        if self.factors is None:
            return None
        phase = self.phase_at(epoch)
        if phase.index == 0:
            return self.factors[0]
        return self.factors[1 if epoch < phase.middle else 2]

    def check_rate(self, model: Model) -> None:
        """Raises if the optimizer's learning rate cannot be set.

        Args:
            model: A compiled Keras model.
        """
        if self.factors and getattr(model, "optimizer", None) is not None:
            _compiled_rate(model)

    def set_model(self, model: Model) -> None:
        super().set_model(model)
        self._rate = self._set_rate = None
        self._rate_moved = False
        if self.factors:
            self._rate = _compiled_rate(model)
            model.run.defer(self._restore_rate)
            claim(self, SETS_THE_RATE)

    def _restore_rate(self) -> None:
        self.model.optimizer.learning_rate = self._rate

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        epochs = self.params.get("epochs", self.epochs)
        if epochs < self.epochs:
            raise ValueError(
                f"`epochs` must be at least {self.epochs}, which the phases "
                f"need: fit(..., epochs=edst.epochs). Received: epochs={epochs}"
            )

    def on_train_end(self, logs: Logs | None = None) -> None:
        super().on_train_end(logs)
        end_claims(self)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        phase = self.phase_at(epoch)
        self.model.update_state.phase.assign(phase.index)
        if phase.index > 1 and epoch == phase.start_epoch:
            self.drop_and_grow.replace_once(self.global_drop_fraction)
            if self.counters == "per_member":
                self.model.run.restart_connection_state()
        factor = self.learning_rate_factor(epoch)
        if self._rate is not None and factor is not None:
            self._warn_if_the_rate_moved()
            self.model.optimizer.learning_rate = self._rate * factor
            self._set_rate = _rate_of(self.model.optimizer)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_end(epoch, logs)
        if self.factors:
            self._warn_if_the_rate_moved()

    def _warn_if_the_rate_moved(self) -> None:
        """Warns if another callback sets the rate: its order would matter."""
        # Before the first epoch, a backup may have restored a later rate.
        found = _rate_of(self.model.optimizer)
        if self._set_rate not in (None, found) and not self._rate_moved:
            self._rate_moved = True
            warnings.warn(
                "Something else sets the learning rate, which "
                f"EDST(learning_rate={self.learning_rate!r}) sets for each "
                "phase: remove callbacks such as LearningRateScheduler and "
                "ReduceLROnPlateau, or leave the rate to them with "
                f"EDST(learning_rate=None). EDST had set {self._set_rate:.3g}, "
                f"found {found:.3g}.",
                stacklevel=3,
            )


def _compiled_rate(model: Model) -> float:
    schedule = keras_adapter.learning_rate_schedule(model.optimizer)
    if schedule is not None:
        raise ValueError(
            "EDST sets the optimizer's `learning_rate`, which must therefore "
            "be a float. To keep a schedule pass EDST(learning_rate=None). "
            f"Received: optimizer with {type(schedule).__name__}"
        )
    return _rate_of(model.optimizer)


def _rate_of(optimizer: Optimizer) -> float:
    return float(ops.convert_to_numpy(optimizer.learning_rate))
