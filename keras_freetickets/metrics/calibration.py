"""How well confidence matches accuracy."""

import numbers

import keras
import numpy as np
from keras import ops


def _check_num_bins(num_bins):
    whole = isinstance(num_bins, numbers.Integral)
    if not whole or isinstance(num_bins, bool) or num_bins < 1:
        raise ValueError(
            "`num_bins` must be a positive integer. "
            f"Received: num_bins={num_bins}"
        )


@keras.saving.register_keras_serializable(package="keras_freetickets")
class ExpectedCalibrationError(keras.metrics.Metric):
    """Expected calibration error (ECE) of class probabilities.

    The confidence of an example is its largest probability. Examples are
    sorted into equal bins of confidence, `(i / n, (i + 1) / n]`; the error is
    the mean over the examples of a bin's |accuracy - confidence|. 0 is
    perfect, 1 the worst. Exact: only sums of each bin are kept.

    Args:
        num_bins: Positive integer. Defaults to 15 (Guo et al., 2017,
            arXiv:1706.04599).
        from_logits: Whether predictions are logits.
        name: Name of the metric.
        dtype: Unused; sums are kept in float32.

    Raises:
        ValueError: If `num_bins` is no positive integer.

    Call arguments:
        y_true: Integer labels `(batch,)` or `(batch, 1)`, or one-hot
            `(batch, classes)`.
        y_pred: Probabilities or logits, `(batch, classes)`.
        sample_weight: Optional weights `(batch,)`.

    Example:

    ```python
    metric = ExpectedCalibrationError(num_bins=10)
    metric.update_state([0, 1], [[0.8, 0.2], [0.6, 0.4]])
    metric.result()  # (|1 - 0.8| + |0 - 0.6|) / 2 = 0.4
    ```
    """

    def __init__(self, num_bins=15, from_logits=False, name="ece", dtype=None):
        super().__init__(name=name, dtype=dtype)
        _check_num_bins(num_bins)
        self.num_bins = int(num_bins)
        self.from_logits = from_logits
        self.confidence = self._bins("confidence")
        self.correct = self._bins("correct")
        self.weight = self._bins("weight")

    def _bins(self, name):
        return self.add_variable(
            shape=(self.num_bins,), initializer="zeros", name=name
        )

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_pred = ops.cast(ops.convert_to_tensor(y_pred), "float32")
        if self.from_logits:
            y_pred = ops.softmax(y_pred)
        confidence = ops.max(y_pred, axis=-1)
        hit = ops.equal(ops.argmax(y_pred, axis=-1), _labels(y_true, y_pred))
        weight = ops.ones_like(confidence)
        if sample_weight is not None:
            weight = ops.cast(ops.convert_to_tensor(sample_weight), "float32")
            weight = ops.broadcast_to(
                ops.reshape(weight, (-1,)), ops.shape(confidence)
            )
        # 0.5 of 10 bins: 4 inner edges lie below it, so bin 4: closed on the
        # right. A product with the number of bins would round past an edge.
        edges = ops.convert_to_tensor(_inner_edges(self.num_bins))
        place = ops.searchsorted(edges, confidence, side="left")
        member = ops.one_hot(place, self.num_bins) * weight[:, None]
        hit = ops.cast(hit, "float32")
        self.confidence.assign_add(ops.sum(member * confidence[:, None], 0))
        self.correct.assign_add(ops.sum(member * hit[:, None], 0))
        self.weight.assign_add(ops.sum(member, 0))

    def result(self):
        gaps = ops.abs(self.correct.value - self.confidence.value)
        return ops.divide_no_nan(ops.sum(gaps), ops.sum(self.weight.value))

    def get_config(self):
        return {
            "num_bins": self.num_bins,
            "from_logits": self.from_logits,
            "name": self.name,
            "dtype": self.dtype,
        }


def _inner_edges(num_bins):
    """Upper edges of all bins but the last: equal ones over [0, 1]."""
    return np.arange(1, num_bins, dtype="float32") / np.float32(num_bins)


def _labels(y_true, y_pred):
    y_true = ops.convert_to_tensor(y_true)
    if len(y_true.shape) == 2 and y_true.shape[-1] == y_pred.shape[-1] > 1:
        return ops.argmax(y_true, axis=-1)
    return ops.cast(ops.reshape(y_true, (-1,)), "int32")


def reliability_bins(probabilities, labels, num_bins=15):
    """What a reliability diagram draws.

    Args:
        probabilities: Array `(examples, classes)`.
        labels: Integer array `(examples,)`.
        num_bins: Positive integer. Defaults to 15, as for
            `ExpectedCalibrationError`.

    Returns:
        Tuple of arrays `(confidence, accuracy, count)` of shape
        `(num_bins,)`; NaN where a bin is empty.

    Raises:
        ValueError: If `num_bins` is no positive integer, or there is not one
            label for each row of probabilities.

    Example:

    ```python
    confidence, accuracy, count = reliability_bins(p, y)
    ```
    """
    _check_num_bins(num_bins)
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    if probabilities.ndim != 2 or labels.size != len(probabilities):
        raise ValueError(
            "`labels` must have one integer for each row of `probabilities`, "
            f"an array (examples, classes). Received: {labels.shape} labels "
            f"for probabilities of shape {probabilities.shape}"
        )
    confidence = probabilities.max(axis=-1).astype("float32")
    hit = probabilities.argmax(axis=-1) == labels.reshape(-1)
    place = np.searchsorted(_inner_edges(num_bins), confidence, side="left")
    count = np.bincount(place, minlength=num_bins)

    def mean(values):
        total = np.bincount(place, weights=values, minlength=num_bins)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    return mean(confidence), mean(hit), count


def expected_calibration_error(probabilities, labels, num_bins=15):
    """Expected calibration error of arrays, see `ExpectedCalibrationError`.

    Args:
        probabilities: Array `(examples, classes)`.
        labels: Integer array `(examples,)`.
        num_bins: Positive integer. Defaults to 15 (Guo et al., 2017,
            arXiv:1706.04599).

    Returns:
        Float in [0, 1].

    Raises:
        ValueError: As for `reliability_bins`.

    Example:

    >>> expected_calibration_error([[0.75, 0.25], [0.75, 0.25]], [0, 1])
    0.25
    """
    bins = reliability_bins(probabilities, labels, num_bins)
    confidence, accuracy, count = bins
    filled = count > 0
    gaps = np.abs(accuracy - confidence)[filled]
    return float(np.sum(gaps * count[filled]) / max(count.sum(), 1))
