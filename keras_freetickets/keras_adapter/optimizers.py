"""Private parts of Keras' optimizers: slots, accumulators, counters."""

import typing
from collections.abc import Sequence

import keras

from keras_freetickets.keras_adapter.layers import same_shape
from keras_freetickets.types import Optimizer
from keras_freetickets.types import Variable


def plain_optimizers(optimizer: Optimizer) -> list[Optimizer]:
    """The optimizers that hold slots, inside wrappers of optimizers."""
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None:
        return plain_optimizers(inner)
    several = getattr(optimizer, "optimizers", None)
    if several is None:
        return [optimizer]
    return [plain for one in several for plain in plain_optimizers(one)]


# `_accumulated_gradients` are sums over micro-batches; they must stay dense.
_NOT_SLOTS = {"_trainable_variables", "_accumulated_gradients"}


def _slot_lists(optimizer):
    """Lists of variables that are parallel to the trainable variables."""
    count = len(optimizer._trainable_variables)
    for name, value in sorted(vars(optimizer).items()):
        if name in _NOT_SLOTS or not isinstance(value, list):
            continue
        if len(value) == count and any(hasattr(v, "assign") for v in value):
            yield name, value


def _slot_initial_value(optimizer, list_name):
    """The initial value of slots: 0, except for Adagrad and Ftrl."""
    if list_name == "_accumulators":
        return getattr(optimizer, "initial_accumulator_value", 0.0)
    return 0.0


def optimizer_slots(
    optimizer: Optimizer, variables: Sequence[Variable]
) -> list[list[tuple]]:
    """Finds the optimizer's slots that have the shape of each variable.

    Slot names cannot be relied on, but every Keras optimizer keeps its slots
    in lists parallel to `_trainable_variables`.

    Args:
        optimizer: A built Keras optimizer.
        variables: List of trainable variables.

    Returns:
        For each variable a list of pairs `(slot, initial value)`.
    """
    slots: list[list[tuple]] = [[] for _ in variables]
    for plain in plain_optimizers(optimizer):
        places = {id(v): i for i, v in enumerate(plain._trainable_variables)}
        for name, values in _slot_lists(plain):
            initial = _slot_initial_value(plain, name)
            for found, variable in zip(slots, variables, strict=True):
                place = places.get(id(variable))  # None if it is frozen
                slot = None if place is None else values[place]
                if same_shape(slot, variable):
                    found.append((slot, initial))
    return slots


def takes_gradient_as_value(variable: Variable) -> bool:
    """Whether an optimizer assigns the gradient as value (float8 scales)."""
    return getattr(variable, "overwrite_with_gradient", False)


# With a zero gradient, these keep a weight 0 if its slots are initial.
_KEEP_ZEROS = {
    getattr(keras.optimizers, name)
    for name in (
        "Adadelta",
        "Adagrad",
        "Adam",
        "AdamW",
        "Adamax",
        "Ftrl",
        "Lamb",
        "Lion",
        "Nadam",
        "RMSprop",
        "SGD",
    )
}


def keeps_zeros(optimizer: Optimizer, variable: Variable) -> bool:
    """Whether a step keeps entries 0 if they are 0 and have zero gradients.

    After steps of other optimizers, such as Muon, which mixes entries, and of
    custom ones, kernels are cleared.
    """
    if variable.constraint is not None:
        return False
    return all(type(o) in _KEEP_ZEROS for o in plain_optimizers(optimizer))


# Squares below it are lost in float32.
_TINY_SQUARE = 1e-36


def makes_idle_weights_nan(optimizer: Optimizer) -> bool:
    """Whether weights without gradients in row and column become NaN.

    Adafactor (Keras 3.15.1) divides by the product of the mean squares of a
    row and of a column. Where both are `epsilon_1`, float32 rounds that to 0.
    """
    return any(
        isinstance(one, keras.optimizers.Adafactor)
        and one.epsilon_1**2 < _TINY_SQUARE
        for one in plain_optimizers(optimizer)
    )


def _accumulating(optimizer):
    """The inner optimizers that sum gradients over micro-batches."""
    return [
        plain
        for plain in plain_optimizers(optimizer)
        if plain.gradient_accumulation_steps
    ]


def accumulation_steps(optimizer: Optimizer) -> int | None:
    """Micro-batches per optimizer update; `None` without accumulation."""
    steps = [o.gradient_accumulation_steps for o in _accumulating(optimizer)]
    return max(steps, default=None)


def accumulators(optimizer: Optimizer, variables: Sequence[Variable]) -> tuple:
    """The variables in which an optimizer accumulates gradients.

    Returns:
        Tuple of the number of micro-batches per update (`None` without
        accumulation), the variable that counts micro-batches, and a variable
        with the dense sum for each of `variables`.
    """
    accumulating = _accumulating(optimizer)
    if not accumulating:
        return None, None, []
    if hasattr(optimizer, "optimizers"):
        raise ValueError(
            "`gradient_accumulation_steps` must be None in the optimizers of "
            f"a MultiOptimizer. Received: optimizer={optimizer.name!r}"
        )
    (plain,) = accumulating
    steps = plain.gradient_accumulation_steps
    places = {id(v): i for i, v in enumerate(plain._trainable_variables)}
    unknown = [v.path for v in variables if id(v) not in places]
    if unknown:
        raise ValueError(
            "The optimizer must know all trainable variables: compile the "
            "model again after freezing or unfreezing layers. "
            f"Received: variables {unknown} that it does not know"
        )
    sums = [plain._accumulated_gradients[places[id(v)]] for v in variables]
    return steps, plain._iterations, sums


def shared_counters(optimizer: Optimizer) -> list[Variable]:
    """The counters and learning rates, which all members' steps share."""
    return [
        variable
        for plain in plain_optimizers(optimizer)
        for variable in (plain._iterations, plain._learning_rate)
        if hasattr(variable, "assign")
    ]


def learning_rate_schedule(optimizer: Optimizer) -> typing.Any:
    """The learning rate schedule of an optimizer; `None` for a number."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    rate = getattr(inner, "_learning_rate", None)
    return rate if callable(rate) else None


def loss_scale(optimizer: Optimizer) -> typing.Any:
    """The factor of the loss, and therefore of the gradients, or `None`."""
    scale = getattr(optimizer, "dynamic_scale", None)
    if scale is not None:
        return scale
    return optimizer.loss_scale_factor
