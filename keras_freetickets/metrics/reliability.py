"""How well confidence matches accuracy: exact functions of arrays.

The metrics that add up batches are in `calibration_error.py`.
"""

import numpy as np

from keras_freetickets.metrics import arrays
from keras_freetickets.metrics.bins import bin_sums
from keras_freetickets.metrics.bins import check_bins
from keras_freetickets.types import Tensor


def _top_class_sums(y_true, y_pred, num_bins, binning, ignore_class):
    check_bins(num_bins, binning)
    labels, probabilities = arrays.read_arrays(y_true, y_pred, ignore_class)
    confidence = probabilities.max(axis=-1)
    hit = probabilities.argmax(axis=-1) == labels
    return len(labels), *bin_sums(confidence, hit, num_bins, binning)


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
        num_bins: Positive integer. Defaults to 15 (Guo et al., 2017,
            arXiv:1706.04599).
        binning: As for `ExpectedCalibrationError`; exact for all.
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
        y_true, y_pred, num_bins, binning, ignore_class: As for
            `reliability_bins`.

    Returns:
        Float in [0, 1]; 0 for no examples.

    Raises:
        ValueError: As for `reliability_bins`.

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
        y_true, y_pred, num_bins, binning, ignore_class: As for
            `reliability_bins`.

    Returns:
        Float in [0, 1], the largest gap of a bin; 0 for no examples.

    Raises:
        ValueError: As for `reliability_bins`.

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
        y_true, y_pred, num_bins, binning, ignore_class: As for
            `reliability_bins`.

    Returns:
        Array `(classes,)`; its mean is `ClasswiseCalibrationError`.

    Raises:
        ValueError: As for `reliability_bins`.

    Example:

    >>> errors = classwise_calibration_errors([0, 1], [[0.8, 0.2], [0.6, 0.4]])
    >>> errors.round(4).tolist()
    [0.4, 0.4]
    """
    check_bins(num_bins, binning)
    labels, probabilities = arrays.read_arrays(y_true, y_pred, ignore_class)
    errors = []
    for k in range(probabilities.shape[-1]):
        _, confidence, hits = bin_sums(
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
        y_true, y_pred, num_bins, binning, ignore_class: As for
            `reliability_bins`.

    Returns:
        Array `(classes,)`; NaN for a class without examples.

    Raises:
        ValueError: As for `reliability_bins`.

    Example:

    >>> errors = calibration_errors_by_label([0] * 9 + [1], [[0.9, 0.1]] * 10)
    >>> errors.round(4).tolist()
    [0.1, 0.9]

    Reference:
        Wu et al., 2023, arXiv:2307.09858.
    """
    labels, probabilities = arrays.read_arrays(y_true, y_pred, ignore_class)
    errors = np.full(probabilities.shape[-1], np.nan)
    for k in np.unique(labels):
        own = labels == k
        errors[k] = expected_calibration_error(
            labels[own], probabilities[own], num_bins, binning
        )
    return errors
