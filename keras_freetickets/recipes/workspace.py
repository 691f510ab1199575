"""The runs that an ensemble is made of: folders, backups, records."""

import dataclasses
import inspect
import os

import keras
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.callbacks.backup import Backup
from keras_freetickets.ensembles.ensemble_model import EnsembleModel
from keras_freetickets.ensembles.ticket_files import ticket_paths
from keras_freetickets.ensembles.ticket_files import write_index
from keras_freetickets.files import atomic_path
from keras_freetickets.files import check_directory
from keras_freetickets.files import is_partial
from keras_freetickets.files import read_sealed
from keras_freetickets.files import write_sealed

_INDEX = "ensemble.json"
_FINISHED = "run.json"
# Members of runs with seeds 0, 1, 2 ... share none.
_SEEDS_APART = 1000
# Callbacks of Keras that decide by what they remember of earlier epochs.
_REMEMBERING = (
    keras.callbacks.EarlyStopping,
    keras.callbacks.ReduceLROnPlateau,
)


@dataclasses.dataclass
class TrainingRun:
    """A finished training that an ensemble was made of.

    The arguments are the attributes.

    Args:
        name: String, the name of its folder.
        history: Dict from the name of a log to its values, one an epoch;
            among them `training_flops` and `seconds`, of
            `keras_freetickets.callbacks.TrainingCost`.

    Example:

    ```python
    sum(run.history["seconds"][-1] for run in method.runs)
    ```
    """

    name: str
    history: dict


class Workspace:
    """The runs of one ensemble, their models and their folders.

    Args:
        make_model: As for `Recipe.fit`, and so the others.
        compile_model: Function.
        data: Function or dict.
        directory: Path.
        seed: Natural number.
        verbose: As for `keras.Model.fit`.

    Example:

    ```python
    work = Workspace(make_model, compile_model, data, "run", seed=0, verbose=1)
    ```
    """

    def __init__(
        self, make_model, compile_model, data, directory, seed, verbose
    ):
        self.make_model = make_model
        self.compile_model = compile_model
        self.data_has_seed = callable(data)
        self.data = data if self.data_has_seed else lambda seed: data
        self.directory = str(directory)
        self.seed = seed
        self.verbose = verbose
        self.runs = []

    def seed_of(self, member):
        """The seed of a member, by its number."""
        return self.seed + _SEEDS_APART * member

    def folder(self, name):
        """The path of a run's folder."""
        return os.path.join(self.directory, name)

    def claim(self, settings):
        """Notes what is made here, and refuses what is made elsewhere."""
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

    def _read(self, path, name, culprit):
        """What a sealed file holds, or an error that says what to do."""
        try:
            return read_sealed(path, {name})[name]
        except (OSError, ValueError) as error:
            raise ValueError(
                "`directory` holds a damaged record; remove "
                f"{culprit} to train it again. "
                f"Received: directory={self.directory} ({error})"
            ) from error

    def load(self, name, file="ticket_0.keras"):
        """The model that a run has left."""
        try:
            path = os.path.join(self.folder(name), file)
            return keras.saving.load_model(path, compile=False)
        except Exception as error:
            raise ValueError(
                "`directory` has lost a ticket of a finished run; remove "
                f"'{self.folder(name)}' to train it again. "
                f"Received: directory={self.directory} ({error})"
            ) from error

    def ensemble_of(self, names):
        """The ensemble of the tickets of some runs.

        An index in the directory says which they are, so that its path
        stands for the ensemble from then on.

        Args:
            names: List of the runs' names.
        """
        try:
            folders = [self.folder(name) for name in names]
            paths = [p for folder in folders for p in ticket_paths(folder)]
            write_index(self.directory, paths)
            return EnsembleModel.from_tickets(self.directory)
        except ValueError as error:
            raise ValueError(
                "`directory` holds tickets that make no ensemble; where one "
                "is lost or damaged, remove the folder that it was in to train "
                "that run again. "
                f"Received: directory={self.directory} ({error})"
            ) from error

    def run(self, name, member, make, epochs, callbacks, cost, factor=None):
        """Trains a model, unless that is done.

        Args:
            name: String, the name of the folder.
            member: Integer, whose seed the run has.
            make: Function that makes the model, not compiled.
            epochs: Positive integer.
            callbacks: Function from the run's folder to a list of callbacks.
            cost: `TrainingCost`.
            factor: Function from an epoch to the factor of the compiled
                rate; `None` to leave the rate alone.

        Returns:
            The name.
        """
        folder = self.folder(name)
        finished = os.path.join(folder, _FINISHED)
        backup = Backup(os.path.join(folder, "backup"))
        if not os.path.exists(finished):
            self._tell(f"{name}: {epochs} epochs")
            own = [*([] if factor is None else [_Rate(factor)]), cost]
            own += callbacks(folder)
            self._train(member, make, epochs, own, backup)
            with atomic_path(finished) as temporary:
                write_sealed(temporary, {"history": backup.history})
        # Not before the run is known to be finished.
        backup.delete()
        history = self._read(finished, "history", f"'{folder}'")
        self.runs.append(TrainingRun(name, history))
        return name

    def _train(self, member, make, epochs, own, backup):
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
        arguments = _checked_data(self.data(seed))
        given = arguments.pop("callbacks", [])
        backup.callbacks = [c for c in given if isinstance(c, _REMEMBERING)]
        model.fit(
            **arguments,
            epochs=epochs,
            verbose=self.verbose,
            callbacks=[*given, *own, backup],
        )

    def _tell(self, text):
        if self.verbose:
            print(text, flush=True)


class _Rate(keras.callbacks.Callback):
    """Sets the rate of each epoch to a factor of the compiled one."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def set_model(self, model):
        super().set_model(model)
        optimizer = model.optimizer
        if keras_adapter.learning_rate_schedule(optimizer) is not None:
            raise ValueError(
                "`compile_model` must give the optimizer a rate that is a "
                "number, as the method changes it; or pass the method "
                "learning_rate=None to keep a schedule"
            )
        self.rate = float(ops.convert_to_numpy(optimizer.learning_rate))

    def on_epoch_begin(self, epoch, logs=None):
        self.model.optimizer.learning_rate = self.rate * self.factor(epoch)


def _check_made(model):
    if not isinstance(model, keras.Model):
        raise ValueError(
            "`make_model` must return a Keras model. "
            f"Received: {type(model).__name__}"
        )


# What the methods themselves decide.
_OWN_ARGUMENTS = {"self", "epochs", "initial_epoch", "verbose"}


def _checked_data(arguments):
    """A copy of what `data` gives for `fit`."""
    known = set(inspect.signature(keras.Model.fit).parameters)
    known -= _OWN_ARGUMENTS
    if not isinstance(arguments, dict):
        raise ValueError(
            "`data` must be a dict with arguments of `fit`, or a function from "
            f"a seed to one. Received: a function to {arguments!r}"
        )
    if "x" not in arguments:
        raise ValueError(
            "`data` must give `x`, the training data. "
            f"Received: {sorted(arguments)}"
        )
    unknown = sorted(set(arguments) - known)
    if unknown:
        raise ValueError(
            f"`data` must give arguments of `fit`, of {sorted(known)}; epochs "
            f"and verbose are the method's. Received: {unknown}"
        )
    return dict(arguments)


def falling(epochs):
    """The rate's factor, a tenth from 1/2 and a hundredth from 3/4 on.

    As VITA-Group/FreeTickets has it: 250 epochs, drops after 125 and 187.

    Args:
        epochs: Positive integer, epochs of the training.

    Returns:
        Function from an epoch to a float.

    Example:

    ```python
    [falling(4)(epoch) for epoch in range(4)]  # [1.0, 1.0, 0.1, 0.01]
    ```
    """
    return lambda epoch: (
        0.1 ** ((epoch >= epochs // 2) + (epoch >= epochs * 3 // 4))
    )
