"""Layers that turn predictions into calibrated probabilities.

They are fitted by NumPy, deterministically, and then are ordinary layers: they
run on every backend, are saved with a model and exported with it.
"""

import typing
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import check_number
from keras_freetickets.calibration import fitting
from keras_freetickets.metrics import validation
from keras_freetickets.types import Tensor


class Calibrator(keras.layers.Layer):
    """Base class of layers that calibrate predictions.

    The single column of a binary classifier, the probability or logit of
    class 1, comes back as a single column.

    Args:
        from_logits: Whether the inputs are logits.
        name: Name of the layer.
        **kwargs: Further arguments of `keras.layers.Layer`. Computes in
            float32 under any dtype policy.

    Example:

    ```python
    scaling = TemperatureScaling().fit(labels, validation_probabilities)
    calibrated = scaling(test_probabilities)
    ```
    """

    built: bool

    def __init__(
        self, from_logits: bool = False, name: str | None = None, **kwargs: Any
    ) -> None:
        kwargs["trainable"] = False
        # Whatever the policy is: half precision would change the fit.
        kwargs["dtype"] = "float32"
        super().__init__(name=name, **kwargs)
        self.from_logits = from_logits
        self.supports_masking = True  # padded tokens stay masked

    def fit(
        self, y_true: Tensor, y_pred: Tensor, ignore_class: int | None = None
    ) -> typing.Self:
        """Fits the layer to held-out predictions.

        Args:
            y_true: Labels, an integer array `(examples, ...)`, or one-hot
                `(examples, ..., classes)`.
            y_pred: Array `(examples, ..., classes)` of probabilities, or
                of logits if `from_logits`; or `(examples, ..., 1)` of class 1.
            ignore_class: Integer, the label that is not counted, or `None`
                (default).

        Returns:
            The layer.

        Raises:
            ValueError: If there are no examples or only of one class, labels
                are not classes or were given second, or rows of
                probabilities do not sum to one.
        """
        labels, predictions = fitting.read_held_out(
            y_true, y_pred, self.from_logits, ignore_class
        )
        self._fit(labels, predictions)
        return self

    def _fit(self, labels, predictions):
        """Fits to labels `(rows,)` and float64 rows `(rows, classes)`."""
        raise NotImplementedError  # abstract

    def _calibrated(self, predictions):
        """Probabilities of float32 predictions `(..., classes)`."""
        raise NotImplementedError  # abstract

    def call(self, predictions: Tensor) -> Tensor:
        predictions = ops.cast(predictions, "float32")
        one_column = predictions.shape[-1] == 1
        both = validation.two_columns(predictions, self.from_logits)
        return validation.as_given(self._calibrated(both), one_column)

    def _logits(self, predictions):
        if self.from_logits:
            return predictions
        return ops.log(ops.maximum(predictions, fitting.TINY))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["trainable"], config["dtype"]
        return {**config, "from_logits": self.from_logits}


@keras.saving.register_keras_serializable(package="keras_freetickets")
class TemperatureScaling(Calibrator):
    """Divides the logits by one number: `softmax(z / T)`.

    T minimizes the cross-entropy of held-out predictions, which is convex in
    1 / T; it is found by bisection in [0.01, 100]. The chosen class never
    changes. If the inputs are probabilities, it divides their logarithms.

    Args:
        from_logits, name, **kwargs: As for `Calibrator`.

    Example:

    ```python
    scaling = TemperatureScaling(from_logits=True).fit(labels, logits)
    scaling.temperature  # above 1 if the model is overconfident
    probabilities = scaling(test_logits)
    ```

    Reference:
        Guo et al., 2017, arXiv:1706.04599.
    """

    def build(self, input_shape: Any = None) -> None:
        self.scale = self.add_weight(
            shape=(), initializer="ones", dtype="float32", name="temperature"
        )

    @property
    def temperature(self) -> float:
        """The temperature, a float; 1 before `fit`."""
        return float(self.scale.value) if self.built else 1.0

    def _fit(self, labels, predictions):
        logits = fitting.as_logits(predictions, self.from_logits)
        value = fitting.best_temperature(logits, labels)
        if not self.built:
            self.build(predictions.shape)
            self.built = True
        self.scale.assign(value)

    def _calibrated(self, predictions):
        return ops.softmax(self._logits(predictions) / self.scale)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class VectorScaling(Calibrator):
    """Scales and shifts the logits of each class: `softmax(w * z + b)`.

    Newton's method minimizes the cross-entropy of held-out predictions, a
    convex function, plus a small penalty for the distance from
    `w = 1, b = 0`. Without the penalty, predictions that are all right would
    have no best fit.

    Args:
        penalty: Non-negative float, the factor of half the squared distance.
            Defaults to 1e-4 (ours; Guo et al., 2017, have none).
        from_logits, name, **kwargs: As for `Calibrator`.

    Raises:
        ValueError: If the penalty is negative.

    Example:

    ```python
    scaling = VectorScaling(from_logits=True).fit(labels, logits)
    probabilities = scaling(test_logits)
    ```

    Reference:
        Guo et al., 2017, arXiv:1706.04599.
    """

    def __init__(
        self,
        penalty: float = 1e-4,
        from_logits: bool = False,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(from_logits, name=name, **kwargs)
        check_number("penalty", penalty, "[0, inf)")
        self.penalty = penalty

    def build(self, input_shape: Any) -> None:
        self.scale, self.shift = (
            self.add_weight(
                shape=(max(2, input_shape[-1]),),
                initializer=initializer,
                dtype="float32",
                name=name,
            )
            for name, initializer in (("scale", "ones"), ("shift", "zeros"))
        )

    def _fit(self, labels, predictions):
        logits = fitting.as_logits(predictions, self.from_logits)
        scale, shift = fitting.best_vectors(logits, labels, self.penalty)
        if not self.built:
            self.build(predictions.shape)
            self.built = True
        self.scale.assign(scale)
        self.shift.assign(shift)

    def _calibrated(self, predictions):
        logits = self._logits(predictions)
        return ops.softmax(self.scale * logits + self.shift)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "penalty": self.penalty}


@keras.saving.register_keras_serializable(package="keras_freetickets")
class IsotonicCalibration(Calibrator):
    """Maps the probability of each class by a rising curve, and normalizes.

    scikit-learn's isotonic regression fits the curve of each class against
    the rest; between the fitted points it is straight. A row for which all
    curves give 0 becomes uniform. Unlike the scalings it may change the
    chosen class, and it needs a thousand examples or more.

    Args:
        num_knots: Integer, fitted points of a curve; set by `fit`.
        from_logits, name, **kwargs: As for `Calibrator`.

    Example:

    ```python
    calibration = IsotonicCalibration().fit(labels, probabilities)
    calibrated = calibration(test_probabilities)
    ```

    Reference:
        Zadrozny and Elkan, 2002, "Transforming classifier scores into accurate
        multiclass probability estimates".
    """

    def __init__(
        self,
        num_knots: int = 2,
        from_logits: bool = False,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(from_logits, name=name, **kwargs)
        check_count("num_knots", num_knots, least=2)
        self.num_knots = num_knots

    def build(self, input_shape: Any) -> None:
        # Until it is fitted, a curve is the line from (0, 0) to (1, 1).
        line = np.linspace(0, 1, self.num_knots)
        lines = np.tile(line, (max(2, input_shape[-1]), 1)).astype("float32")
        self.knots, self.heights = (
            self.add_weight(
                shape=lines.shape,
                initializer=lambda shape, dtype: ops.convert_to_tensor(lines),
                dtype="float32",
                name=name,
            )
            for name in ("knots", "heights")
        )

    def _fit(self, labels, predictions):
        if self.built:
            raise ValueError(
                "An IsotonicCalibration is fitted once, for its size depends "
                "on the data: make a new one. Received: a layer that is built"
            )
        curves = fitting.isotonic_curves(
            fitting.as_probabilities(predictions, self.from_logits), labels
        )
        self.num_knots = max(2, max(len(knots) for knots, _ in curves))
        self.build(predictions.shape)
        self.built = True
        for variable, part in ((self.knots, 0), (self.heights, 1)):
            variable.assign(_padded([c[part] for c in curves], self.num_knots))

    def _calibrated(self, predictions):
        if self.from_logits:
            predictions = ops.softmax(predictions)
        classes = predictions.shape[-1]
        rows = ops.reshape(predictions, (-1, classes))
        columns = [
            _interpolate(rows[:, k], self.knots[k], self.heights[k])
            for k in range(classes)
        ]
        values = ops.stack(columns, axis=-1)
        total = ops.sum(values, axis=-1, keepdims=True)
        uniform = ops.ones_like(values) / classes
        shares = ops.divide_no_nan(values, total)
        calibrated = ops.where(total > 0, shares, uniform)
        return ops.reshape(calibrated, ops.shape(predictions))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_knots": self.num_knots}


_CALIBRATORS = {
    "temperature": TemperatureScaling,
    "vector": VectorScaling,
    "isotonic": IsotonicCalibration,
}


def get(calibrator: str | Calibrator, from_logits: bool = False) -> Calibrator:
    """Returns a new calibrator: by its name, or like a given one.

    Args:
        calibrator: `"temperature"`, `"vector"`, `"isotonic"`, or a
            `Calibrator`, of which the settings are copied, not the fit.
        from_logits: Whether its inputs will be logits.

    Returns:
        A `Calibrator` that is not fitted yet.

    Raises:
        ValueError: If it is neither a name nor a `Calibrator`.

    Example:

    ```python
    get("temperature").fit(labels, probabilities)
    ```
    """
    if isinstance(calibrator, Calibrator):
        config = calibrator.get_config()
        config.update(from_logits=from_logits)
        config.pop("num_knots", None)
        return type(calibrator).from_config(config)
    if calibrator not in _CALIBRATORS:
        raise ValueError(
            f"`calibrator` must be one of {sorted(_CALIBRATORS)} or a "
            f"Calibrator. Received: calibrator={calibrator!r}"
        )
    return _CALIBRATORS[calibrator](from_logits=from_logits)


def _padded(arrays, size):
    """The arrays as rows of one array, each padded with its last value."""
    rows = [np.pad(a, (0, size - len(a)), mode="edge") for a in arrays]
    return np.stack(rows).astype("float32")


def _interpolate(values, knots, heights):
    """Heights on the straight lines between knots, level beyond them."""
    size = knots.shape[0]
    right = ops.searchsorted(knots, values, side="right")
    right = ops.clip(right, 1, size - 1)
    x0, x1 = ops.take(knots, right - 1), ops.take(knots, right)
    y0, y1 = ops.take(heights, right - 1), ops.take(heights, right)
    share = ops.where(x1 > x0, ops.divide_no_nan(values - x0, x1 - x0), 1.0)
    return y0 + ops.clip(share, 0.0, 1.0) * (y1 - y0)
