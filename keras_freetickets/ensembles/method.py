"""What the methods of making an ensemble have in common."""

import dataclasses
import os

import keras
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.callbacks.backup import Backup
from keras_freetickets.files import atomic_path
from keras_freetickets.files import read_sealed
from keras_freetickets.files import write_sealed
from keras_freetickets.models.ensemble import EnsembleModel

_INDEX = "ensemble.json"
_FINISHED = "run.json"
# Members of runs with seeds 0, 1, 2 ... share none.
_SEEDS_APART = 1000


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


class EnsembleMethod:
    """A way to train the members of an ensemble.

    Subclasses say in `train` which runs there are; this class makes the runs,
    each resumable, and the `EnsembleModel` of the tickets that they leave.

    Attributes:
        runs: List of `TrainingRun`, once `fit` is through.

    Example:

    ```python
    method = keras_freetickets.ensembles.Snapshot(cycle_epochs=40)
    ensemble = method.fit(make_model, compile_model, data, "run/snapshot")
    ```
    """

    runs = ()

    def fit(
        self,
        make_model,
        compile_model,
        data,
        directory,
        seed=0,
        verbose="auto",
    ):
        """Trains all members and returns their ensemble.

        Killed and started again with the same arguments it goes on where it
        was: finished runs are kept, a begun one is resumed from its last
        epoch.

        Args:
            make_model: Function from a seed to a new dense Functional or
                Sequential model with one output of class scores. For `MIMO`
                the body of one, see there.
            compile_model: Function that compiles a model, dense or sparse,
                with an optimizer, a loss and metrics of its own, the rate
                being the number at which training starts.
            data: Function from a seed to a dict with arguments of
                `keras.Model.fit`, such as `x`, `y`, `validation_data`,
                `batch_size` and `callbacks`, new ones in each call; or such a
                dict without `callbacks`.
            directory: Where tickets and backups go; one for each ensemble.
            seed: Natural number. Member i is made from seed + 1000 i.
            verbose: As for `keras.Model.fit`.

        Returns:
            An `EnsembleModel`.

        Raises:
            ValueError: If an argument is wrong, or the directory holds
                another ensemble.
        """
        _check_functions(make_model, compile_model, data)
        work = Work(make_model, compile_model, data, directory, seed, verbose)
        work.claim(self.settings())
        tickets = self.train(work)
        self.runs = work.runs
        return EnsembleModel.from_tickets(tickets)

    def train(self, work):
        """Makes the runs of the method.

        Args:
            work: A `Work`.

        Returns:
            List of the paths of tickets, or of folders with tickets.
        """
        raise NotImplementedError  # abstract

    def training_flops(self):
        """Theoretical FLOPs of all runs, for each example of an epoch.

        Returns:
            Float, the sum over epochs.
        """
        return sum(sum(run.history["training_flops"]) for run in self.runs)

    def settings(self):
        """Dict of what decides the result, as JSON holds it."""
        plain = {
            name: value
            for name, value in vars(self).items()
            if isinstance(value, (int, float, str, tuple, type(None)))
        }
        return {"method": type(self).__name__, **plain}


class Work:
    """The runs of one ensemble, their models and their folders.

    Args:
        make_model: As for `EnsembleMethod.fit`, and so the others.
        compile_model: Function.
        data: Function or dict.
        directory: Path.
        seed: Natural number.
        verbose: As for `keras.Model.fit`.

    Example:

    ```python
    work = Work(make_model, compile_model, data, "run", seed=0, verbose=1)
    ```
    """

    def __init__(
        self, make_model, compile_model, data, directory, seed, verbose
    ):
        self.make_model = make_model
        self.compile_model = compile_model
        self.data = data if callable(data) else lambda seed: dict(data)
        self.directory = os.fspath(directory)
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
        wanted = {**settings, "seed": self.seed}
        wanted = {"settings": {k: repr(v) for k, v in wanted.items()}}
        path = os.path.join(self.directory, _INDEX)
        os.makedirs(self.directory, exist_ok=True)
        if os.path.exists(path):
            found = read_sealed(path, {"settings"})
            if found != wanted:
                raise ValueError(
                    "`directory` must be new, or hold this very ensemble. "
                    f"Received: directory={self.directory} with "
                    f"{found['settings']}, where this one has "
                    f"{wanted['settings']}"
                )
            return
        with atomic_path(path) as temporary:
            write_sealed(temporary, wanted)

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
            The path of the folder.
        """
        folder = self.folder(name)
        finished = os.path.join(folder, _FINISHED)
        if not os.path.exists(finished):
            self._tell(f"{name}: {epochs} epochs")
            history = self._train(
                folder, member, make, epochs, callbacks(folder), cost, factor
            )
            with atomic_path(finished) as temporary:
                write_sealed(temporary, {"history": history})
        history = read_sealed(finished, {"history"})["history"]
        self.runs.append(TrainingRun(name, history))
        return folder

    def _train(self, folder, member, make, epochs, callbacks, cost, factor):
        seed = self.seed_of(member)
        keras.utils.set_random_seed(seed)
        model = make()
        self.compile_model(model)
        if not model.compiled:
            raise ValueError(
                "`compile_model` must compile the model it is given. "
                f"Received: {self.compile_model}"
            )
        backup = Backup(os.path.join(folder, "backup"))
        arguments = self.data(seed)
        model.fit(
            **{
                **arguments,
                "epochs": epochs,
                "verbose": self.verbose,
                "callbacks": [
                    *arguments.get("callbacks", []),
                    *([] if factor is None else [_Rate(factor)]),
                    cost,
                    *callbacks,
                    backup,
                ],
            }
        )
        backup.delete()
        return backup.history

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


def _check_functions(make_model, compile_model, data):
    for name, value in {
        "make_model": make_model,
        "compile_model": compile_model,
    }.items():
        if not callable(value):
            raise ValueError(
                f"`{name}` must be a function. Received: {name}={value!r}"
            )
    if not callable(data) and not isinstance(data, dict):
        raise ValueError(
            "`data` must be a dict with arguments of `fit`, or a function "
            f"from a seed to one. Received: data={data!r}"
        )
    if isinstance(data, dict) and "callbacks" in data:
        raise ValueError(
            "`data` must be a function from a seed where it holds "
            "`callbacks`, which each run needs new. Received: a dict"
        )


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
