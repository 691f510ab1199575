"""Adversarial inputs: small changes that make a model misclassify."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import check_model
from keras_freetickets.arguments import check_number
from keras_freetickets.data import check_examples
from keras_freetickets.ensembles.outputs import check_one_output
from keras_freetickets.ensembles.outputs import returns_logits
from keras_freetickets.metrics import arrays
from keras_freetickets.metrics import validation
from keras_freetickets.types import Tensor

__all__ = ["fast_gradient_sign"]

# Standardized images may exceed the range by this much through rounding.
_SLACK = 1e-3


def fast_gradient_sign(
    model: keras.Model,
    x: Tensor,
    y: Any,
    epsilon: float = 8 / 255,
    from_logits: bool | None = None,
    mean: Any = None,
    std: Any = None,
    batch_size: int = 128,
) -> np.ndarray:
    """Changes each input value by epsilon to increase the model's loss.

    Returns `x + epsilon * sign(d loss / d x)`, clipped to the range of images.
    For an ensemble it uses the loss of the members' mean; to attack with one
    member pass `ensemble.member(i)`.

    If a model's probability rounds to 1 in float32, the gradient is zero and
    the image is returned unchanged. For a model that returns logits the
    gradient is computed from the logits and does not vanish.

    Args:
        model: Keras model with one output `(batch, ..., classes)`, or
            `(batch, ..., 1)` for class 1. Labels that an ensemble ignores are
            not attacked.
        x: Array of images in [0, 1], or standardized ones with `mean` and
            `std`.
        y: Labels `(examples, ...)`, integers, or one-hot.
        epsilon: Non-negative float, in the units of images in [0, 1].
            Defaults to 8 / 255, as in FreeTickets (Liu et al., 2022,
            arXiv:2106.14568).
        from_logits: Whether the model returns logits. `None` (default) infers
            it from the last layer, as `calibration.calibrate` does.
        mean: Mean of each channel, as subtracted from the images, for example
            `Datasets.mean`. `None` for images in [0, 1].
        std: Standard deviation of each channel, by which the images were
            divided. `None` for images in [0, 1].
        batch_size: Positive integer.

    Returns:
        Float32 array of the shape of `x`.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If an argument is out of range, images are not in [0, 1],
            or labels are not classes.
        RuntimeError: On a backend that is neither TensorFlow nor JAX.

    Example:

    ```python
    attacked = fast_gradient_sign(ensemble, x, y, epsilon=2 / 255)
    ensemble.evaluate(attacked, y)
    ```

    Reference:
        Goodfellow et al., 2015, arXiv:1412.6572.
    """
    check_model("model", model)
    check_one_output(model)
    check_number("epsilon", epsilon, "[0, inf)")
    check_count("batch_size", batch_size)
    x, y = np.asarray(x, "float32"), np.asarray(y)
    low, high, step = _units(x, epsilon, mean, std)
    check_examples(x, y)
    predictions = ops.convert_to_numpy(model(x[:batch_size], training=False))
    shape = (len(y), *predictions.shape[1:])
    labels, counted = arrays.read_label_array(
        y, shape, getattr(model, "ignore_class", None), "y"
    )
    if from_logits is None:
        from_logits = returns_logits(model, predictions)
    gradient = _gradient_function(model, from_logits)
    attacked = []
    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size)
        targets = np.eye(max(2, shape[-1]), dtype="float32")[labels[part]]
        targets *= counted[part][..., None]
        sign = np.sign(ops.convert_to_numpy(gradient(x[part], targets)))
        attacked.append(np.clip(x[part] + step * sign, low, high))
    return np.concatenate(attacked).astype("float32")


def _units(x, epsilon, mean, std):
    """The range of images and the step, standardized as the images are."""
    if (mean is None) != (std is None):
        raise ValueError(
            "`mean` and `std` must be given together or not at all. "
            f"Received: mean={mean}, std={std}"
        )
    mean = np.asarray(0.0 if mean is None else mean, "float32")
    std = np.asarray(1.0 if std is None else std, "float32")
    low, high = (0 - mean) / std, (1 - mean) / std
    if not (np.all(x >= low - _SLACK) and np.all(x <= high + _SLACK)):
        raise ValueError(
            "`x` must be images in [0, 1], or such images standardized with "
            f"`mean` and `std`. Received: x in [{x.min():.4g}, {x.max():.4g}]"
        )
    return low, high, epsilon / std


def _gradient_function(model, from_logits):
    """Gradient of the summed loss with respect to the inputs, compiled."""

    def loss(x, targets):
        scores = ops.cast(model(x, training=False), "float32")
        scores = validation.two_columns(scores, from_logits)
        # Keras' cross-entropy clips probabilities, which zeroes the gradient.
        if from_logits:
            logs = ops.log_softmax(scores)
        else:
            logs = ops.log(ops.maximum(scores, np.finfo("float32").tiny))
        return -ops.sum(logs * targets)

    backend = keras.backend.backend()
    if backend == "tensorflow":
        return _of_tensorflow(loss)
    if backend == "jax":
        import jax

        return jax.jit(jax.grad(loss))
    raise RuntimeError(
        "Attacks need the backend tensorflow or jax. "
        f"Received: backend {backend!r}"
    )


def _of_tensorflow(loss):
    import tensorflow as tf

    @tf.function(reduce_retracing=True)
    def gradient(x, targets):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(x, targets)
        return tape.gradient(value, x)

    return lambda x, targets: gradient(tf.constant(x), tf.constant(targets))
