"""How well confidence matches accuracy: metrics that add up batches.

The exact functions of arrays are in `reliability.py`.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_freetickets.arguments import check_count
from keras_freetickets.metrics.base import ClassificationMetric
from keras_freetickets.metrics.bins import check_bins
from keras_freetickets.metrics.bins import inner_edges
from keras_freetickets.metrics.bins import interpolate
from keras_freetickets.metrics.bins import mass_edges
from keras_freetickets.metrics.grid import DOUBT
from keras_freetickets.metrics.grid import doubt
from keras_freetickets.metrics.grid import histogram
from keras_freetickets.metrics.validation import Rows
from keras_freetickets.types import Tensor


class _TopClassCalibration(ClassificationMetric):
    """Sums of confidence and hits over bins of confidence."""

    direction = "down"

    def __init__(
        self,
        num_bins: int = 15,
        from_logits: bool = False,
        binning: str = "equal_width",
        ignore_class: int | None = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(from_logits, ignore_class, name, dtype)
        check_bins(num_bins, binning)
        self.num_bins = num_bins
        self.binning = binning
        self.confidence = self._cells("confidence")
        self.correct = self._cells("correct")
        self.weight = self._cells("weight")

    def _cells(self, name):
        size = len(inner_edges(self.num_bins, self.binning)) + 1
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
        edges = inner_edges(self.num_bins, self.binning)
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
        edges = mass_edges(ops.sum(mass), self.num_bins)
        gaps = interpolate(edges, mass, gaps)
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
        name: Name of the metric; `None` (default) for `"ece"`.
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

    default_name = "ece"

    def result(self) -> Tensor:
        gaps, _ = self._gaps()
        return ops.divide_no_nan(ops.sum(gaps), ops.sum(self.weight.value))


@keras.saving.register_keras_serializable(package="keras_freetickets")
class MaximumCalibrationError(_TopClassCalibration):
    """Maximum calibration error (MCE): the worst bin's gap.

    It takes the largest |accuracy - confidence| of the bins that hold
    examples, where `ExpectedCalibrationError` takes the mean. A bin of one
    example weighs as much as one of a thousand: prefer few bins, or bins of
    equal mass.

    Args:
        num_bins, from_logits, binning, ignore_class, name, dtype: As for
            `ExpectedCalibrationError`; the name is `"mce"` by default.

    Raises:
        ValueError: As `ExpectedCalibrationError`.

    Example:

    ```python
    metric = MaximumCalibrationError(num_bins=10)
    metric.update_state([0, 1], [[0.8, 0.2], [0.6, 0.4]])
    metric.result()  # max(|1 - 0.8|, |0 - 0.6|) = 0.6
    ```
    """

    default_name = "mce"

    def result(self) -> Tensor:
        gaps, mass = self._gaps()
        return ops.max(ops.divide_no_nan(gaps, mass))

    def error_bound(self) -> float:
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
        num_bins, from_logits, ignore_class, name, dtype: As for
            `ExpectedCalibrationError`; the name is `"classwise_ece"` by
            default.

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

    default_name = "classwise_ece"
    direction = "down"

    def __init__(
        self,
        num_classes: int,
        num_bins: int = 15,
        from_logits: bool = False,
        ignore_class: int | None = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(from_logits, ignore_class, name, dtype)
        check_count("num_classes", num_classes, least=2)
        check_bins(num_bins, "equal_width")
        self.num_classes = num_classes
        self.num_bins = num_bins
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
        edges = ops.convert_to_tensor(inner_edges(self.num_bins))
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
