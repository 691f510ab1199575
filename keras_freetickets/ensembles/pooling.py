"""Pooling: from the outputs of the members to that of the ensemble."""

import typing
from collections.abc import Callable

import keras
from keras import ops

from keras_freetickets.types import Tensor

Pooling = str | Callable[[Tensor], Tensor]

CLASSIFICATION = ("mean_probability", "mean_logits")
REGRESSION = ("mean", "mean_and_variance")
# Below it the logarithm of a float32 probability is not finite.
_TINY = 1e-37


def check_pooling(pooling: typing.Any, from_logits: bool | None) -> None:
    """Raises unless `pooling` can be used, and agrees with `from_logits`."""
    if pooling is None or pooling in CLASSIFICATION:
        return
    if pooling not in REGRESSION and not callable(pooling):
        raise ValueError(
            f"`pooling` must be one of {[*CLASSIFICATION, *REGRESSION]}, or a "
            "function from the members' outputs (members, batch, ...) to the "
            f"ensemble's. Received: pooling={pooling!r}"
        )
    if from_logits is not None:
        raise ValueError(
            "`from_logits` is for classifiers, with pooling "
            f"{' or '.join(CLASSIFICATION)}. Received: "
            f"from_logits={from_logits}, pooling={pooling!r}"
        )


def check_columns(pooling: Pooling, columns: int) -> None:
    """Raises unless members return as many means as variances."""
    if pooling == "mean_and_variance" and columns % 2:
        raise ValueError(
            '`pooling="mean_and_variance"` needs members that return means '
            "and then as many variances, (batch, ..., 2 * outputs). "
            f"Received: members that return {columns} numbers"
        )


def pooling_config(pooling: Pooling) -> typing.Any:
    """What stands for a pooling in a saved model.

    Raises:
        ValueError: If it is a function that could not be found in loading.
    """
    if isinstance(pooling, str):
        return pooling
    name = keras.saving.get_registered_name(pooling)
    if keras.saving.get_registered_object(name) is None:
        raise ValueError(
            "`pooling` must be a function registered with Keras for the "
            "ensemble to be saved: decorate it with "
            "@keras.saving.register_keras_serializable(). "
            f"Received: pooling={pooling!r}"
        )
    return keras.saving.serialize_keras_object(pooling)


def pooling_of(config: typing.Any) -> typing.Any:
    """The pooling that `pooling_config` described."""
    if isinstance(config, dict):
        return keras.saving.deserialize_keras_object(config)
    return config


def mean_of_logits(stacked: Tensor, from_logits: bool) -> Tensor:
    """Probabilities by the mean of the members' logits.

    Args:
        stacked: Tensor `(members, batch, ..., classes)`, or
            `(members, batch, ..., 1)` of class 1.
        from_logits: Whether it holds logits or probabilities.

    Returns:
        Tensor of probabilities, `(batch, ..., classes)` or `(batch, ..., 1)`.
    """
    one_column = stacked.shape[-1] == 1
    if not from_logits:
        logits = ops.log(ops.maximum(stacked, _TINY))
        if one_column:
            logits = logits - ops.log(ops.maximum(1.0 - stacked, _TINY))
    else:
        # Members' logits may differ by a constant, which says nothing.
        logits = stacked if one_column else ops.log_softmax(stacked)
    mean = ops.mean(logits, axis=0)
    return ops.sigmoid(mean) if one_column else ops.softmax(mean)


def mean_and_variance(stacked: Tensor) -> Tensor:
    """Mean and variance of the mixture of the members' distributions.

    By the law of total variance: the mean of the members' variances plus the
    variance of their means.

    Args:
        stacked: Tensor `(members, batch, ..., 2 * outputs)`: means, then
            variances.

    Returns:
        Tensor `(batch, ..., 2 * outputs)`.

    Example:

    >>> # Means 1 and 3, variances 0.5 and 1.5: 2, and 1 + 1.
    >>> pooled = mean_and_variance(ops.array([[[1.0, 0.5]], [[3.0, 1.5]]]))
    >>> ops.convert_to_numpy(pooled).tolist()
    [[2.0, 2.0]]
    """
    means, variances = ops.split(stacked, 2, axis=-1)
    total = ops.mean(variances, axis=0) + ops.var(means, axis=0)
    return ops.concatenate([ops.mean(means, axis=0), total], axis=-1)


class Pool(keras.Operation):
    """A pooling function as an operation, to infer the shape it returns.

    Args:
        function: Function from a tensor to a tensor.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__(name="pool")
        self.function = function

    def call(self, stacked: Tensor) -> Tensor:
        return self.function(stacked)


def widened(outputs: Tensor) -> Tensor:
    """Outputs as float32 if they are of half precision, else as they are."""
    dtype = keras.backend.standardize_dtype(outputs.dtype)
    half = dtype in ("float16", "bfloat16")
    return ops.cast(outputs, "float32") if half else outputs
