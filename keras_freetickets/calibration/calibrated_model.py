"""A model and its calibration as one model."""

import itertools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_freetickets import data
from keras_freetickets import keras_adapter
from keras_freetickets.arguments import check_choice
from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import check_model
from keras_freetickets.arguments import check_number
from keras_freetickets.calibration import calibrators as layers
from keras_freetickets.ensembles.ensemble_model import EnsembleModel
from keras_freetickets.ensembles.outputs import check_one_output
from keras_freetickets.ensembles.outputs import renormalized
from keras_freetickets.ensembles.outputs import returns_logits
from keras_freetickets.layers.export_guard import GuardsExport
from keras_freetickets.layers.parameters import CountsParameters
from keras_freetickets.metrics import validation
from keras_freetickets.metrics.calibration_error import ExpectedCalibrationError
from keras_freetickets.metrics.scores import Accuracy
from keras_freetickets.metrics.scores import NegativeLogLikelihood
from keras_freetickets.metrics.scores import NegativeLogLikelihoodLoss
from keras_freetickets.metrics.scores import negative_log_likelihood
from keras_freetickets.types import PathLike
from keras_freetickets.types import Shape
from keras_freetickets.types import Tensor

_ORDERS = ("pool_first", "members_first")


@keras.saving.register_keras_serializable(package="keras_freetickets")
class CalibratedModel(
    CountsParameters,
    keras_adapter.KeepsState,
    keras_adapter.CompilesAnywhere,
    keras_adapter.RefusesLegacyFiles,
    GuardsExport,
    keras.Model,
):
    """A model whose predictions pass through fitted calibrators.

    `calibrate` makes one. It returns probabilities, cannot be trained, and
    comes compiled with accuracy, negative log-likelihood and calibration
    error.

    Args:
        model: Built Keras model with one output `(batch, ..., classes)` or
            `(batch, ..., 1)`, or an `EnsembleModel`.
        calibrators: List of fitted `Calibrator`s: one, for what the model
            returns, or as many as an ensemble has members.
        order: `"pool_first"` or, for an ensemble, `"members_first"`: whether
            the mean or each member is calibrated.
        ignore_class: Integer, the label that the compiled loss and metrics do
            not count, or `None` (default).
        name: Name of the model.
        **kwargs: What Keras adds when it loads a model.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the calibrators do not fit the model.

    Example:

    ```python
    model = CalibratedModel(ensemble, [TemperatureScaling().fit(y, p)])
    model.export("saved_model")
    ```
    """

    returns_probabilities = True

    def __init__(
        self,
        model: keras.Model,
        calibrators: Sequence[layers.Calibrator],
        order: str = "pool_first",
        ignore_class: int | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("trainable", None)
        super().__init__(name=name, trainable=False, **kwargs)
        _check_order(model, order)
        wanted = model.num_members if order == "members_first" else 1
        if len(calibrators) != wanted:
            raise ValueError(
                f"`calibrators` must be {wanted} for order={order!r}. "
                f"Received: {len(calibrators)} calibrators"
            )
        self.model = model
        self.calibrators = list(calibrators)
        self.order = order
        self.ignore_class = ignore_class
        self.built = True
        self.compile(
            loss=NegativeLogLikelihoodLoss(ignore_class),
            metrics=[
                Accuracy(ignore_class=ignore_class),
                NegativeLogLikelihood(ignore_class=ignore_class),
                ExpectedCalibrationError(ignore_class=ignore_class),
            ],
        )

    def call(self, inputs: Any, training: bool | None = None) -> Tensor:
        if self.order == "pool_first":
            return self.calibrators[0](self.model(inputs, training=False))
        members = self.model._member_probabilities(inputs)
        mean = ops.mean(
            ops.stack([c(members[i]) for i, c in enumerate(self.calibrators)]),
            axis=0,
        )
        keras_adapter.set_mask(mean, keras_adapter.mask_of(members))
        return mean

    @property
    def input_shape(self) -> Shape:
        """The shape of a batch of inputs, of a model with one."""
        return tuple(_input_specs(self.model).shape)

    def compute_output_shape(self, input_shape: Shape) -> Any:
        return self.model.compute_output_shape(input_shape)

    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(
            "A CalibratedModel cannot be trained: train the model it was made "
            "of, then call `calibrate` again."
        )

    def export(self, filepath: PathLike, *args: Any, **kwargs: Any) -> Any:
        """Writes a SavedModel with the signature `serving_default`.

        Args:
            filepath: Directory to write.
            *args: As for `keras.Model.export`.
            **kwargs: As for `keras.Model.export`. `input_signature` defaults
                to the model's inputs with a free batch dimension.

        Raises:
            ValueError: If a layer is compressed.
        """
        if not args and "input_signature" not in kwargs:
            kwargs["input_signature"] = [_input_specs(self.model)]
        kwargs.setdefault("verbose", False)
        return super().export(filepath, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        keras_adapter.refuse_legacy_config(self)
        config = keras.saving.serialize_keras_object(self.model)
        config.pop("compile_config", None)
        return {
            "model": config,
            "calibrators": [
                keras.saving.serialize_keras_object(c) for c in self.calibrators
            ],
            "order": self.order,
            "ignore_class": self.ignore_class,
            "name": self.name,
        }

    @classmethod
    def from_config(
        cls,
        config: dict[str, Any],
        custom_objects: dict[str, Any] | None = None,
    ) -> "CalibratedModel":
        def revived(part):
            return keras.saving.deserialize_keras_object(
                part, custom_objects=custom_objects
            )

        parts = [revived(c) for c in config["calibrators"]]
        model = revived(config["model"])
        settings = {**config, "model": model, "calibrators": parts}
        return cls(**settings)


def _check_order(model, order):
    check_model("model", model)
    check_choice("order", order, _ORDERS)
    if order == "members_first" and not isinstance(model, EnsembleModel):
        raise ValueError(
            "`order='members_first'` is for an EnsembleModel. "
            f"Received: order={order!r} with a {type(model).__name__}"
        )
    check_one_output(model)


def _input_specs(model):
    if isinstance(model, EnsembleModel):
        return model._input_specs()
    return data.input_specs(model)


def calibrate(
    model: keras.Model,
    x: Any,
    y: Any = None,
    calibrator: str | layers.Calibrator = "temperature",
    order: str = "pool_first",
    from_logits: bool | None = None,
    ignore_class: int | None = None,
    input_mask_ratio: float = 0.0,
    num_draws: int = 10,
    seed: int = 0,
    batch_size: int = 128,
) -> CalibratedModel:
    """Fits a calibrator to held-out data and puts it behind a model.

    Args:
        model: Built Keras model with one output `(batch, ..., classes)`, or
            `(batch, ..., 1)` of class 1, or an `EnsembleModel`. It is left as
            it is.
        x: Array of inputs that the model was not trained on, or a
            `tf.data.Dataset` of batches of inputs and labels.
        y: Labels `(examples, ...)`, integers, or one-hot. Leave it out for a
            dataset.
        calibrator: `"temperature"`, `"vector"`, `"isotonic"` or a
            `Calibrator`.
        order: For an ensemble, `"pool_first"` calibrates the mean of the
            members; `"members_first"` calibrates each member and then takes
            the mean, which tends to be underconfident.
        from_logits: Whether the model returns logits. `None` (default) to
            tell by the activation of its last layer: linear outputs are
            logits; those of a softmax or a sigmoid are probabilities. If the
            last layer has no activation (a pooling, a layer of your own),
            outputs are probabilities if each row is a distribution, and
            logits if not.
        ignore_class: Integer, the label that is not counted. `None` (default)
            for that of an ensemble, if it has one.
        input_mask_ratio: Float in [0, 1), the share of the input values (each
            pixel and channel by itself) that is set to zero: masked
            temperature scaling, for when there are no data but those that
            the model was trained on. Inputs must be standardized, so that
            zero is their mean. Defaults to 0: no masks. The published code
            uses 0.3 (arXiv:2307.12463).
        num_draws: Positive integer, how many masks each input gets. Defaults
            to 10 (ours; the published code has 1).
        seed: Integer, the seed of the masks.
        batch_size: Positive integer.

    Returns:
        A `CalibratedModel`.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If an argument is out of range, there are no examples or
            only of one class, labels are not classes, or the model returns
            neither logits nor distributions, or was trained as a regressor.

    Example:

    ```python
    calibrated = calibrate(ensemble, x_validation, y_validation)
    calibrated.evaluate(x_test, y_test)
    ```

    Reference:
        Guo et al., 2017, arXiv:1706.04599; with masks Zhu et al., 2023,
        arXiv:2307.12463.
    """
    _check_order(model, order)
    check_number("input_mask_ratio", input_mask_ratio, "[0, 1)")
    check_count("num_draws", num_draws)
    if ignore_class is None:
        ignore_class = getattr(model, "ignore_class", None)
    validation.check_ignore_class(ignore_class)
    x, y = map(np.asarray, data.as_arrays(x, y))
    data.check_examples(x, y)
    inputs = x
    if input_mask_ratio:
        # All draws in one call: each call of `predict` compiles a pipeline.
        inputs = _MaskedInputs(x, input_mask_ratio, num_draws, seed, batch_size)
        y = np.concatenate([y] * num_draws)
    if order == "members_first":
        predictions = model.predict_members(inputs, batch_size)
    else:
        values = model.predict(inputs, batch_size=batch_size, verbose=0)
        predictions = values[None]
    if predictions.dtype.itemsize <= 2:
        predictions = predictions.astype("float32")
    if from_logits is None:
        # An ensemble returns probabilities, and so do its members here.
        from_logits = returns_logits(model, predictions)
    if not from_logits:
        predictions = renormalized(predictions)
    fitted = [
        layers.get(calibrator, from_logits).fit(y, one, ignore_class)
        for one in predictions
    ]
    return CalibratedModel(model, fitted, order, ignore_class)


class _MaskedInputs(keras.utils.PyDataset):
    """Batches, as `predict` takes them, of draws with values set to zero.

    Their number is known: Keras would warn when a generator ends.
    """

    def __init__(self, x, ratio, num_draws, seed, batch_size):
        super().__init__()
        self._x, self._ratio, self._seed = x, ratio, seed
        starts = range(0, len(x), batch_size)
        self._starts = list(itertools.product(range(num_draws), starts))
        self._batch_size = batch_size

    @property
    def num_batches(self):
        return len(self._starts)

    def __getitem__(self, index):
        draw, start = self._starts[index]
        x = self._x[start : start + self._batch_size]
        # One stream of numbers for all draws, entered where the batch begins.
        before = (draw * len(self._x) + start) * self._x[0].size
        stream = np.random.PCG64(self._seed).advance(before)
        kept = np.random.Generator(stream).random(x.shape) >= self._ratio
        return (x * kept.astype(x.dtype),)


def choose_input_mask_ratio(
    model: keras.Model,
    x: Any,
    y: Any,
    x_held_out: Any,
    y_held_out: Any,
    ratios: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    num_draws: int = 10,
    seed: int = 0,
    batch_size: int = 128,
) -> float:
    """The `input_mask_ratio` of `calibrate` that fits a few real examples.

    For each ratio one temperature is fitted to masked training inputs. The
    ratio of the smallest negative log-likelihood on the held-out examples is
    returned. Those are not test data. If they are many, calibrate on them.

    Args:
        model: As for `calibrate`.
        x: Array of inputs that the model was trained on, or distilled ones.
        y: Their labels.
        x_held_out: Array of a few inputs that it was not trained on.
        y_held_out: Integer labels `(examples, ...)`, of two classes or more.
        ratios: Tuple of floats in [0, 1) to choose from. Defaults to 0.1 to
            0.9 by tenths, as in the published code.
        num_draws: As for `calibrate`.
        seed: As for `calibrate`.
        batch_size: As for `calibrate`.

    Returns:
        One of the ratios; the first of several that are as good.

    Raises:
        ValueError: If an argument is out of range, or examples and labels do
            not fit together.

    Example:

    ```python
    ratio = choose_input_mask_ratio(model, x, y, x_few, y_few)
    calibrated = calibrate(model, x, y, input_mask_ratio=ratio)
    ```

    Reference:
        Zhu et al., 2023, arXiv:2307.12463. Their code keeps the ratio of the
        lowest test error, which is a leak; held-out likelihood is ours.
    """
    if not len(ratios):
        raise ValueError(
            "`ratios` must have one ratio or more. Received: ratios=()"
        )
    y_held_out = np.asarray(y_held_out)
    data.check_examples(np.asarray(x_held_out), y_held_out)
    predictions = model.predict(x_held_out, batch_size=batch_size, verbose=0)
    losses = []
    for ratio in ratios:
        calibrated = calibrate(
            model,
            x,
            y,
            input_mask_ratio=ratio,
            num_draws=num_draws,
            seed=seed,
            batch_size=batch_size,
        )
        scaled = ops.convert_to_numpy(calibrated.calibrators[0](predictions))
        losses.append(np.mean(negative_log_likelihood(y_held_out, scaled)))
    return ratios[int(np.argmin(losses))]
