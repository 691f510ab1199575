"""Callbacks that collect tickets: EDST in one run, DST one a run."""

import dataclasses
import math
import warnings

import numpy as np
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import is_within
from keras_freetickets.callbacks.claims import SETS_THE_RATE
from keras_freetickets.callbacks.claims import claim
from keras_freetickets.callbacks.drop_and_grow import DropAndGrow
from keras_freetickets.callbacks.ticket_checkpoint import TicketCheckpoint
from keras_freetickets.callbacks.ticket_checkpoint import TicketCollector
from keras_freetickets.models.side_by_side import SideBySide
from keras_freetickets.topology.methods import Method

# Factors of the compiled rate: exploration, first and second half of each
# refinement. The paper's 0.1, 0.01 and 0.001 (VITA-Group/FreeTickets).
PAPER_FACTORS = (1.0, 0.1, 0.01)


@dataclasses.dataclass
class Phase:
    """A run of epochs with one purpose.

    The arguments are the attributes.

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
    def middle(self):
        """The first epoch of the second half, rounded up."""
        return self.start_epoch + math.ceil(
            (self.stop_epoch - self.start_epoch) / 2
        )


def check_global_drop(fraction):
    """Raises unless it is a share that may be dropped between refinements.

    Args:
        fraction: Float in (0, 1].

    Raises:
        ValueError: If it is not.

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


def check_factors(learning_rate):
    """The factors of the compiled rate that `learning_rate` stands for.

    Args:
        learning_rate: `"paper"`, three positive factors, or `None`.

    Returns:
        Tuple of three floats, or `None`.

    Raises:
        ValueError: If it is something else.

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


def _method_of(method, growth, update_interval, drop_fraction, kwargs):
    """The method that is given, or one of its arguments."""
    if method is None:
        return Method(
            update_interval=update_interval,
            drop_fraction=drop_fraction,
            growth=growth,
            **kwargs,
        )
    if kwargs:
        raise ValueError(
            "Give either `method` or its arguments. "
            f"Received: method={method} and {sorted(kwargs)}"
        )
    return method


class EDST(TicketCollector, DropAndGrow):
    """Collects several tickets in one run: the EDST ensemble.

    An exploration phase at a high learning rate is followed by refinement
    phases at lower ones; the topology is updated throughout. Each refinement
    yields a ticket. With the first batch of every refinement but the first, a
    large share of the connections is replaced at once, to leave the basin of
    the ticket before. Where an update is due with that batch anyway, there is
    one of that share (the code of FreeTickets makes two).

    Args:
        exploration_epochs: Positive integer.
        refinement_epochs: Positive integer, epochs of each refinement.
        num_tickets: Positive integer. Defaults to 3 (paper, CIFAR at sparsity
            0.8).
        growth: `"gradient"` (default, the code's README) or `"random"`.
        update_interval: Optimizer updates between topology updates. Defaults
            to 1000 (paper, CIFAR, batches of 128).
        drop_fraction: Float in [0, 1] or a schedule. Defaults to 0.5 (paper
            and README of its code; constant in that code's CIFAR scripts).
        global_drop_fraction: Float in (0, 1], the share replaced between
            refinements. Defaults to 0.8 (paper and README of its code).
        learning_rate: `"paper"` for the factors 1, 0.1 and 0.01 of the
            compiled rate in exploration and the first and second half of each
            refinement; three factors of your own; or `None` to leave the rate
            alone.
        monitor: Name of the epoch log whose best value chooses a refinement's
            ticket. `None` for the last epoch. Defaults to `"val_accuracy"`.
        directory: Where the tickets go.
        mode: `"max"`, `"min"` or `"auto"`: the metric's own direction, as
            `keras.callbacks.EarlyStopping` tells it.
        track_ever_active: As for `DropAndGrow`.
        method: A `keras_freetickets.topology.Method` in place of `growth`,
            `update_interval` and `drop_fraction`, e.g. `DSTEE()`.
        counters: `"shared"` (default): what a method counts for each
            connection, such as the visits of `DSTEE`, goes on over all
            tickets, so that later ones are drawn to what earlier ones never
            used; or `"per_member"`: it begins anew with each refinement but
            the first. (No paper has DST-EE in an ensemble.)
        **kwargs: As for `keras_freetickets.topology.Method`.

    Attributes:
        epochs: Integer, the epochs that `fit` is to run.
        phases: List of `Phase`.

    Raises:
        ValueError: If an argument is out of range, the directory cannot be
            written, `fit` has fewer epochs than the phases need, or the
            monitored log does not exist (at the end of the first epoch).

    Example:

    ```python
    edst = keras_freetickets.callbacks.EDST(
        exploration_epochs=150, refinement_epochs=100, directory="tickets"
    )
    model.fit(
        train, validation_data=val, epochs=edst.epochs, callbacks=[edst]
    )
    ensemble = edst.ensemble()
    ```

    Reference:
        Liu et al., 2022, arXiv:2106.14568; defaults from
        VITA-Group/FreeTickets.
    """

    serves_members = False
    forwards_to = Method

    def __init__(
        self,
        exploration_epochs,
        refinement_epochs,
        num_tickets=3,
        growth="gradient",
        update_interval=1000,
        drop_fraction=0.5,
        global_drop_fraction=0.8,
        learning_rate="paper",
        monitor="val_accuracy",
        directory="tickets",
        mode="auto",
        track_ever_active=False,
        method=None,
        counters="shared",
        **kwargs,
    ):
        if counters not in ("shared", "per_member"):
            raise ValueError(
                '`counters` must be "shared" or "per_member". '
                f"Received: counters={counters!r}"
            )
        check_count("exploration_epochs", exploration_epochs)
        check_count("refinement_epochs", refinement_epochs)
        check_count("num_tickets", num_tickets)
        check_global_drop(global_drop_fraction)
        self.factors = check_factors(learning_rate)
        self.learning_rate = learning_rate
        super().__init__(
            directory,
            monitor,
            mode,
            method=_method_of(
                method, growth, update_interval, drop_fraction, kwargs
            ),
            track_ever_active=track_ever_active,
        )
        self.global_drop_fraction = global_drop_fraction
        self.counters = counters
        self.num_tickets = num_tickets
        self._rate = self._set_rate = None
        self._rate_moved = False
        self._global_drops = 0
        self.phases = [Phase("exploration", 0, 0, exploration_epochs)]
        for i in range(1, num_tickets + 1):
            begin = exploration_epochs + (i - 1) * refinement_epochs
            end = begin + refinement_epochs
            self.phases.append(Phase(f"refinement_{i}", i, begin, end))

    @property
    def epochs(self):
        return self.phases[-1].stop_epoch

    def phase_at(self, epoch):
        """The phase of an epoch; after the last, the last."""
        for phase in self.phases:
            if epoch < phase.stop_epoch:
                return phase
        return self.phases[-1]

    def phase_name(self, epoch):
        return self.phase_at(epoch).name

    def learning_rate_factor(self, epoch):
        """The factor of the compiled rate in an epoch, or `None`."""
        if self.factors is None:
            return None
        phase = self.phase_at(epoch)
        if phase.index == 0:
            return self.factors[0]
        return self.factors[1 if epoch < phase.middle else 2]

    def ticket_file(self, epoch):
        phase = self.phase_at(epoch)
        if phase.index == 0 or epoch >= phase.stop_epoch:
            return None
        return f"ticket_{phase.index - 1}.keras"

    def is_last(self, epoch):
        return epoch == self.phase_at(epoch).stop_epoch - 1

    def set_model(self, model):
        rate = None
        if self.factors and getattr(model, "optimizer", None) is not None:
            rate = _compiled_rate(model)  # may refuse, before a method is there
        super().set_model(model)
        self._rate, self._set_rate = rate, None
        self._rate_moved = False
        self._global_drops = 0
        if self.factors:
            claim(self, SETS_THE_RATE)

    def updates_asked_for(self):
        return self._global_drops

    def release(self):
        super().release()
        if self._rate is not None:
            self.model.optimizer.learning_rate = self._rate

    def on_train_end(self, logs=None):
        super().on_train_end(logs)
        self.warn_of_missing(self.num_tickets)

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        epochs = self.params.get("epochs", self.epochs)
        if epochs < self.epochs:
            raise ValueError(
                f"`epochs` must be at least {self.epochs}, what the phases "
                f"need: fit(..., epochs=edst.epochs). Received: epochs={epochs}"
            )

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        phase = self.phase_at(epoch)
        topology = self.model.update_state
        topology.phase.assign(phase.index)
        if phase.index > 1 and epoch == phase.start_epoch:
            topology.global_drop.assign(np.float32(self.global_drop_fraction))
            self._global_drops += 1
            if self.counters == "per_member":
                self.model.run.restart_connection_state()
        if self.factors:
            self._warn_if_the_rate_moved()
            optimizer = self.model.optimizer
            optimizer.learning_rate = self._rate * self.learning_rate_factor(
                epoch
            )
            self._set_rate = _rate_of(optimizer)

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if self.factors:
            self._warn_if_the_rate_moved()

    def _warn_if_the_rate_moved(self):
        """Whoever else sets it would win or lose by its place in the list."""
        # A backup may have restored the rate of a later phase before the first.
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


def _compiled_rate(model):
    schedule = keras_adapter.learning_rate_schedule(model.optimizer)
    if schedule is not None:
        raise ValueError(
            "`learning_rate` of EDST sets the optimizer's rate, which must be "
            "a float then; pass EDST(learning_rate=None) to keep a schedule. "
            f"Received: optimizer with {type(schedule).__name__}"
        )
    return _rate_of(model.optimizer)


def _rate_of(optimizer):
    return float(ops.convert_to_numpy(optimizer.learning_rate))


class DST(TicketCheckpoint, DropAndGrow):
    """Collects one ticket of an independent run: a member of a DST ensemble.

    Of a `keras_freetickets.SideBySide` it collects a ticket of each member:
    `ticket_0.keras`, `ticket_1.keras` ..., each of the epoch that is best by
    the member's own log (`val_accuracy_0`, `val_accuracy_1` ...).

    Args:
        directory: Where the ticket goes; one for each run, e.g. by its seed.
            Tickets of members side by side go there together.
        ticket_name: Name of the file, without `.keras`. Not for members side
            by side, whose files have numbers.
        growth: `"gradient"` (default) or `"random"`.
        update_interval: Optimizer updates between topology updates. Defaults
            to 1000 (paper, CIFAR, batches of 128).
        drop_fraction: Float in [0, 1] or a schedule. Defaults to 0.5 (paper
            and README of its code).
        monitor: Name of the epoch log whose best value chooses the epoch.
            `None` for the last epoch. Defaults to `"val_accuracy"`.
        mode: `"max"`, `"min"` or `"auto"`: the metric's own direction, as
            `keras.callbacks.EarlyStopping` tells it.
        track_ever_active: As for `DropAndGrow`.
        method: A `keras_freetickets.topology.Method` in place of `growth`,
            `update_interval` and `drop_fraction`, e.g. `DSTEE()`.
        **kwargs: As for `keras_freetickets.topology.Method`.

    Raises:
        ValueError: If an argument is out of range, the directory cannot be
            written, or the monitored log does not exist.

    Example:

    ```python
    for seed in range(3):
        dst = keras_freetickets.callbacks.DST(f"run/seed_{seed}", seed=seed)
        model.fit(train, validation_data=val, epochs=250, callbacks=[dst])
    ```

    Reference:
        Liu et al., 2022, arXiv:2106.14568.
    """

    forwards_to = Method

    def __init__(
        self,
        directory,
        ticket_name="ticket_0",
        growth="gradient",
        update_interval=1000,
        drop_fraction=0.5,
        monitor="val_accuracy",
        mode="auto",
        track_ever_active=False,
        method=None,
        **kwargs,
    ):
        super().__init__(
            directory,
            ticket_name,
            monitor,
            mode,
            method=_method_of(
                method, growth, update_interval, drop_fraction, kwargs
            ),
            track_ever_active=track_ever_active,
        )

    def candidates(self, epoch):
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
