"""Selective prediction: errors when the least confident are rejected."""

import keras
import numpy as np
from keras import ops

from keras_freetickets.metrics import arrays
from keras_freetickets.metrics.base import ClassificationMetric
from keras_freetickets.metrics.grid import DOUBT
from keras_freetickets.metrics.grid import doubt
from keras_freetickets.metrics.grid import histogram
from keras_freetickets.metrics.validation import Rows
from keras_freetickets.types import Tensor


def _harmonic_steps(before, count, backend):
    """`sum(1 / k)` for k in (before, before + count].

    By the expansion log(x + 1/2) + 1/24 (x + 1/2)^-2 - 7/960 (x + 1/2)^-4 of
    the harmonic numbers: too high by less than the next term, see
    `_harmonic_error`.
    """
    low, high = before + 0.5, before + count + 0.5

    def rest(x):
        return 1 / (24 * x**2) - 7 / (960 * x**4)

    return backend.log1p(count / low) + rest(high) - rest(low)


def _harmonic_error(before):
    """By how much `_harmonic_steps` may be too high."""
    return 31 / (8064 * (before + 0.5) ** 6)


def _lines(count, errors, backend):
    """What is summed for the area, of histograms from the surest cell on.

    Args:
        count: Examples of each cell.
        errors: Errors of each cell.
        backend: `keras.ops`, or NumPy for float64.

    Returns:
        Tuple of arrays, for each cell: examples before it, the sum of the
        risks in it, and what the sum of 1 / k has as a factor there.
    """
    before = backend.cumsum(count) - count
    rate = errors / backend.where(count == 0, 1.0, count)
    # Errors rise along a line inside a cell: E + (k - K) r of k examples.
    # Its share of k, summed: r m + (E - K r) sum(1 / k).
    start = backend.cumsum(errors) - errors - before * rate
    steps = _harmonic_steps(before, count, backend)
    return before, rate * count + start * steps, start


def _read(scores, counted):
    """The scores of what counts, as a row."""
    scores = np.asarray(scores)
    if scores.size != counted.size or np.isnan(scores).any():
        raise ValueError(
            "`scores` must hold one number for each example, no NaN. "
            f"Received: {scores.size} scores for {counted.size} examples"
        )
    return scores.reshape(-1)[counted.reshape(-1)]


@keras.saving.register_keras_serializable(package="keras_freetickets")
class AURC(ClassificationMetric):
    """Area under the risk-coverage curve.

    Examples are taken in the order of their largest probability. The risk at
    coverage k / n is the share of errors among the k surest; the area is its
    mean over k. 0 is perfect. Examples of equal confidence share their errors,
    which is the mean over their orders. (torch-uncertainty's AURC joins the
    curve's points by straight lines and differs where many confidences are
    equal: in one case it gives .2175, this metric .1987.) The metric keeps a
    histogram of confidence (cells of 1/1024 of 1 - confidence):
    `error_bound()` says how far the value may be off; the function
    `area_under_risk_coverage` is exact.

    Args:
        from_logits, ignore_class, name, dtype: As for
            `ExpectedCalibrationError`; the name is `"aurc"` by default.

    Call arguments:
        y_true, y_pred: As for `ExpectedCalibrationError`.
        sample_weight: Optional weights `(batch,)` up to `(batch, ...)`,
            integers: an example of weight 2 counts as two. There is no
            coverage for a part of an example, and weights below 1 bias the
            area.

    Raises:
        ValueError: If `y_pred` has no axis of classes, there is not one
            label for each example or, called eagerly, rows do not sum to one
            or labels are not classes.

    Example:

    ```python
    metric = AURC()
    metric.update_state([0, 1], [[0.9, 0.1], [0.8, 0.2]])
    metric.result()  # (0/1 + 1/2) / 2 = 0.25
    ```

    Reference:
        Geifman et al., 2019, arXiv:1805.08206.
    """

    default_name = "aurc"
    direction = "down"

    def make_state(self) -> None:
        self.count = self._zeros("count", (DOUBT.size,))
        self.errors = self._zeros("errors", (DOUBT.size,))

    def update_rows(self, rows: Rows) -> None:
        place = doubt(ops.max(rows.probabilities, axis=-1))
        wrong = rows.weights * (1.0 - rows.hits)
        self.count.assign_add(histogram(DOUBT, place, rows.weights))
        self.errors.assign_add(histogram(DOUBT, place, wrong))

    def result(self) -> Tensor:
        count, errors = self.count.value, self.errors.value
        _, risks, _ = _lines(count, errors, ops)
        return ops.divide_no_nan(ops.sum(risks), ops.sum(count))

    def error_bound(self) -> float:
        """How far `result` may be from the value of all examples, at most.

        Returns:
            Float, for weights that are non-negative integers. It allows for
            errors that come before or after the hits of their cell, for sums
            of 1 / k that are approximated, and for the rounding of `result`
            to float32.
        """
        count = ops.convert_to_numpy(self.count.value).astype("float64")
        errors = ops.convert_to_numpy(self.errors.value).astype("float64")
        filled = count != 0
        if not filled.any():
            return 0.0
        count, errors = count[filled], errors[filled]
        before, risks, start = _lines(count, errors, np)
        # The line is missed by e (m - e) / m at most, at each k of the cell.
        spread = errors * (count - errors) / count
        spread = spread * _harmonic_steps(before, count, np)
        expansion = np.abs(start) * _harmonic_error(before)
        rounding = abs(float(self.result()) - risks.sum() / count.sum())
        return float(np.sum(spread + expansion) / count.sum() + rounding)


def risk_coverage_curve(
    y_true: Tensor,
    y_pred: Tensor,
    scores: Tensor | None = None,
    ignore_class: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The share of errors among the surest examples, for each number of them.

    Args:
        y_true: Labels, an integer array `(examples, ...)`, or one-hot
            `(examples, ..., classes)`.
        y_pred: Probabilities, an array `(examples, ..., classes)`, or
            `(examples, ..., 1)` of class 1.
        scores: Array `(examples, ...)`, higher for surer examples; the
            largest probability if `None`.
        ignore_class: Integer, the label that is not counted, or `None`
            (default).

    Returns:
        Tuple of arrays `(coverage, risk)` with an entry for each label that
        counts; the coverage rises from 1 / length to 1. Equal scores share
        their errors.

    Raises:
        ValueError: If there are no examples, rows do not sum to one, labels
            are not classes, the labels were given second, or there is not one
            score, other than NaN, for each example.

    Example:

    >>> curve = risk_coverage_curve([0, 1], [[0.9, 0.1], [0.8, 0.2]])
    >>> [part.tolist() for part in curve]
    [[0.5, 1.0], [0.0, 0.5]]
    """
    labels, rows, counted = arrays.read_counted_arrays(
        y_true, y_pred, ignore_class
    )
    if not len(labels):
        raise ValueError(
            "`y_true` must hold one example or more. Received: y_true=[]"
        )
    wrong = rows.argmax(axis=-1) != labels
    scores = rows.max(axis=-1) if scores is None else _read(scores, counted)
    _, place, count = np.unique(
        -scores, return_inverse=True, return_counts=True
    )
    errors = np.bincount(place, weights=wrong)
    ends = np.concatenate([[0], np.cumsum(count)])
    ranks = np.arange(1, len(labels) + 1)
    up_to = np.interp(ranks, ends, np.concatenate([[0], np.cumsum(errors)]))
    return ranks / len(labels), up_to / ranks


def area_under_risk_coverage(
    y_true: Tensor,
    y_pred: Tensor,
    scores: Tensor | None = None,
    ignore_class: int | None = None,
) -> float:
    """Exact area under the risk-coverage curve, see `AURC`.

    Args:
        y_true, y_pred, scores, ignore_class: As for `risk_coverage_curve`.

    Returns:
        Float in [0, 1].

    Raises:
        ValueError: As `risk_coverage_curve`.

    Example:

    >>> area_under_risk_coverage([0, 1], [[0.9, 0.1], [0.8, 0.2]])
    0.25
    """
    curve = risk_coverage_curve(y_true, y_pred, scores, ignore_class)
    return float(np.mean(curve[1]))
