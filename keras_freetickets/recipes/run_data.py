"""Training data of the runs of a recipe: shared, or each run its own."""

import inspect
import typing
from collections.abc import Callable
from collections.abc import Mapping

import keras
import numpy as np

from keras_freetickets.types import Tensor

FitArguments = dict[str, typing.Any]
Data = Mapping[str, typing.Any] | Callable[..., FitArguments]

# What the recipes themselves decide.
_OWN_ARGUMENTS = {"self", "epochs", "initial_epoch", "verbose"}
# What a function of data may name besides the seed.
_OF_A_RUN = ("member", "run")


def check_data(data: Data) -> None:
    """Raises unless `data` is what `Recipe.fit` takes."""
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
    if callable(data):
        named = _named(data)
        try:
            inspect.signature(data).bind(0, **dict.fromkeys(named))
        except ValueError:  # a builtin without a signature
            return
        except TypeError as error:
            raise ValueError(
                "`data` must be a function of a seed, which may also take "
                "`member` and `run` by keyword. Received: data with the "
                f"arguments {inspect.signature(data)}"
            ) from error


def _named(data: Callable[..., FitArguments]) -> list[str]:
    """Which of `member` and `run` a function takes by keyword."""
    try:
        parameters = inspect.signature(data).parameters
    except ValueError:
        return []
    kinds = {one.kind for one in parameters.values()}
    if inspect.Parameter.VAR_KEYWORD in kinds:
        return list(_OF_A_RUN)
    first = next(iter(parameters), None)
    return [name for name in _OF_A_RUN if name in parameters and name != first]


def data_of_run(data: Data, seed: int, member: int, run: str) -> FitArguments:
    """The arguments of `fit` for one run.

    Args:
        data: As for `Recipe.fit`.
        seed: Non-negative integer, the run's seed.
        member: Non-negative integer, the member that the run trains.
        run: String, the name of the run.

    Returns:
        A new dict.

    Raises:
        ValueError: If `data` gives something else than arguments of `fit`.
    """
    if not callable(data):
        return _checked(data, "a dict")
    given = {"member": member, "run": run}
    arguments = data(seed, **{name: given[name] for name in _named(data)})
    return _checked(arguments, f"for run '{run}'")


def _checked(arguments: typing.Any, source: str) -> FitArguments:
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
            f"Received: {sorted(arguments)} ({source})"
        )
    unknown = sorted(set(arguments) - known)
    if unknown:
        raise ValueError(
            f"`data` must give arguments of `fit`, of {sorted(known)}; epochs "
            f"and verbose are the recipe's. Received: {unknown} ({source})"
        )
    return dict(arguments)


def bootstrap(
    x: Tensor, y: Tensor, **arguments: typing.Any
) -> Callable[[int], FitArguments]:
    """Data for bagging: each member trains on a sample of the examples.

    A sample has as many examples as `x`, drawn with replacement by the seed
    of the member: about 63 % of all examples, some of them several times.

    Args:
        x: Array of inputs, `(examples, ...)`.
        y: Array of targets, `(examples, ...)`.
        **arguments: Further arguments of `keras.Model.fit`, the same for all
            members, such as `validation_data` and `batch_size`.

    Returns:
        Function of a seed, to be given to `Recipe.fit` as `data`.

    Raises:
        ValueError: If there are no examples, or not as many targets.

    Example:

    ```python
    recipe = keras_freetickets.recipes.get("static", num_members=5)
    data = keras_freetickets.recipes.bootstrap(x, y, shuffle=False)
    ensemble = recipe.fit(make_model, compile_model, data, "run/bagging")
    ```

    Reference:
        Breiman, 1996, "Bagging predictors", Machine Learning 24.
    """
    inputs, targets = _examples(x, y)
    count = len(inputs)

    def data(seed: int) -> FitArguments:
        chosen = np.random.default_rng(seed).integers(count, size=count)
        return {"x": inputs[chosen], "y": targets[chosen], **arguments}

    return data


def folds(
    x: Tensor, y: Tensor, num_folds: int, **arguments: typing.Any
) -> Callable[..., FitArguments]:
    """Data for cross-validation: member i is validated on fold i.

    Fold i is every `num_folds`-th example from example i on; member i trains
    on all others. Members beyond `num_folds` begin again with fold 0.

    Args:
        x: Array of inputs, `(examples, ...)`, in random order.
        y: Array of targets, `(examples, ...)`.
        num_folds: Integer of at least 2.
        **arguments: Further arguments of `keras.Model.fit`, the same for all
            members, such as `batch_size`.

    Returns:
        Function of a seed and of `member`, to be given to `Recipe.fit` as
        `data`.

    Raises:
        ValueError: If there are fewer examples than folds, or not as many
            targets as inputs.

    Example:

    ```python
    recipe = keras_freetickets.recipes.get("dst", num_members=5)
    data = keras_freetickets.recipes.folds(x, y, num_folds=5)
    ensemble = recipe.fit(make_model, compile_model, data, "run/folds")
    ```
    """
    inputs, targets = _examples(x, y)
    if not 2 <= num_folds <= len(inputs):
        raise ValueError(
            f"`num_folds` must be in [2, {len(inputs)}], the number of "
            f"examples. Received: num_folds={num_folds}"
        )

    def data(seed: int, member: int) -> FitArguments:
        held_out = np.arange(len(inputs)) % num_folds == member % num_folds
        return {
            "x": inputs[~held_out],
            "y": targets[~held_out],
            "validation_data": (inputs[held_out], targets[held_out]),
            **arguments,
        }

    return data


def _examples(x: Tensor, y: Tensor) -> tuple[np.ndarray, np.ndarray]:
    inputs, targets = np.asarray(x), np.asarray(y)
    shapes = f"x of shape {inputs.shape}, y of shape {targets.shape}"
    if not inputs.ndim or not targets.ndim or not len(inputs):
        raise ValueError(
            f"`x` and `y` must be arrays of examples. Received: {shapes}"
        )
    if len(inputs) != len(targets):
        raise ValueError(
            f"`x` and `y` must have as many examples. Received: {shapes}"
        )
    return inputs, targets
