"""The loss of CaliRare's second phase."""

import typing

import keras
import numpy as np
from keras import ops

from keras_freetickets.arguments import check_number
from keras_freetickets.metrics.intervals import individual_gaps
from keras_freetickets.types import Array
from keras_freetickets.types import Config
from keras_freetickets.types import Tensor


def with_intervals(y: Array, intervals: Array) -> np.ndarray:
    """Labels and intervals as the targets of `IndividualCalibrationLoss`.

    Args:
        y: Labels 0 or 1, `(...,)`.
        intervals: Lower and upper ends `(..., 2)`.

    Returns:
        Float32 array `(..., 3)`.

    Raises:
        ValueError: If shapes disagree, labels are not 0 or 1, or an upper end
            is below the lower one.

    Example:

    >>> with_intervals([1], [[0.5, 1.0]]).tolist()
    [[1.0, 0.5, 1.0]]
    """
    y, intervals = np.asarray(y), np.asarray(intervals)
    if intervals.shape != (*y.shape, 2) or not np.isin(y, (0, 1)).all():
        raise ValueError(
            "`y` must be labels 0 or 1 of the shape (...,), `intervals` of the "
            f"shape (..., 2). Received: y of shape {y.shape} with the labels "
            f"{np.unique(y)[:5]}, intervals of shape {intervals.shape}"
        )
    ordered = intervals[..., 0] <= intervals[..., 1]  # and so not NaN
    if not ordered.all():
        raise ValueError(
            "`intervals` must be lower ends and upper ends that are not below "
            f"them. Received: intervals with {intervals[~ordered][0]}"
        )
    parts = [y[..., None].astype("float32"), intervals.astype("float32")]
    return np.concatenate(parts, axis=-1)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class IndividualCalibrationLoss(keras.losses.Loss):
    """(1 - weight) * cross-entropy + weight * |p - midpoint of the interval|.

    The second phase of CaliRare: a trained classifier of a rare class (label
    1) is trained a little longer, so that its probabilities move towards the
    midpoints of their jackknife+ intervals. The intervals are constants;
    compute them again every few steps. Train on labelled nodes that no score is
    computed from.

    Args:
        weight: Float in [0, 1], of the second term. Defaults to 0.1, as in
            wulongfeng/CaliRare.
        reduction: As for `keras.losses.Loss`.
        name: Name of the loss.
        dtype: As for `keras.losses.Loss`.

    Call arguments:
        y_true: Labels, lower and upper ends `(batch, ..., 3)`, as of
            `with_intervals`.
        y_pred: Logits `(batch, ..., 2)`.

    Raises:
        ValueError: If `weight` is out of range or, when called, shapes
            disagree.

    Example:

    ```python
    model.compile("adam", IndividualCalibrationLoss())
    targets = with_intervals(y, left_out.intervals())
    model.fit(x[None], targets[None], sample_weight=weights[None], epochs=20)
    ```

    Reference:
        Wu et al., 2023, arXiv:2307.09858. In wulongfeng/CaliRare the second
        term is computed from detached arrays and has no gradient, and logits
        pass through a softmax twice; here it has one, and they do not.
    """

    def __init__(
        self,
        weight: float = 0.1,
        reduction: str = "sum_over_batch_size",
        name: str = "individual_calibration",
        dtype: typing.Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        check_number("weight", weight)
        self.weight = weight

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        if y_true.shape[-1] != 3 or y_pred.shape[-1] != 2:
            raise ValueError(
                "`y_true` must hold labels and intervals (batch, ..., 3), and "
                "`y_pred` logits of two classes (batch, ..., 2). Received: "
                f"y_true of shape {y_true.shape}, y_pred of shape "
                f"{y_pred.shape}"
            )
        labels = ops.cast(y_true[..., 0], "int32")
        entropy = keras.losses.sparse_categorical_crossentropy(
            labels, y_pred, from_logits=True
        )
        gaps = individual_gaps(y_true[..., 1:], ops.softmax(y_pred))
        return (1 - self.weight) * entropy + self.weight * gaps

    def get_config(self) -> Config:
        return {**super().get_config(), "weight": self.weight}
