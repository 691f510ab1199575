"""Scores of regressors that predict a distribution of each number."""

import math

import keras
import numpy as np
from keras import ops

from keras_freetickets.metrics.intervals import MeanOfValues
from keras_freetickets.metrics.intervals import match_targets
from keras_freetickets.types import Array
from keras_freetickets.types import Tensor


def _read(y_true, y_pred):
    """Targets, means and standard deviations, (batch, ..., outputs)."""
    y_pred = ops.cast(ops.convert_to_tensor(y_pred), "float32")
    if not y_pred.shape or y_pred.shape[-1] % 2:
        raise ValueError(
            "`y_pred` must hold means and then as many variances, "
            f"(batch, ..., 2 * outputs). Received: shape {y_pred.shape}"
        )
    mean, variance = ops.split(y_pred, 2, axis=-1)
    # A softplus may underflow to 0.
    variance = ops.maximum(variance, keras.config.epsilon())
    return match_targets(y_true, mean), mean, ops.sqrt(variance)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class GaussianNLL(MeanOfValues):
    """Negative log-likelihood of targets under normal distributions, in nats.

    Args:
        name: Name of the metric; `None` (default) for `"gaussian_nll"`.
        dtype: Unused; sums are kept in float32.

    Call arguments:
        y_true: Targets `(batch, ..., outputs)`, or `(batch, ...)` for one
            output.
        y_pred: Means and variances `(batch, ..., 2 * outputs)`, as an ensemble
            of `pooling="mean_and_variance"` returns them. Variances below
            `keras.config.epsilon()` are raised to it.
        sample_weight: Optional weights `(batch,)` up to `(batch, ...)`.

    Raises:
        ValueError: When called, if shapes disagree.

    Example:

    >>> score = GaussianNLL()([0.0], [[0.0, 1.0]])  # log(2 pi) / 2
    >>> round(float(score), 4)
    0.9189
    """

    default_name = "gaussian_nll"
    direction = "down"

    def values(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_true, mean, deviation = _read(y_true, y_pred)
        z = (y_true - mean) / deviation
        log_density = ops.square(z) + math.log(2 * math.pi)
        return ops.mean(0.5 * log_density + ops.log(deviation), axis=-1)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class CRPS(MeanOfValues):
    """Continuous ranked probability score of normal distributions.

    The mean over thresholds, in the units of the targets, of the squared error
    of the predicted distribution function: 0 is perfect. For a distribution
    without spread it is the absolute error. It punishes outliers less than the
    likelihood does.

    Args:
        name: Name of the metric; `None` (default) for `"crps"`.
        dtype: Unused; sums are kept in float32.

    Call arguments:
        y_true, y_pred, sample_weight: As for `GaussianNLL`.

    Raises:
        ValueError: When called, if shapes disagree.

    Example:

    >>> score = CRPS()([0.0], [[0.0, 1.0]])  # (sqrt(2) - 1) / sqrt(pi)
    >>> round(float(score), 4)
    0.2337

    Reference:
        Gneiting and Raftery, 2007, JASA 102(477), equation 21.
    """

    default_name = "crps"
    direction = "down"

    def values(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_true, mean, deviation = _read(y_true, y_pred)
        z = (y_true - mean) / deviation
        density = ops.exp(-0.5 * ops.square(z)) / math.sqrt(2 * math.pi)
        # 2 * Phi(z) - 1 = erf(z / sqrt(2))
        score = z * ops.erf(z / math.sqrt(2)) + 2 * density
        score = deviation * (score - 1 / math.sqrt(math.pi))
        return ops.mean(score, axis=-1)


def sample_crps(y_true: Array, samples: Array) -> np.ndarray:
    """Continuous ranked probability score of predictions given as samples.

    The mean of |sample - target| minus half the mean difference of two
    samples.

    Args:
        y_true: Targets `(...)`.
        samples: Samples of each prediction `(samples, ...)`, at least 2.

    Returns:
        Float array `(...)`. The mean difference is that of two different
        samples, so that few samples give no bias.

    Raises:
        ValueError: If shapes disagree or there are fewer than 2 samples.

    Example:

    >>> sample_crps([1.0], [[0.0], [2.0]]).tolist()  # 1 - 2 / 2
    [0.0]
    """
    y_true, samples = np.asarray(y_true), np.asarray(samples)
    if len(samples) < 2 or samples.shape[1:] != y_true.shape:
        raise ValueError(
            "`samples` must have the shape (samples, ...) for `y_true` (...), "
            "with at least 2 samples. Received: samples of shape "
            f"{samples.shape}, y_true of shape {y_true.shape}"
        )
    count = len(samples)
    error = np.abs(samples - y_true).mean(axis=0)
    # Of sorted samples, number k is above k and below count - 1 - k others.
    signs = 2 * np.arange(count) - (count - 1)
    spread = np.tensordot(signs, np.sort(samples, axis=0), axes=1)
    return error - spread / (count * (count - 1))
