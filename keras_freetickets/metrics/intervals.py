"""Intervals around predictions: how often they hold, how long they are."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.arguments import check_boolean
from keras_freetickets.arguments import check_number
from keras_freetickets.metrics import validation
from keras_freetickets.types import Array
from keras_freetickets.types import Tensor


class MeanOfValues(keras.metrics.Metric):
    """Weighted mean over a batch of what a subclass makes of each element.

    Args:
        name: Name of the metric; `None` (default) for `default_name`.
        dtype: Unused; sums are kept in float32.
    """

    # The name of a metric that is given none.
    default_name: str | None = None
    # Which way is better, "up" or "down"; `None` if neither is.
    direction: str | None = None

    def __init__(self, name: str | None = None, dtype: Any = None) -> None:
        super().__init__(name=name or self.default_name, dtype=dtype)
        if self.direction is not None:
            keras_adapter.set_direction(self, self.direction)
        self.total = self._zeros("total")
        self.weight = self._zeros("weight")

    def _zeros(self, name):
        return self.add_variable(
            shape=(), initializer="zeros", dtype="float32", name=name
        )

    def values(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """One number for each element.

        Args:
            y_true: Targets.
            y_pred: Predictions.

        Returns:
            Tensor `(batch, ...)`.
        """
        raise NotImplementedError  # abstract

    def update_state(
        self,
        y_true: Tensor,
        y_pred: Tensor,
        sample_weight: Tensor | None = None,
    ) -> None:
        values = ops.cast(self.values(y_true, y_pred), "float32")
        weights = ops.ones_like(values)
        if sample_weight is not None:
            weights = validation.read_weights(sample_weight, ops.shape(values))
            weights = ops.cast(
                ops.reshape(weights, ops.shape(values)), "float32"
            )
        self.total.assign_add(ops.sum(values * weights))
        self.weight.assign_add(ops.sum(weights))

    def result(self) -> Tensor:
        return ops.divide_no_nan(self.total.value, self.weight.value)

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype}


def jackknife_intervals(
    predictions: Array,
    residuals: Array,
    coverage: float = 0.9,
    clip: bool = True,
) -> np.ndarray:
    """Jackknife+ intervals, from models that each left something out.

    With alpha = 1 - `coverage`, the lower end is the quantile alpha / 2 of all
    predictions minus residuals, and the upper end the quantile 1 - alpha / 2 of
    all predictions plus residuals. The models may be leave-one-out models with
    one residual each, or the members of an ensemble with the residuals that
    each has on data that it was not trained on; no Hessian is needed then.

    Args:
        predictions: Float array `(models, ...)`, a number for each thing to
            predict.
        residuals: Non-negative float array `(models,)`, or
            `(models, examples)` for several residuals of each model.
        coverage: Float in (0, 1). Defaults to 0.9, as in wulongfeng/CaliRare.
        clip: Whether the ends are clipped to [0, 1], for probabilities. True
            by default: unclipped, the midpoint of an interval is nearly the
            prediction, and EICE nearly 0, for any model.

    Returns:
        Float array `(..., 2)` of lower and upper ends.

    Raises:
        ValueError: If shapes disagree, residuals are negative, or `coverage`
            is not in (0, 1).

    Example:

    >>> jackknife_intervals([[0.5], [0.5]], [0.25, 0.25]).tolist()
    [[0.25, 0.75]]

    Reference:
        Barber et al., 2021, arXiv:1905.02928; Wu et al., 2023,
        arXiv:2307.09858.
    """
    check_boolean("clip", clip)
    if not 0 < float(coverage) < 1:
        check_number("coverage", coverage, "(0, 1)")
    predictions = np.asarray(predictions, "float64")
    residuals = np.asarray(residuals, "float64")
    fits = 1 <= residuals.ndim <= 2 and predictions.ndim >= 1
    if not fits or len(residuals) != len(predictions) or not len(predictions):
        raise ValueError(
            "`residuals` must be (models,) or (models, examples) for "
            "`predictions` (models, ...). Received: residuals of shape "
            f"{residuals.shape}, predictions of shape {predictions.shape}"
        )
    if not (residuals >= 0).all():
        raise ValueError(
            "`residuals` must be non-negative, absolute differences. "
            f"Received: residuals with {residuals.min()}"
        )
    shape = predictions.shape[1:]
    flat = predictions.reshape(len(predictions), -1)
    spread = residuals.reshape(len(residuals), -1)
    tail = (1 - coverage) / 2
    ends = np.empty((flat.shape[1], 2))
    for i in range(flat.shape[1]):
        column = flat[:, i : i + 1]
        ends[i, 0] = np.quantile(column - spread, tail)
        ends[i, 1] = np.quantile(column + spread, 1 - tail)
    ends = np.clip(ends, 0, 1) if clip else ends
    return ends.reshape(*shape, 2)


def _ends(intervals, of="y_pred"):
    intervals = ops.convert_to_tensor(intervals)
    if not intervals.shape or intervals.shape[-1] % 2:
        raise ValueError(
            f"`{of}` must hold lower ends and then as many upper ends, "
            f"(batch, ..., 2 * outputs). Received: shape {intervals.shape}"
        )
    return ops.split(intervals, 2, axis=-1)


def match_targets(y_true: Tensor, like: Tensor) -> Tensor:
    """Targets in the shape of predictions, with an axis of outputs.

    Args:
        y_true: Targets `(batch, ..., outputs)`, or `(batch, ...)` for one
            output.
        like: Tensor `(batch, ..., outputs)`.

    Raises:
        ValueError: If they differ in rank or in their number of outputs.
    """
    y_true = ops.cast(ops.convert_to_tensor(y_true), like.dtype)
    if len(y_true.shape) == len(like.shape) - 1:
        y_true = ops.expand_dims(y_true, -1)
    if len(y_true.shape) != len(like.shape) or (
        y_true.shape[-1] != like.shape[-1]
    ):
        raise ValueError(
            "`y_true` must have as many outputs as `y_pred` describes, "
            f"{like.shape[-1]}. Received: shape {y_true.shape}"
        )
    return y_true


@keras.saving.register_keras_serializable(package="keras_freetickets")
class IntervalCoverage(MeanOfValues):
    """Share of targets inside their interval, ends included.

    Good intervals of 95 % hold 95 % of the targets: more is not better.

    Args:
        name: Name of the metric; `None` (default) for `"interval_coverage"`.
        dtype: Unused; sums are kept in float32.

    Call arguments:
        y_true: Targets `(batch, ..., outputs)`, or `(batch, ...)` for one
            output.
        y_pred: Ends `(batch, ..., 2 * outputs)`: first the lower ones, then
            the upper ones.
        sample_weight: Optional weights `(batch,)` up to `(batch, ...)`.

    Raises:
        ValueError: When called, if shapes disagree.

    Example:

    >>> metric = IntervalCoverage()
    >>> float(metric([1.0, 5.0], [[0.0, 2.0], [0.0, 2.0]]))
    0.5
    """

    default_name = "interval_coverage"

    def values(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        low, high = _ends(y_pred)
        y_true = match_targets(y_true, low)
        inside = ops.logical_and(y_true >= low, y_true <= high)
        return ops.mean(ops.cast(inside, "float32"), axis=-1)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class IntervalLength(MeanOfValues):
    """Mean length of intervals, in the units of the targets.

    Of two models with the same coverage, the one of shorter intervals says
    more. `y_true` is read for its shape only.

    Args:
        name: Name of the metric; `None` (default) for `"interval_length"`.
        dtype: Unused; sums are kept in float32.

    Call arguments:
        y_true, y_pred, sample_weight: As for `IntervalCoverage`.

    Raises:
        ValueError: When called, if shapes disagree.

    Example:

    >>> metric = IntervalLength()
    >>> float(metric([1.0, 5.0], [[0.0, 2.0], [0.0, 4.0]]))
    3.0
    """

    default_name = "interval_length"
    direction = "down"

    def values(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        low, high = _ends(y_pred)
        match_targets(y_true, low)
        return ops.mean(high - low, axis=-1)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class ExpectedIndividualCalibrationError(MeanOfValues):
    """Expected individual calibration error (EICE) of a binary classifier.

    The mean of |p(v) - m(v)|: p is the predicted probability of class 1, and m
    the midpoint of an interval for the probability of class 1. Experimental:
    an interval [0, 1] says that nothing is known, and its midpoint is 0.5.
    Look at the length of intervals too.

    Args:
        name: Name of the metric; `None` (default) for `"eice"`.
        dtype: Unused; sums are kept in float32.

    Call arguments:
        y_true: Intervals `(batch, ..., 2)` of lower and upper ends, for
            example of `jackknife_intervals`. They are clipped to [0, 1] here.
        y_pred: Probabilities `(batch, ..., 2)`, or `(batch, ..., 1)` of class
            1.
        sample_weight: Optional weights `(batch,)` up to `(batch, ...)`.

    Raises:
        ValueError: When called, if shapes disagree.

    Example:

    >>> metric = ExpectedIndividualCalibrationError()
    >>> float(metric([[0.5, 1.0]], [[0.5, 0.5]]))  # |0.5 - 0.75|
    0.25

    Reference:
        Wu et al., 2023, arXiv:2307.09858. wulongfeng/CaliRare compares the
        larger of the two probabilities with the midpoint for class 1, which
        gives a large error for a confident example of class 0; here both are
        of class 1.
    """

    default_name = "eice"
    direction = "down"

    def values(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return individual_gaps(y_true, y_pred)


def individual_gaps(intervals: Tensor, y_pred: Tensor) -> Tensor:
    """|p - m| of each example, as `ExpectedIndividualCalibrationError` has it.

    Differentiable in `y_pred`; the midpoint m is a constant.

    Args:
        intervals: Lower and upper ends `(batch, ..., 2)`.
        y_pred: Probabilities `(batch, ..., 2)`, or `(batch, ..., 1)` of class
            1.

    Returns:
        Tensor `(batch, ...)`.

    Raises:
        ValueError: If shapes disagree.

    Example:

    >>> float(individual_gaps([[0.5, 1.0]], [[0.25]])[0])  # |0.25 - 0.75|
    0.5
    """
    y_pred = ops.convert_to_tensor(y_pred)
    intervals = ops.cast(ops.convert_to_tensor(intervals), y_pred.dtype)
    same = len(intervals.shape) == len(y_pred.shape)
    if not same or y_pred.shape[-1] not in (1, 2) or intervals.shape[-1] != 2:
        raise ValueError(
            "Intervals (batch, ..., 2) need probabilities of two classes, "
            "(batch, ..., 2) or (batch, ..., 1). Received: intervals of shape "
            f"{intervals.shape}, y_pred of shape {y_pred.shape}"
        )
    middle = ops.mean(ops.clip(intervals, 0.0, 1.0), axis=-1)
    return ops.abs(y_pred[..., -1] - ops.stop_gradient(middle))
