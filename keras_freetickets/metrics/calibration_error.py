"""How well confidence matches accuracy."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.arguments import check_choice
from keras_freetickets.arguments import check_count
from keras_freetickets.metrics import validation
from keras_freetickets.metrics.base import ClassificationMetric
from keras_freetickets.metrics.grid import DOUBT
from keras_freetickets.metrics.grid import doubt
from keras_freetickets.metrics.grid import histogram
from keras_freetickets.metrics.validation import Rows
from keras_freetickets.types import Tensor

_BINNINGS = ("equal_width", "equal_mass", "freetickets")


class _TopClassCalibration(ClassificationMetric):
    """Sums of confidence and hits over bins of confidence."""

    def __init__(
        self,
        num_bins: int,
        from_logits: bool,
        binning: str,
        ignore_class: int | None,
        name: str,
        dtype: Any,
    ) -> None:
        super().__init__(from_logits, ignore_class, name, dtype)
        _check_bins(num_bins, binning)
        self.num_bins = num_bins
        self.binning = binning
        keras_adapter.set_direction(self, "down")
        self.confidence = self._cells("confidence")
        self.correct = self._cells("correct")
        self.weight = self._cells("weight")

    def _cells(self, name):
        size = len(_inner_edges(self.num_bins, self.binning)) + 1
        if self.binning == "equal_mass":
            size = DOUBT.size
        return self._zeros(name, (size,))

    def update_rows(self, rows: Rows) -> None:
        confidence = ops.max(rows.probabilities, axis=-1)
        hit, weight = rows.hits, rows.weights
        self.weight.assign_add(self._sums(confidence, weight))
        if self.binning == "freetickets":
            # A confidence that was rounded above 1 falls in no bin there, but
            # is counted among the examples.
            weight = ops.where(confidence > 1, 0.0, weight)
        self.confidence.assign_add(self._sums(confidence, weight * confidence))
        self.correct.assign_add(self._sums(confidence, weight * hit))

    def _sums(self, confidence, values):
        if self.binning == "equal_mass":
            return histogram(DOUBT, doubt(confidence), values)
        # 0.5 of 10 bins: 4 inner edges lie below it, so bin 4: closed on the
        # right. A product with the number of bins would round past an edge.
        edges = _inner_edges(self.num_bins, self.binning)
        place = ops.searchsorted(
            ops.convert_to_tensor(edges), confidence, side="left"
        )
        return ops.segment_sum(values, place, num_segments=len(edges) + 1)

    def _gaps(self):
        """|correct - confidence| summed over each bin, and the bins' mass."""
        gaps = self.correct.value - self.confidence.value
        mass = self.weight.value
        if self.binning != "equal_mass":
            return ops.abs(gaps), mass
        edges = _mass_edges(ops.sum(mass), self.num_bins)
        gaps = _interpolate(edges, mass, gaps)
        return ops.abs(gaps[1:] - gaps[:-1]), edges[1:] - edges[:-1]

    def error_bound(self) -> float:
        """How far `result` of equal mass may be from the value of all examples.

        Returns:
            Float, 0 for bins of equal width, which are exact.
        """
        mass = ops.convert_to_numpy(self.weight.value).astype("float64")
        if self.binning != "equal_mass" or not mass.sum():
            return 0.0
        # Inside the cell that an edge cuts the order is not known: the sum of
        # gaps up to the edge is off by half the mass of the cell at most, and
        # the edge has two neighbours. No error is above 1.
        edges = mass.sum() * np.arange(1, self.num_bins) / self.num_bins
        cut = np.searchsorted(np.cumsum(mass), edges, side="left")
        return min(1.0, float(mass[cut].sum() / mass.sum()))

    def get_config(self) -> dict[str, Any]:
        return {
            "num_bins": self.num_bins,
            "binning": self.binning,
            **super().get_config(),
        }


@keras.saving.register_keras_serializable(package="keras_freetickets")
class ExpectedCalibrationError(_TopClassCalibration):
    """Expected calibration error (ECE) of class probabilities.

    The confidence of an example is its largest probability. Examples are
    sorted into bins of confidence; the error is the mean over the examples of
    their bin's |accuracy - confidence|. 0 is perfect, 1 the worst. Exact for
    bins of equal width. Bins of equal mass are cut from a fine histogram
    (cells of 1/1024 of 1 - confidence): `error_bound()` says how far the value
    may be off, `expected_calibration_error` is exact.

    Args:
        num_bins: Positive integer. Defaults to 15 (Guo et al., 2017,
            arXiv:1706.04599).
        from_logits: Whether predictions are logits.
        binning: `"equal_width"`: `(i / n, (i + 1) / n]`, as Guo et al. have
            it (torchmetrics 1.9 closes bins on the left, so that a confidence
            on an edge counts one bin higher there). `"equal_mass"`: each bin
            holds the same number of examples; one that an edge cuts counts in
            both bins in proportion, and equal confidences are shared alike.
            `"freetickets"`: as the scripts of VITA-Group/FreeTickets have it,
            `num_bins` edges and so one bin less (14 for 15), a confidence
            rounded above 1 in none of them.
        ignore_class: Integer, the label that is not counted, or `None`
            (default).
        name: Name of the metric.
        dtype: Unused; sums are kept in float32.

    Call arguments:
        y_true: Integer labels `(batch, ...)` or `(batch, ..., 1)`, or one-hot
            `(batch, ..., classes)`.
        y_pred: Probabilities or logits `(batch, ..., classes)`, or
            `(batch, ..., 1)` of class 1. The confidence of a binary
            prediction is that of the likelier class, not of class 1.
        sample_weight: Optional weights `(batch,)` up to `(batch, ...)`.

    Raises:
        ValueError: If an argument is out of range, `y_pred` has no axis of
            classes, there is not one label for each example or, called
            eagerly, rows do not sum to one or labels are not classes.

    Example:

    ```python
    metric = ExpectedCalibrationError(num_bins=10)
    metric.update_state([0, 1], [[0.8, 0.2], [0.6, 0.4]])
    metric.result()  # (|1 - 0.8| + |0 - 0.6|) / 2 = 0.4
    ```
    """

    def __init__(
        self,
        num_bins: int = 15,
        from_logits: bool = False,
        binning: str = "equal_width",
        ignore_class: int | None = None,
        name: str = "ece",
        dtype: Any = None,
    ) -> None:
        super().__init__(
            num_bins, from_logits, binning, ignore_class, name, dtype
        )

    def result(self) -> Tensor:
        gaps, _ = self._gaps()
        return ops.divide_no_nan(ops.sum(gaps), ops.sum(self.weight.value))


@keras.saving.register_keras_serializable(package="keras_freetickets")
class MaximumCalibrationError(_TopClassCalibration):
    """Maximum calibration error (MCE): the worst bin's gap.

    As `ExpectedCalibrationError`, but the largest |accuracy - confidence| of
    the bins that hold examples in place of their mean. A bin of one example
    weighs as much as one of a thousand: prefer few bins, or equal mass.

    Args:
        num_bins: Positive integer. Defaults to 15 (Guo et al., 2017,
            arXiv:1706.04599).
        from_logits: Whether predictions are logits.
        binning: As for `ExpectedCalibrationError`.
        ignore_class: Integer, the label that is not counted, or `None`
            (default).
        name: Name of the metric.
        dtype: Unused; sums are kept in float32.

    Raises:
        ValueError: As `ExpectedCalibrationError`.

    Example:

    ```python
    metric = MaximumCalibrationError(num_bins=10)
    metric.update_state([0, 1], [[0.8, 0.2], [0.6, 0.4]])
    metric.result()  # max(|1 - 0.8|, |0 - 0.6|) = 0.6
    ```
    """

    def __init__(
        self,
        num_bins: int = 15,
        from_logits: bool = False,
        binning: str = "equal_width",
        ignore_class: int | None = None,
        name: str = "mce",
        dtype: Any = None,
    ) -> None:
        super().__init__(
            num_bins, from_logits, binning, ignore_class, name, dtype
        )

    def result(self) -> Tensor:
        gaps, mass = self._gaps()
        return ops.max(ops.divide_no_nan(gaps, mass))

    def error_bound(self) -> float:
        """How far `result` of equal mass may be from the value of all examples.

        Returns:
            Float, 0 for bins of equal width, which are exact.
        """
        # The worst bin has two edges and 1 / num_bins of the mass.
        return min(1.0, super().error_bound() * self.num_bins)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class ClasswiseCalibrationError(ClassificationMetric):
    """Mean over the classes of each class's calibration error.

    For class k the confidence of every example is its probability of k, and
    it is a hit if its label is k. The pooled error hides rare classes; this
    does not. Exact, bins of equal width; `classwise_calibration_errors` has
    equal mass too and gives the classes one by one.

    Args:
        num_classes: Integer, at least 2; 2 for predictions of one column.
        num_bins: Positive integer. Defaults to 15, as the pooled error.
        from_logits: Whether predictions are logits.
        ignore_class: Integer, the label that is not counted, or `None`
            (default).
        name: Name of the metric.
        dtype: Unused; sums are kept in float32.

    Raises:
        ValueError: If `y_pred` does not have `num_classes` classes, and as
            `ExpectedCalibrationError`.

    Example:

    ```python
    metric = ClasswiseCalibrationError(num_classes=2, num_bins=10)
    metric.update_state([0, 1], [[0.8, 0.2], [0.6, 0.4]])
    metric.result()  # ((0.2 + 0.6) / 2 + (0.2 + 0.6) / 2) / 2 = 0.4
    ```

    Reference:
        Kull et al., 2019, arXiv:1910.12656.
    """

    def __init__(
        self,
        num_classes: int,
        num_bins: int = 15,
        from_logits: bool = False,
        ignore_class: int | None = None,
        name: str = "classwise_ece",
        dtype: Any = None,
    ) -> None:
        super().__init__(from_logits, ignore_class, name, dtype)
        check_count("num_classes", num_classes, least=2)
        _check_bins(num_bins, "equal_width")
        self.num_classes = num_classes
        self.num_bins = num_bins
        keras_adapter.set_direction(self, "down")
        self.gaps = self._zeros("gaps", (num_classes * num_bins,))
        self.weight = self._zeros("weight")

    def update_rows(self, rows: Rows) -> None:
        y_pred, weight = rows.probabilities, rows.weights
        if y_pred.shape[-1] != self.num_classes:
            raise ValueError(
                "`y_pred` must have as many classes as `num_classes`. "
                f"Received: y_pred of {y_pred.shape[-1]} classes, "
                f"num_classes={self.num_classes}"
            )
        edges = ops.convert_to_tensor(_inner_edges(self.num_bins))
        place = ops.searchsorted(edges, ops.reshape(y_pred, (-1,)), "left")
        # Row k of the bins belongs to class k.
        row = ops.arange(self.num_classes, dtype="int32") * self.num_bins
        place = ops.reshape(place, (-1, self.num_classes)) + row
        gap = ops.one_hot(rows.labels, self.num_classes) - y_pred
        self.gaps.assign_add(
            ops.segment_sum(
                ops.reshape(gap * weight[:, None], (-1,)),
                ops.reshape(place, (-1,)),
                num_segments=self.num_classes * self.num_bins,
            )
        )
        self.weight.assign_add(ops.sum(weight))

    def result(self) -> Tensor:
        total = ops.sum(ops.abs(self.gaps.value))
        return ops.divide_no_nan(total, self.weight.value * self.num_classes)

    def get_config(self) -> dict[str, Any]:
        return {
            "num_classes": self.num_classes,
            "num_bins": self.num_bins,
            **super().get_config(),
        }


def _check_bins(num_bins, binning):
    check_choice("binning", binning, _BINNINGS)
    check_count("num_bins", num_bins)
    if binning == "freetickets" and num_bins < 2:
        raise ValueError(
            "`num_bins` must be 2 or more for `binning='freetickets'`, which "
            f"makes one bin less. Received: num_bins={num_bins}"
        )


def _inner_edges(num_bins, binning="equal_width"):
    """Upper edges of all bins but the last: equal ones over [0, 1]."""
    if binning == "freetickets":
        num_bins = num_bins - 1
    return np.arange(1, num_bins, dtype="float32") / np.float32(num_bins)


def _mass_edges(total, num_bins):
    steps = ops.arange(num_bins + 1, dtype="float32") / num_bins
    return total * steps


def _interpolate(edges, mass, values):
    """The sum of `values` up to each edge of the accumulated mass.

    A cell that an edge cuts gives as much of its value as of its mass.
    """
    ends = ops.cumsum(mass)
    cell = ops.searchsorted(ends, edges, side="left")
    cell = ops.minimum(cell, mass.shape[0] - 1)
    inside = ops.take(mass, cell)
    part = edges - (ops.take(ends, cell) - inside)
    share = ops.clip(ops.divide_no_nan(part, inside), 0.0, 1.0)
    value = ops.take(values, cell)
    return ops.take(ops.cumsum(values), cell) - (1.0 - share) * value


def _bin_sums(confidence, hit, num_bins, binning):
    """Count, summed confidence and summed hits of each bin."""
    if binning == "equal_mass":
        return _equal_mass_sums(confidence, hit, num_bins)
    edges = _inner_edges(num_bins, binning)
    # Whether it is on an edge is asked in float32, as by the metric.
    rounded = confidence.astype("float32")
    place = np.searchsorted(edges, rounded, side="left")
    counted = np.ones(len(confidence), bool)
    if binning == "freetickets":
        counted = rounded <= 1

    def total(values):
        values = np.asarray(values, "float64")[counted]
        return np.bincount(
            place[counted], weights=values, minlength=len(edges) + 1
        )

    return total(np.ones(len(place))), total(confidence), total(hit)


def _equal_mass_sums(confidence, hit, num_bins):
    # Equal confidences are one step, so that the order of examples does not
    # matter; highest first, as in the metric.
    _, place, count = np.unique(
        -confidence, return_inverse=True, return_counts=True
    )
    ends = np.concatenate([[0], np.cumsum(count)])
    edges = len(confidence) * np.arange(num_bins + 1) / num_bins

    def total(values):
        steps = np.bincount(
            place, weights=np.asarray(values, "float64"), minlength=len(count)
        )
        accumulated = np.concatenate([[0], np.cumsum(steps)])
        return np.diff(np.interp(edges, ends, accumulated))

    # Lowest confidence first.
    sums = np.diff(edges), total(confidence), total(hit)
    return tuple(values[::-1] for values in sums)


def _top_class_sums(y_true, y_pred, num_bins, binning, ignore_class):
    _check_bins(num_bins, binning)
    labels, probabilities = validation.read_arrays(y_true, y_pred, ignore_class)
    confidence = probabilities.max(axis=-1)
    hit = probabilities.argmax(axis=-1) == labels
    return len(labels), *_bin_sums(confidence, hit, num_bins, binning)


def reliability_bins(
    y_true: Tensor,
    y_pred: Tensor,
    num_bins: int = 15,
    binning: str = "equal_width",
    ignore_class: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence, accuracy and count of each bin of a reliability diagram.

    Args:
        y_true: Labels, an integer array `(examples, ...)`, or one-hot
            `(examples, ..., classes)`.
        y_pred: Probabilities, an array `(examples, ..., classes)`, or
            `(examples, ..., 1)` of class 1.
        num_bins: Positive integer.
        binning: As for `ExpectedCalibrationError`.
        ignore_class: Integer, the label that is not counted, or `None`
            (default).

    Returns:
        Tuple of arrays `(confidence, accuracy, count)` of shape
        `(num_bins,)`, for `"freetickets"` `(num_bins - 1,)`; confidence and
        accuracy are NaN where a bin is empty.

    Raises:
        ValueError: If rows do not sum to one, labels are not classes, or the
            labels were given second.

    Example:

    ```python
    confidence, accuracy, count = reliability_bins(y, p)
    ```
    """
    _, count, confidence, hits = _top_class_sums(
        y_true, y_pred, num_bins, binning, ignore_class
    )
    filled = np.where(count > 0, count, np.nan)
    if binning != "equal_mass":
        count = count.astype(int)
    return confidence / filled, hits / filled, count


def expected_calibration_error(
    y_true: Tensor,
    y_pred: Tensor,
    num_bins: int = 15,
    binning: str = "equal_width",
    ignore_class: int | None = None,
) -> float:
    """Expected calibration error of arrays, see `ExpectedCalibrationError`.

    Args:
        y_true: Labels, an integer array `(examples, ...)`, or one-hot
            `(examples, ..., classes)`.
        y_pred: Probabilities, an array `(examples, ..., classes)`, or
            `(examples, ..., 1)` of class 1.
        num_bins: Positive integer. Defaults to 15 (Guo et al., 2017,
            arXiv:1706.04599).
        binning: As for `ExpectedCalibrationError`; exact for all.
        ignore_class: Integer, the label that is not counted, or `None`
            (default).

    Returns:
        Float in [0, 1]; 0 for no examples.

    Raises:
        ValueError: If rows do not sum to one, labels are not classes, or the
            labels were given second.

    Example:

    >>> expected_calibration_error([0, 1], [[0.75, 0.25], [0.75, 0.25]])
    0.25
    """
    total, _, confidence, hits = _top_class_sums(
        y_true, y_pred, num_bins, binning, ignore_class
    )
    return float(np.abs(hits - confidence).sum() / max(total, 1))


def maximum_calibration_error(
    y_true: Tensor,
    y_pred: Tensor,
    num_bins: int = 15,
    binning: str = "equal_width",
    ignore_class: int | None = None,
) -> float:
    """Maximum calibration error of arrays, see `MaximumCalibrationError`.

    Args:
        y_true: Labels, an integer array `(examples, ...)`, or one-hot
            `(examples, ..., classes)`.
        y_pred: Probabilities, an array `(examples, ..., classes)`, or
            `(examples, ..., 1)` of class 1.
        num_bins: Positive integer. Defaults to 15, as for the expected error.
        binning: As for `ExpectedCalibrationError`; exact for all.
        ignore_class: Integer, the label that is not counted, or `None`
            (default).

    Returns:
        Float in [0, 1]; 0 for no examples.

    Raises:
        ValueError: If rows do not sum to one, labels are not classes, or the
            labels were given second.

    Example:

    >>> maximum_calibration_error([0, 1], [[0.75, 0.25], [0.75, 0.25]])
    0.25
    """
    _, count, confidence, hits = _top_class_sums(
        y_true, y_pred, num_bins, binning, ignore_class
    )
    filled = count > 0
    gaps = np.abs(hits - confidence)[filled] / count[filled]
    return float(gaps.max(initial=0.0))


def classwise_calibration_errors(
    y_true: Tensor,
    y_pred: Tensor,
    num_bins: int = 15,
    binning: str = "equal_width",
    ignore_class: int | None = None,
) -> np.ndarray:
    """Calibration error of the probabilities of each class.

    Args:
        y_true: Labels, an integer array `(examples, ...)`, or one-hot
            `(examples, ..., classes)`.
        y_pred: Probabilities, an array `(examples, ..., classes)`, or
            `(examples, ..., 1)` of class 1.
        num_bins: Positive integer. Defaults to 15, as for the pooled error.
        binning: As for `ExpectedCalibrationError`; exact for all.
        ignore_class: Integer, the label that is not counted, or `None`
            (default).

    Returns:
        Array `(classes,)`; its mean is `ClasswiseCalibrationError`.

    Raises:
        ValueError: If rows do not sum to one, labels are not classes, or the
            labels were given second.

    Example:

    >>> errors = classwise_calibration_errors([0, 1], [[0.8, 0.2], [0.6, 0.4]])
    >>> errors.round(4).tolist()
    [0.4, 0.4]
    """
    _check_bins(num_bins, binning)
    labels, probabilities = validation.read_arrays(y_true, y_pred, ignore_class)
    errors = []
    for k in range(probabilities.shape[-1]):
        _, confidence, hits = _bin_sums(
            probabilities[:, k], labels == k, num_bins, binning
        )
        total = np.abs(hits - confidence).sum()
        errors.append(total / max(len(labels), 1))
    return np.array(errors)


def calibration_errors_by_label(
    y_true: Tensor,
    y_pred: Tensor,
    num_bins: int = 15,
    binning: str = "equal_width",
    ignore_class: int | None = None,
) -> np.ndarray:
    """Expected calibration error among the examples of each label.

    A model that always predicts the class frequencies is well calibrated on
    average, but wrong about every example of a rare class.

    Args:
        y_true: Labels, an integer array `(examples, ...)`, or one-hot
            `(examples, ..., classes)`.
        y_pred: Probabilities, an array `(examples, ..., classes)`, or
            `(examples, ..., 1)` of class 1.
        num_bins: Positive integer. Defaults to 15, as for the pooled error.
        binning: As for `ExpectedCalibrationError`; exact for all.
        ignore_class: Integer, the label that is not counted, or `None`
            (default).

    Returns:
        Array `(classes,)`; NaN for a class without examples.

    Raises:
        ValueError: If rows do not sum to one, labels are not classes, or the
            labels were given second.

    Example:

    >>> errors = calibration_errors_by_label([0] * 9 + [1], [[0.9, 0.1]] * 10)
    >>> errors.round(4).tolist()
    [0.1, 0.9]

    Reference:
        Wu et al., 2023, arXiv:2307.09858.
    """
    labels, probabilities = validation.read_arrays(y_true, y_pred, ignore_class)
    errors = np.full(probabilities.shape[-1], np.nan)
    for k in np.unique(labels):
        own = labels == k
        errors[k] = expected_calibration_error(
            labels[own], probabilities[own], num_bins, binning
        )
    return errors
