"""Loss and metric of models that predict a mean and a variance."""

import math
import typing

import keras
from keras import ops

from keras_freetickets.types import Tensor


def _mean_and_variance(y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, ...]:
    y_pred = ops.convert_to_tensor(y_pred)
    y_true = ops.cast(ops.convert_to_tensor(y_true), y_pred.dtype)
    columns = y_pred.shape[-1]
    if columns % 2:
        raise ValueError(
            "`y_pred` must hold means and then as many variances, "
            f"(batch, ..., 2 * outputs). Received: shape {y_pred.shape}"
        )
    mean, variance = ops.split(y_pred, 2, axis=-1)
    if len(y_true.shape) == len(y_pred.shape) - 1:
        y_true = ops.expand_dims(y_true, -1)
    if y_true.shape[-1] != mean.shape[-1]:
        raise ValueError(
            "`y_true` must have as many outputs as `y_pred` has means, "
            f"{mean.shape[-1]}. Received: shape {y_true.shape}"
        )
    return y_true, mean, variance


@keras.saving.register_keras_serializable(package="keras_freetickets")
class GaussianNegativeLogLikelihood(keras.losses.Loss):
    """Negative log-likelihood of targets under predicted normal distributions.

    Trains a regressor that returns means and variances, as many of each as
    there are outputs, joined along the last axis. Its members make an
    ensemble of `pooling="mean_and_variance"`.

    Args:
        reduction: As for `keras.losses.Loss`.
        name: Name of the loss.
        dtype: As for `keras.losses.Loss`.

    Raises:
        ValueError: When called, if the shapes of targets and predictions do
            not fit.

    Example:

    ```python
    x = keras.layers.Dense(64, activation="relu")(inputs)
    mean = keras.layers.Dense(1)(x)
    variance = keras.layers.Dense(1, activation="softplus")(x)
    outputs = keras.layers.Concatenate()([mean, variance])
    model = keras.Model(inputs, outputs)
    model.compile("adam", GaussianNegativeLogLikelihood())
    ```

    Reference:
        Lakshminarayanan et al., 2017, arXiv:1612.01474, section 2.2.1.
    """

    def __init__(
        self,
        reduction: str = "sum_over_batch_size",
        name: str = "gaussian_negative_log_likelihood",
        dtype: typing.Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_true, mean, variance = _mean_and_variance(y_true, y_pred)
        # A softplus may underflow to 0.
        variance = ops.maximum(variance, keras.config.epsilon())
        log_density = ops.log(2.0 * math.pi * variance)
        log_density = log_density + ops.square(y_true - mean) / variance
        return 0.5 * ops.mean(log_density, axis=-1)


@keras.saving.register_keras_serializable(package="keras_freetickets")
def squared_error_of_mean(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Squared error of the means that stand before variances.

    Args:
        y_true: Tensor `(batch, ..., outputs)`, or `(batch, ...)` for one
            output.
        y_pred: Tensor `(batch, ..., 2 * outputs)`.

    Returns:
        Tensor `(batch, ...)`.

    Raises:
        ValueError: If the shapes do not fit.

    Example:

    >>> # A mean of 2 and a variance of 9.
    >>> float(squared_error_of_mean([[5.0]], [[2.0, 9.0]])[0])
    9.0
    """
    y_true, mean, _ = _mean_and_variance(y_true, y_pred)
    return ops.mean(ops.square(y_true - mean), axis=-1)
