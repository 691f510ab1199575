"""Callbacks that collect tickets: EDST several per run, DST one per run."""

import typing

from keras_freetickets.arguments import check_count
from keras_freetickets.callbacks.companions import companions_of
from keras_freetickets.callbacks.composite import CompositeCallback
from keras_freetickets.callbacks.drop_and_grow import DropAndGrow
from keras_freetickets.callbacks.drop_and_grow import check_one_model
from keras_freetickets.callbacks.phases import Phase
from keras_freetickets.callbacks.phases import PhaseSchedule
from keras_freetickets.callbacks.phases import check_factors
from keras_freetickets.callbacks.phases import check_global_drop
from keras_freetickets.callbacks.phases import edst_phases
from keras_freetickets.callbacks.ticket_checkpoint import TicketCheckpoint
from keras_freetickets.callbacks.ticket_checkpoint import TicketCollector
from keras_freetickets.callbacks.weight_averaging import WeightAveraging
from keras_freetickets.ensembles.ensemble_model import EnsembleModel
from keras_freetickets.ensembles.ticket_files import TicketStore
from keras_freetickets.signatures import ShowsArguments
from keras_freetickets.topology.methods import Method
from keras_freetickets.topology.methods import get
from keras_freetickets.types import Logs
from keras_freetickets.types import Model
from keras_freetickets.types import PathLike

__all__ = ["DST", "EDST", "Phase", "check_factors", "check_global_drop"]


def _drop_and_grow(
    name: str,
    method: typing.Any,
    track_ever_active: bool,
    settings: dict[str, typing.Any],
    others: dict[str, typing.Any],
) -> DropAndGrow:
    """`DropAndGrow` with `method`, or with FreeTickets' own if it is None."""
    method = get(method) if isinstance(method, dict) else method
    method = "drop_and_grow" if method is None else method
    known = isinstance(method, (str, Method))
    if known and WeightAveraging in companions_of(method):
        raise ValueError(
            f"`method` must be one that {name} can train with: CigL averages "
            "the weights when training ends, but tickets are saved before. "
            "Train with keras_freetickets.callbacks.CigL instead. "
            f"Received: method={method}"
        )
    given = {n: value for n, value in settings.items() if value is not None}
    return DropAndGrow(method, track_ever_active, **given, **others)


class _CollectsTickets(ShowsArguments, CompositeCallback):
    """Base of EDST and DST: a method, and tickets in a directory."""

    forwards_to = Method

    def __init__(
        self,
        drop_and_grow: DropAndGrow,
        tickets: TicketCollector,
        between: tuple[PhaseSchedule, ...] = (),
    ) -> None:
        super().__init__([drop_and_grow, *between, tickets])
        self.drop_and_grow = drop_and_grow
        self.tickets = tickets

    @classmethod
    def _check_arguments(cls, given: dict[str, typing.Any]) -> None:
        # An explicit method checks its arguments itself.
        if given.get("method") is None:
            super()._check_arguments(given)

    @property
    def method(self) -> Method:
        return self.drop_and_grow.method

    @property
    def directory(self) -> str:
        return self.tickets.directory

    @property
    def store(self) -> TicketStore:
        return self.tickets.store

    def ensemble(self, **kwargs: typing.Any) -> EnsembleModel:
        """Returns the `EnsembleModel` of the collected tickets.

        Args:
            **kwargs: Further arguments of `EnsembleModel`.
        """
        return self.tickets.ensemble(**kwargs)


class EDST(_CollectsTickets):
    """Collects several tickets in one run: the EDST ensemble.

    Training starts with an exploration phase at a high learning rate, followed
    by refinement phases at lower rates. The topology is updated throughout,
    and each refinement gives a ticket. The first batch of every refinement,
    except the first, replaces a large share of the connections at once, to
    leave the loss basin of the previous ticket. If a regular update is due
    with that batch, only this large one takes place (the code of FreeTickets
    makes both).

    Args:
        exploration_epochs: Positive integer.
        refinement_epochs: Positive integer, epochs of each refinement.
        num_tickets: Positive integer. Defaults to 3 (paper, CIFAR at sparsity
            0.8).
        growth: `"gradient"` (README of the paper's code) or `"random"`. `None`
            (default) for `"gradient"`, or the default of `method`.
        update_interval: Optimizer updates between topology updates. `None`
            (default) for 1000 (paper, CIFAR, batches of 128), or the default
            of `method`.
        drop_fraction: Float in [0, 1] or a schedule. `None` (default) for 0.5
            (paper and README of its code; constant in that code's CIFAR
            scripts), or the default of `method`.
        global_drop_fraction: Float in (0, 1], the share replaced between
            refinements. Defaults to 0.8 (paper and README of its code).
        learning_rate: `"paper"` (default) multiplies the compiled learning
            rate by 1 in exploration, by 0.1 in the first half and by 0.01 in
            the second half of each refinement. Or three factors of your own,
            or `None` to leave the rate unchanged.
        monitor: Name of the epoch log whose best value selects a refinement's
            ticket. `None` for the last epoch. Defaults to `"val_accuracy"`.
        directory: Directory of the tickets.
        mode: `"max"`, `"min"` or `"auto"`: the metric's own direction, as
            `keras.callbacks.EarlyStopping` infers it.
        track_ever_active: As for `DropAndGrow`.
        method: A `keras_freetickets.topology.Method` or its name, such as
            `"dst_ee"`. `None` for `Method`, which drops by magnitude and
            grows as `growth` says. Methods that average weights (`CigL`) are
            refused.
        counters: `"shared"` (default): the state of connections, such as the
            visits of `DSTEE`, continues over all tickets, so later tickets
            prefer connections that earlier ones never used. `"per_member"`:
            it starts again with each refinement except the first. (No paper
            uses DST-EE in an ensemble.)
        **kwargs: Arguments of the method, unless `method` is an object, and of
            the callbacks that it needs (`data` of `AGENT`).

    Attributes:
        epochs: Integer, the epochs to pass to `fit`.
        phases: List of `Phase`.

    Raises:
        ValueError: If an argument is out of range, the directory is not
            writable, `fit` has fewer epochs than the phases need, or the
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

    forwards_to = Method

    def __init__(
        self,
        exploration_epochs: int,
        refinement_epochs: int,
        num_tickets: int = 3,
        growth: typing.Any = None,
        update_interval: int | None = None,
        drop_fraction: typing.Any = None,
        global_drop_fraction: float = 0.8,
        learning_rate: typing.Any = "paper",
        monitor: str | None = "val_accuracy",
        directory: PathLike = "tickets",
        mode: str = "auto",
        track_ever_active: bool = False,
        method: typing.Any = None,
        counters: str = "shared",
        **kwargs: typing.Any,
    ) -> None:
        check_count("exploration_epochs", exploration_epochs)
        check_count("refinement_epochs", refinement_epochs)
        check_count("num_tickets", num_tickets)
        settings = {
            "growth": growth,
            "update_interval": update_interval,
            "drop_fraction": drop_fraction,
        }
        drop_and_grow = _drop_and_grow(
            "EDST", method, track_ever_active, settings, kwargs
        )
        self.schedule = PhaseSchedule(
            drop_and_grow,
            edst_phases(exploration_epochs, refinement_epochs, num_tickets),
            learning_rate,
            global_drop_fraction,
            counters,
        )
        self.num_tickets = num_tickets
        tickets = _RefinementTickets(self.schedule, directory, monitor, mode)
        super().__init__(drop_and_grow, tickets, (self.schedule,))

    @property
    def phases(self) -> list[Phase]:
        return self.schedule.phases

    @property
    def epochs(self) -> int:
        return self.schedule.epochs

    def phase_at(self, epoch: int) -> Phase:
        """The phase of an epoch; after the last phase, the last one.

        Args:
            epoch: Non-negative integer, counted from 0.
        """
        return self.schedule.phase_at(epoch)

    def learning_rate_factor(self, epoch: int) -> float | None:
        """The factor of the compiled learning rate in an epoch, or `None`.

        Args:
            epoch: Non-negative integer, counted from 0.
        """
        return self.schedule.learning_rate_factor(epoch)

    def set_model(self, model: Model) -> None:
        # Both may raise; check before a method is attached.
        check_one_model(self, model)
        self.schedule.check_rate(model)
        super().set_model(model)

    def on_train_end(self, logs: Logs | None = None) -> None:
        super().on_train_end(logs)
        self.tickets.warn_of_missing(self.num_tickets)


class _RefinementTickets(TicketCollector):
    """Collects a ticket in each refinement of a `PhaseSchedule`."""

    def __init__(
        self,
        schedule: PhaseSchedule,
        directory: PathLike,
        monitor: str | None,
        mode: str,
    ) -> None:
        super().__init__(directory, monitor, mode)
        self.schedule = schedule

    def phase_name(self, epoch: int) -> str:
        return self.schedule.phase_at(epoch).name

    def ticket_file(self, epoch: int) -> str | None:
        phase = self.schedule.phase_at(epoch)
        if phase.index == 0 or epoch >= phase.stop_epoch:
            return None
        return f"ticket_{phase.index - 1}.keras"

    def is_last(self, epoch: int) -> bool:
        return epoch == self.schedule.phase_at(epoch).stop_epoch - 1


class DST(_CollectsTickets):
    """Collects one ticket of an independent run: a member of a DST ensemble.

    With a `keras_freetickets.SideBySide` it collects a ticket of each member:
    `ticket_0.keras`, `ticket_1.keras` ..., each from the epoch that is best by
    the member's own log (`val_accuracy_0`, `val_accuracy_1` ...).

    Args:
        directory: Directory of the ticket; use one for each run, for example
            named by its seed. Tickets of members side by side share it.
        ticket_name: Name of the file, without `.keras`. Not used for members
            side by side, whose files are numbered.
        growth, update_interval, drop_fraction: As for `EDST`.
        monitor: Name of the epoch log whose best value selects the epoch.
            `None` for the last epoch. Defaults to `"val_accuracy"`.
        mode, track_ever_active, method, **kwargs: As for `EDST`.

    Raises:
        ValueError: If an argument is out of range, the directory is not
            writable, or the monitored log does not exist.

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
        directory: PathLike,
        ticket_name: str = "ticket_0",
        growth: typing.Any = None,
        update_interval: int | None = None,
        drop_fraction: typing.Any = None,
        monitor: str | None = "val_accuracy",
        mode: str = "auto",
        track_ever_active: bool = False,
        method: typing.Any = None,
        **kwargs: typing.Any,
    ) -> None:
        settings = {
            "growth": growth,
            "update_interval": update_interval,
            "drop_fraction": drop_fraction,
        }
        super().__init__(
            _drop_and_grow("DST", method, track_ever_active, settings, kwargs),
            TicketCheckpoint(directory, ticket_name, monitor, mode),
        )
