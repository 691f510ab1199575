"""Fits of calibrators to held-out predictions: NumPy, in double precision.

Each minimizes a convex loss, so that the result does not depend on where the
search begins.
"""

import warnings

import numpy as np

from keras_freetickets.metrics import arrays
from keras_freetickets.metrics import validation
from keras_freetickets.optional import import_optional
from keras_freetickets.types import Tensor

# The range of temperatures. For predictions that are all right, or no better
# than chance, the best one is 0 or infinite.
_LOWEST_TEMPERATURE, _HIGHEST_TEMPERATURE = 0.01, 100.0
# Smaller probabilities count as this one in logarithms.
TINY = np.finfo("float32").tiny


def read_held_out(
    y_true: Tensor, y_pred: Tensor, from_logits: bool, ignore_class: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Checked labels, and predictions of two columns or more in float64."""
    if from_logits:
        y_true, y_pred = np.asarray(y_true), np.asarray(y_pred)
        arrays.check_order(y_true, y_pred)
        validation.check_shape(y_pred)
        labels, counted = arrays.read_label_array(
            y_true, y_pred.shape, ignore_class
        )
        labels, rows = labels[counted], y_pred[counted].astype("float64")
        if not np.isfinite(rows).all():
            raise ValueError(
                "`y_pred` must be finite. Received: y_pred with NaN or "
                "infinite values"
            )
        rows = validation.two_columns(rows, from_logits, backend=np)
    else:
        labels, rows = arrays.read_arrays(y_true, y_pred, ignore_class)
    if len(np.unique(labels)) < 2:
        raise ValueError(
            "`y_true` must hold examples of two classes or more: one class "
            "says nothing about confidence. "
            f"Received: {len(labels)} examples of {np.unique(labels).tolist()}"
        )
    return labels, rows.astype("float64")


def _softmax(logits):
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)


def as_logits(predictions: np.ndarray, from_logits: bool) -> np.ndarray:
    """Logits as they are; the logarithms of probabilities."""
    if from_logits:
        return predictions
    return np.log(np.maximum(predictions, TINY))


def as_probabilities(predictions: np.ndarray, from_logits: bool) -> np.ndarray:
    """Probabilities as they are; the softmax of logits."""
    return _softmax(predictions) if from_logits else predictions


def best_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature of the smallest cross-entropy, by bisection."""
    logits = logits - logits.max(axis=-1, keepdims=True)
    wanted = np.take_along_axis(logits, labels[:, None], axis=-1).mean()

    def too_sure(temperature):
        # The sign of the derivative of the cross-entropy by 1 / T.
        expected = (_softmax(logits / temperature) * logits).sum(axis=-1)
        return expected.mean() > wanted

    low, high = np.log([_LOWEST_TEMPERATURE, _HIGHEST_TEMPERATURE])
    for _ in range(60):
        middle = (low + high) / 2
        if too_sure(np.exp(middle)):
            low = middle
        else:
            high = middle
    best = float(np.exp(high))
    if not 1.01 * _LOWEST_TEMPERATURE < best < 0.99 * _HIGHEST_TEMPERATURE:
        warnings.warn(
            f"The best temperature is at an end of its range, {best:.4g}: the "
            "model predicts all examples correctly (was it trained on them?) "
            "or cannot distinguish them at all.",
            stacklevel=4,
        )
    return best


def best_vectors(
    logits: np.ndarray,
    labels: np.ndarray,
    penalty: float,
    tolerance: float = 1e-9,
    max_steps: int = 100,
) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift of each class by Newton's method."""
    count, classes = logits.shape
    target = np.eye(classes)[labels]
    start = np.repeat([1.0, 0.0], classes)

    def loss(point):
        shifted = point[:classes] * logits + point[classes:]
        shifted = shifted - shifted.max(axis=-1, keepdims=True)
        logs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        distance = np.square(point - start).sum()
        return -(logs * target).sum() / count + penalty / 2 * distance, logs

    point, (value, logs) = start, loss(start)
    for _ in range(max_steps):
        p = np.exp(logs)
        gap = (p - target) / count
        slope = np.concatenate([(gap * logits).sum(0), gap.sum(0)])
        slope += penalty * (point - start)
        if np.abs(slope).max() < tolerance:
            break
        step = np.linalg.lstsq(
            _curvature(p, logits, penalty), slope, rcond=None
        )[0]
        size = 1.0
        # Halves the step while the loss grows: it is convex, so that a small
        # step lowers it.
        while size > 1e-8 and loss(point - size * step)[0] > value:
            size /= 2
        point = point - size * step
        value, logs = loss(point)
    return point[:classes], point[classes:]


def _curvature(p, logits, penalty):
    count, classes = p.shape
    moved = np.concatenate([p * logits, p], axis=1)
    curvature = -moved.T @ moved / count
    scale = np.arange(classes)
    shift = scale + classes
    both = (p * logits).mean(axis=0)
    curvature[scale, scale] += (p * logits**2).mean(axis=0)
    curvature[scale, shift] += both
    curvature[shift, scale] += both
    curvature[shift, shift] += p.mean(axis=0)
    return curvature + penalty * np.eye(2 * classes)


def isotonic_curves(
    probabilities: np.ndarray, labels: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Knots and heights of a rising curve for each class."""
    isotonic = import_optional("sklearn.isotonic")
    curves = []
    for k in range(probabilities.shape[-1]):
        curve = isotonic.IsotonicRegression(
            y_min=0.0, y_max=1.0, out_of_bounds="clip"
        )
        curve.fit(probabilities[:, k], labels == k)
        curves.append((curve.X_thresholds_, curve.y_thresholds_))
    return curves
