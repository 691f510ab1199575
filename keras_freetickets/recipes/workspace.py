"""The training runs of an ensemble: their folders, backups and records."""

import dataclasses
import os
import typing
from collections.abc import Callable
from collections.abc import Iterable

import keras
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.callbacks.backup import Backup
from keras_freetickets.callbacks.cost import TrainingCost
from keras_freetickets.ensembles.ensemble_model import EnsembleModel
from keras_freetickets.ensembles.outputs import settings_of
from keras_freetickets.ensembles.ticket_files import ticket_paths
from keras_freetickets.ensembles.ticket_files import write_index
from keras_freetickets.files import atomic_path
from keras_freetickets.files import check_directory
from keras_freetickets.files import is_partial
from keras_freetickets.files import read_sealed
from keras_freetickets.files import write_sealed
from keras_freetickets.recipes.run_data import Data
from keras_freetickets.recipes.run_data import data_of_run
from keras_freetickets.types import PathLike

_INDEX = "ensemble.json"
_FINISHED = "run.json"
# Ensembles with seeds 0, 1, 2 ... have no member's seed in common.
_SEED_STRIDE = 1000
# Callbacks of Keras that decide by what they remember of earlier epochs.
_REMEMBERING = (
    keras.callbacks.EarlyStopping,
    keras.callbacks.ReduceLROnPlateau,
)


@dataclasses.dataclass
class TrainingRun:
    """A finished training run that an ensemble was made of.

    The arguments are the attributes.

    Args:
        name: String, the name of its folder.
        history: Dict from the name of a log to its values, one an epoch;
            among them `training_flops` and `seconds`, of
            `keras_freetickets.callbacks.TrainingCost`.

    Example:

    ```python
    sum(run.history["seconds"][-1] for run in recipe.runs)
    ```
    """

    name: str
    history: dict[str, list[float]]


class Workspace:
    """The training runs of one ensemble, their models and their folders.

    `Recipe.fit` makes it and hands it to `Recipe.train`.

    Args:
        make_model: Function from a seed to a model, as for `Recipe.fit`; so
            are the next five.
        compile_model: Function that compiles a model.
        data: Dict with arguments of `keras.Model.fit`, or a function.
        directory: Path.
        seed: Non-negative integer.
        verbose: As for `keras.Model.fit`.
        ensemble_arguments: Dict of further arguments of `EnsembleModel`, or
            `None` (default) for none.

    Attributes:
        runs: List of `TrainingRun`, those that are finished.

    Example:

    ```python
    class TwoStages(keras_freetickets.recipes.Recipe):
        def train(self, work):
            ticket = keras_freetickets.callbacks.TicketCheckpoint
            cost = keras_freetickets.callbacks.TrainingCost("dense")
            first = work.run(
                "first", 0, lambda: work.make_model(work.seed_of(0)), 10,
                lambda folder: [ticket(folder, monitor=None)], cost,
            )
            second = work.run(
                "second", 0, lambda: work.load(first), 5,
                lambda folder: [ticket(folder, monitor=None)], cost,
            )
            return [first, second]
    ```
    """

    def __init__(
        self,
        make_model: Callable[[int], keras.Model],
        compile_model: Callable[[keras.Model], typing.Any],
        data: Data,
        directory: PathLike,
        seed: int,
        verbose: str | int,
        ensemble_arguments: dict[str, typing.Any] | None = None,
    ) -> None:
        self.make_model = make_model
        self.compile_model = compile_model
        self.data = data
        self.directory = str(directory)
        self.seed = seed
        self.verbose = verbose
        self.ensemble_arguments = ensemble_arguments or {}
        self.runs: list[TrainingRun] = []

    def seed_of(self, member: int) -> int:
        """The seed of a member.

        Args:
            member: Non-negative integer.

        Returns:
            Non-negative integer: seed + 1000 member.
        """
        return self.seed + _SEED_STRIDE * member

    def folder(self, name: str) -> str:
        """The path of a run's folder.

        Args:
            name: String, the name of the run.

        Returns:
            String.
        """
        return os.path.join(self.directory, name)

    def claim(self, settings: dict[str, typing.Any]) -> None:
        """Records what is trained here; refuses a directory of another kind.

        Args:
            settings: Dict as `Recipe.settings` returns it.

        Raises:
            ValueError: If the directory holds anything else than an ensemble
                of these settings and this seed.
        """
        check_directory(self.directory)
        wanted = {"settings": {**settings, "seed": self.seed}}
        path = self.folder(_INDEX)
        if os.path.exists(path):
            found = self._read(path, "settings", "all that is in it")
            if found != wanted["settings"]:
                raise ValueError(
                    "`directory` must be new, or hold this very ensemble. "
                    f"Received: directory={self.directory} with {found}, "
                    f"where this one has {wanted['settings']}"
                )
            return
        others = [n for n in os.listdir(self.directory) if not is_partial(n)]
        if others:
            raise ValueError(
                "`directory` must be new, or hold this very ensemble. "
                f"Received: directory={self.directory} with {sorted(others)}"
            )
        with atomic_path(path) as temporary:
            write_sealed(temporary, wanted)

    def _read(self, path: str, name: str, culprit: str) -> typing.Any:
        """What a sealed file holds, or an error that says what to do."""
        try:
            return read_sealed(path, {name})[name]
        except (OSError, ValueError) as error:
            raise ValueError(
                "`directory` holds a damaged record; remove "
                f"{culprit} to train it again. "
                f"Received: directory={self.directory} ({error})"
            ) from error

    def load(self, name: str, file: str = "ticket_0.keras") -> keras.Model:
        """Loads the model that a finished run left.

        Args:
            name: String, the name of the run.
            file: String, the name of the file in its folder.

        Returns:
            A Keras model, not compiled.

        Raises:
            ValueError: If the file is missing or damaged.
        """
        try:
            path = os.path.join(self.folder(name), file)
            return keras.saving.load_model(path, compile=False)
        except Exception as error:
            raise ValueError(
                "`directory` has lost a ticket of a finished run; remove "
                f"'{self.folder(name)}' to train it again. "
                f"Received: directory={self.directory} ({error})"
            ) from error

    def ensemble_of(self, names: Iterable[str]) -> EnsembleModel:
        """Makes the ensemble of the tickets of some runs.

        An index in the directory lists the tickets, so that
        `EnsembleModel.from_tickets(directory)` opens the ensemble later.

        Args:
            names: Names of runs.

        Returns:
            An `EnsembleModel`.

        Raises:
            ValueError: If a ticket is missing or damaged, or they do not make
                an ensemble.
        """
        try:
            folders = [self.folder(name) for name in names]
            paths = [p for folder in folders for p in ticket_paths(folder)]
            write_index(self.directory, paths)
            return EnsembleModel.from_tickets(
                self.directory, **self.ensemble_arguments
            )
        except ValueError as error:
            raise ValueError(
                "`directory` holds tickets that make no ensemble; where one "
                "is lost or damaged, remove the folder that it was in to train "
                "that run again. "
                f"Received: directory={self.directory} ({error})"
            ) from error

    def run(
        self,
        name: str,
        member: int,
        make: Callable[[], keras.Model],
        epochs: int,
        callbacks: Callable[[str], list[keras.callbacks.Callback]],
        cost: TrainingCost,
        factor: Callable[[int], float] | None = None,
    ) -> str:
        """Runs the training unless it is complete.

        Args:
            name: String, the name of the run and of its folder.
            member: Non-negative integer, the member whose seed and data the
                run has.
            make: Function that makes the model, not compiled.
            epochs: Positive integer.
            callbacks: Function from the run's folder to a list of callbacks,
                one of which writes tickets there.
            cost: `keras_freetickets.callbacks.TrainingCost`.
            factor: Function from an epoch to the factor of the compiled
                learning rate; `None` (default) to leave the rate alone.

        Returns:
            The name.

        Raises:
            ValueError: If what `make_model`, `compile_model` or `data` give
                cannot be trained, or the record of the run is damaged.
        """
        folder = self.folder(name)
        finished = os.path.join(folder, _FINISHED)
        backup = Backup(os.path.join(folder, "backup"))
        if not os.path.exists(finished):
            self._print(f"{name}: {epochs} epochs")
            own: list[keras.callbacks.Callback] = []
            own += [] if factor is None else [_Rate(factor)]
            own += [cost, *callbacks(folder)]
            self._train(name, member, make, epochs, own, backup)
            with atomic_path(finished) as temporary:
                write_sealed(temporary, {"history": backup.history})
        # Not before the run is known to be finished.
        backup.delete()
        history = self._read(finished, "history", f"'{folder}'")
        self.runs.append(TrainingRun(name, history))
        return name

    def _train(
        self,
        name: str,
        member: int,
        make: Callable[[], keras.Model],
        epochs: int,
        own: list[keras.callbacks.Callback],
        backup: Backup,
    ) -> None:
        seed = self.seed_of(member)
        keras.utils.set_random_seed(seed)
        model = make()
        _check_made(model)
        self.compile_model(model)
        if not model.compiled:
            raise ValueError(
                "`compile_model` must compile the model it is given. "
                f"Received: {self.compile_model}"
            )
        self._check_readable(model)
        arguments = data_of_run(self.data, seed, member, name)
        given = arguments.pop("callbacks", [])
        backup.callbacks = [c for c in given if isinstance(c, _REMEMBERING)]
        model.fit(
            **arguments,
            epochs=epochs,
            verbose=self.verbose,
            callbacks=[*given, *own, backup],
        )

    def _check_readable(self, model: keras.Model) -> None:
        """Raises early for models whose outputs an ensemble cannot read."""
        if not getattr(model, "outputs", None):
            return  # MIMO, whose predictor returns probabilities
        given = self.ensemble_arguments
        if len(model.outputs) != 1:
            raise ValueError(
                "`make_model` must return models with one output, of which an "
                "ensemble can be made. Train those of several outputs with "
                "`callbacks`, whose tickets `keras.saving.load_model` reads. "
                f"Received: a model with {len(model.outputs)} outputs"
            )
        try:
            settings_of([model], given.get("from_logits"), given.get("pooling"))
        except ValueError as error:
            raise ValueError(
                "`make_model` and `compile_model` must give models whose "
                "outputs an ensemble can read; arguments of EnsembleModel may "
                f"be passed to `fit`. {error}"
            ) from error

    def _print(self, text: str) -> None:
        if self.verbose:
            print(text, flush=True)


class _Rate(keras.callbacks.Callback):
    """Sets the rate of each epoch to a factor of the compiled one."""

    def __init__(self, factor: Callable[[int], float]):
        super().__init__()
        self.factor = factor

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        optimizer = model.optimizer
        if keras_adapter.learning_rate_schedule(optimizer) is not None:
            raise ValueError(
                "`compile_model` must give the optimizer a rate that is a "
                "number, as the recipe changes it; or pass the recipe "
                "learning_rate=None to keep a schedule"
            )
        self.rate = float(ops.convert_to_numpy(optimizer.learning_rate))

    def on_epoch_begin(
        self, epoch: int, logs: dict[str, typing.Any] | None = None
    ) -> None:
        self.model.optimizer.learning_rate = self.rate * self.factor(epoch)


def _check_made(model: typing.Any) -> None:
    if not isinstance(model, keras.Model):
        raise ValueError(
            "`make_model` must return a Keras model. "
            f"Received: {type(model).__name__}"
        )


def step_decay(epochs: int) -> Callable[[int], float]:
    """Factors of the learning rate: 1, then 0.1 and 0.01 in the last quarters.

    Args:
        epochs: Positive integer, epochs of the training.

    Returns:
        Function from an epoch, counted from 0, to a float: 0.1 from epoch
        `epochs // 2` on, 0.01 from epoch `epochs * 3 // 4` on.

    Example:

    >>> [step_decay(4)(epoch) for epoch in range(4)]
    [1.0, 1.0, 0.1, 0.010000000000000002]

    Reference:
        VITA-Group/FreeTickets: 250 epochs, drops after 125 and 187.
    """
    return lambda epoch: (
        0.1 ** ((epoch >= epochs // 2) + (epoch >= epochs * 3 // 4))
    )
