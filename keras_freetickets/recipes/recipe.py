"""What the methods of making an ensemble have in common."""

import numpy as np

from keras_freetickets.arguments import check_count
from keras_freetickets.recipes.workspace import Workspace


class Recipe:
    """A way to train the members of an ensemble.

    Subclasses say in `train` which runs there are; this class makes the runs,
    each resumable, and the `EnsembleModel` of the tickets that they leave.

    Attributes:
        runs: List of `TrainingRun`, once `fit` is through.

    Example:

    ```python
    recipe = keras_freetickets.recipes.Snapshot(cycle_epochs=40)
    ensemble = recipe.fit(make_model, compile_model, data, "run/snapshot")
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
                dict without `callbacks`. A resumed run equals the
                uninterrupted one if the order of the data follows from the
                epoch, as that of `keras_freetickets.datasets` or of arrays
                with `shuffle=False`.
            directory: Where tickets and backups go: a new directory, or that
                of the same method with the same settings and seed. (What the
                three functions do is not compared.)
            seed: Natural number. Member i is made from seed + 1000 i.
            verbose: As for `keras.Model.fit`.

        Returns:
            An `EnsembleModel`.

        Raises:
            ValueError: If an argument is wrong, or the directory holds
                another ensemble.
        """
        _check_functions(make_model, compile_model, data)
        check_count("seed", seed, least=0)
        work = Workspace(
            make_model, compile_model, data, directory, seed, verbose
        )
        work.claim(self.settings())
        tickets = self.train(work)
        self.runs = work.runs
        return work.ensemble_of(tickets)

    def train(self, work):
        """Makes the runs of the method.

        Args:
            work: A `Workspace`.

        Returns:
            List of the paths of tickets, or of folders with tickets.
        """
        raise NotImplementedError  # abstract

    def training_flops(self):
        """Theoretical FLOPs of all runs, for each example of an epoch.

        Returns:
            Float, the sum over epochs.

        Raises:
            ValueError: If `fit` was not called.
        """
        if not self.runs:
            raise ValueError(
                "`fit` must be called first: a method costs what its runs "
                "did. Received: a method without runs"
            )
        return sum(sum(run.history["training_flops"]) for run in self.runs)

    def settings(self):
        """Dict of what decides the result, as JSON holds it."""
        settings = {k: v for k, v in vars(self).items() if k != "runs"}
        rate = settings.get("learning_rate")
        if callable(rate) and hasattr(self, "epochs"):
            # What a function does cannot be compared, what it returns can.
            settings["learning_rate"] = [rate(e) for e in range(self.epochs)]
        described = {name: _described(v) for name, v in settings.items()}
        return {"method": type(self).__name__, **described}


def _described(value):
    """What tells a setting from others, of kinds that JSON holds."""
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
