"""The base class of recipes: what all ways to make an ensemble share."""

import typing
from collections.abc import Callable

import keras
import numpy as np

from keras_freetickets.arguments import check_count
from keras_freetickets.ensembles.ensemble_model import EnsembleModel
from keras_freetickets.recipes.run_data import Data
from keras_freetickets.recipes.run_data import check_data
from keras_freetickets.recipes.workspace import TrainingRun
from keras_freetickets.recipes.workspace import Workspace
from keras_freetickets.types import PathLike


class Recipe:
    """A way to train the members of an ensemble.

    Subclasses say in `train` which training runs there are. This class makes
    each run resumable, and makes an `EnsembleModel` of the tickets that the
    runs leave.

    Attributes:
        runs: List of `TrainingRun`, after `fit`.

    Example:

    ```python
    recipe = keras_freetickets.recipes.get("snapshot", cycle_epochs=40)
    ensemble = recipe.fit(make_model, compile_model, data, "run/snapshot")
    ```
    """

    runs: typing.Sequence[TrainingRun] = ()

    def fit(
        self,
        make_model: Callable[[int], keras.Model],
        compile_model: Callable[[keras.Model], typing.Any],
        data: Data,
        directory: PathLike,
        seed: int = 0,
        verbose: str | int = "auto",
        **kwargs: typing.Any,
    ) -> EnsembleModel:
        """Trains all members and returns their ensemble.

        If it is killed, call it again with the same arguments: finished runs
        are kept, and an unfinished one resumes after its last whole epoch.

        Args:
            make_model: Function from a seed to a new dense Functional or
                Sequential model with one output: class scores, or the numbers
                of a regression. For `MIMO` it returns the body of a network
                and must be a classifier, see there.
            compile_model: Function that compiles a model, dense or sparse,
                with an optimizer, a loss and metrics of its own. The
                optimizer's learning rate is the number at which training
                starts.
            data: Dict with arguments of `keras.Model.fit`, such as `x`, `y`,
                `validation_data` and `batch_size`, the same for all runs; or
                a function from a seed to such a dict, which may hold new
                `callbacks` too. A function that names the arguments `member`
                or `run` also gets the number of the member that the run
                trains, from 0 on, and the name of the run's folder, so that
                each member can have data of its own; `bootstrap` and `folds`
                make such functions. A resumed run equals an uninterrupted one
                if the order of the data follows from the epoch, as that of
                `keras_freetickets.datasets` or of arrays with
                `shuffle=False`.
            directory: Where tickets and backups go: a new directory, or that
                of the same recipe with the same settings and seed. (What the
                three functions do is not compared.)
            seed: Non-negative integer. Member i is made from
                seed + 1000 i. Defaults to 0.
            verbose: As for `keras.Model.fit`.
            **kwargs: Further arguments of `EnsembleModel`, such as `pooling`.

        Returns:
            An `EnsembleModel`.

        Raises:
            ValueError: If an argument is wrong, or the directory holds
                another ensemble.

        Example:

        ```python
        data = {"x": x, "y": y, "validation_data": (x_val, y_val)}
        recipe = keras_freetickets.recipes.get("dense", num_members=3)
        ensemble = recipe.fit(make_model, compile_model, data, "run/dense")
        ```
        """
        _check_functions(make_model, compile_model)
        check_data(data)
        check_count("seed", seed, least=0)
        work = Workspace(
            make_model, compile_model, data, directory, seed, verbose, kwargs
        )
        work.claim(self.settings())
        names = self.train(work)
        self.runs = work.runs
        return work.ensemble_of(names)

    def train(self, work: Workspace) -> list[str]:
        """Makes the training runs. Subclasses override it.

        Args:
            work: A `Workspace`, whose `run` trains one model.

        Returns:
            List of names of runs: those whose tickets become the members.
        """
        raise NotImplementedError  # abstract

    def training_flops(self) -> float:
        """Theoretical FLOPs of all runs, for each example of an epoch.

        Returns:
            Float, the sum over epochs.

        Raises:
            ValueError: If `fit` was not called.
        """
        if not self.runs:
            raise ValueError(
                "`fit` must be called first: a recipe costs what its runs "
                "did. Received: a recipe without runs"
            )
        return sum(sum(run.history["training_flops"]) for run in self.runs)

    def settings(self) -> dict[str, typing.Any]:
        """Everything that decides the result, as JSON holds it.

        Returns:
            Dict from the name of a setting to its value.
        """
        settings = {k: v for k, v in vars(self).items() if k != "runs"}
        rate = settings.get("learning_rate")
        epochs = getattr(self, "epochs", None)
        if callable(rate) and epochs is not None:
            # Functions cannot be compared, but what they return can.
            settings["learning_rate"] = [rate(e) for e in range(epochs)]
        described = {name: _described(v) for name, v in settings.items()}
        return {"method": type(self).__name__, **described}


def _described(value: typing.Any) -> typing.Any:
    """A setting in the types that JSON holds, to compare it with others."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)):
        return [_described(one) for one in value]
    if isinstance(value, dict):
        return {str(k): _described(v) for k, v in value.items()}
    if hasattr(value, "get_config"):
        return [type(value).__name__, _described(value.get_config())]
    if callable(value):
        return getattr(value, "__qualname__", type(value).__name__)
    return value


def _check_functions(make_model: typing.Any, compile_model: typing.Any) -> None:
    for name, value in {
        "make_model": make_model,
        "compile_model": compile_model,
    }.items():
        if not callable(value):
            raise ValueError(
                f"`{name}` must be a function. Received: {name}={value!r}"
            )
