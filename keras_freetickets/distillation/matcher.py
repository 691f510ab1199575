"""The distance of two gradients, as a function of a model's values."""

import typing
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.distillation import networks as parts
from keras_freetickets.distillation.augmentation import Change
from keras_freetickets.distillation.augmentation import SharedAugmentation
from keras_freetickets.distillation.distilled import decode
from keras_freetickets.ensembles.outputs import returns_logits
from keras_freetickets.trainers import get_backend
from keras_freetickets.types import Array
from keras_freetickets.types import Tensor
from keras_freetickets.types import Tensors

# Training of networks between steps: SGD of the published code.
_NETWORK_RATE, _NETWORK_MOMENTUM, _WEIGHT_DECAY = 0.01, 0.9, 5e-4

METRICS: dict[str, Callable[[Tensor], Tensor]] = {
    "squared": ops.square,
    # Of 0 the derivative is 0; that of JAX's own absolute value is 1.
    "absolute": lambda gap: gap * ops.stop_gradient(ops.sign(gap)),
}


class Matcher:
    """The functions of one step, of values of a model's variables.

    Args:
        model: Keras model of images.
        x: Array of a few images, to see what the model returns.
        factor: Positive integer, as in `GradientMatching`.
        metric: String, as in `GradientMatching`.
        augmentation: A `SharedAugmentation` or `None`.
        mean: Array, of a pixel or of each channel.
        std: Array, of a pixel or of each channel.

    Raises:
        ValueError: If the model has one kernel only.
    """

    def __init__(
        self,
        model: keras.Model,
        x: Array,
        factor: int = 1,
        metric: str = "squared",
        augmentation: SharedAugmentation | None = None,
        mean: typing.Any = 0.0,
        std: typing.Any = 1.0,
    ) -> None:
        self.model, self.factor = model, factor
        self.distance = METRICS[metric]
        self.augmentation = augmentation
        self.mean, self.std = mean, std
        is_kernel = parts.matched_kernels(model)
        self.places = [i for i, matched in enumerate(is_kernel) if matched]
        if not self.places:
            raise ValueError(
                "Networks must have two layers with kernels or more: gradients "
                "of the last one are not compared. Received: model "
                f"{model.name!r} with {len(model.layers)} layers"
            )
        predictions = ops.convert_to_numpy(model(x, training=False))
        self.from_logits = returns_logits(model, predictions)

    def _cross_entropy(self, values, fixed, inputs, targets):
        with keras_adapter.exact_moments():
            outputs, _ = self.model.stateless_call(
                values, fixed, inputs, training=False
            )
        if self.from_logits:
            logs = ops.log_softmax(outputs)
        else:
            tiny = np.finfo("float32").tiny
            logs = ops.log(ops.maximum(outputs, tiny))
        targets = ops.cast(targets, logs.dtype)
        return -ops.mean(ops.sum(logs * targets, axis=-1))

    def _inputs(self, images, change):
        if change is not None and self.augmentation is not None:
            images = self.augmentation.apply(images, change)
        mean = ops.cast(self.mean, images.dtype)
        return (images - mean) / ops.cast(self.std, images.dtype)

    def _kernel_gradients(self, values, fixed, masks, inputs, targets):
        def loss(kernels):
            of_kernels = dict(zip(self.places, kernels, strict=True))
            merged = [of_kernels.get(i, v) for i, v in enumerate(values)]
            return self._cross_entropy(merged, fixed, inputs, targets)

        kernels = [values[i] for i in self.places]
        _, gradients = get_backend().value_and_gradients(loss, kernels)
        return [
            g if masks[i] is None else g * ops.cast(masks[i], g.dtype)
            for i, g in zip(self.places, gradients, strict=True)
            if g is not None
        ]

    def loss_and_gradient(
        self,
        values: Tensors,
        fixed: Tensors,
        masks: list[Tensor | None],
        images: Tensor,
        real: Tensor,
        target: Tensor,
        change: Change | None = None,
        visible: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The distance of two gradients, and its gradient by the images.

        Args:
            values: List of tensors, of `model.trainable_variables`.
            fixed: List of tensors, of `model.non_trainable_variables`.
            masks: List with a mask for each value, or `None`.
            images: Tensor `(images, height, width, channels)`, distilled ones.
            real: Tensor `(examples, height, width, channels)`.
            target: Tensor `(classes,)`, one-hot, the class of all of them.
            change: What the augmentation drew, or `None`.
            visible: Tensor of the shape of the decoded images, 0 for inputs
                that are set to zero, or `None`.

        Returns:
            Tuple of a scalar and a tensor of the shape of `images`.
        """
        dtype = values[self.places[0]].dtype
        images, real = ops.cast(images, dtype), ops.cast(real, dtype)
        wanted = self._kernel_gradients(
            values, fixed, masks, self._inputs(real, change), target
        )

        def loss(given):
            inputs = self._inputs(decode(given[0], self.factor), change)
            if visible is not None:
                inputs = inputs * ops.cast(visible, dtype)
            found = self._kernel_gradients(values, fixed, masks, inputs, target)
            return sum(
                ops.sum(self.distance(f - w))
                for f, w in zip(found, wanted, strict=True)
            )

        value, (gradient,) = get_backend().value_and_gradients(loss, [images])
        return value, gradient

    def train_step(
        self,
        values: Tensors,
        velocity: Tensors,
        fixed: Tensors,
        masks: list[Tensor | None],
        inputs: Tensor,
        targets: Tensor,
    ) -> tuple[Tensors, Tensors]:
        """A step of SGD on values that belong to no variable.

        Args:
            values: As for `loss_and_gradient`.
            velocity: List of tensors, the momentum.
            fixed: As for `loss_and_gradient`.
            masks: As for `loss_and_gradient`; what is zero stays zero.
            inputs: Tensor `(examples, height, width, channels)`.
            targets: Tensor `(examples, classes)`.

        Returns:
            Tuple of the new values and the new momentum.
        """

        def loss(current):
            return self._cross_entropy(current, fixed, inputs, targets)

        _, gradients = get_backend().value_and_gradients(loss, values)
        moved, moves = [], []
        for value, along, gradient, mask in zip(
            values, velocity, gradients, masks, strict=True
        ):
            gradient = 0.0 if gradient is None else gradient
            along = _NETWORK_MOMENTUM * along + (
                gradient + _WEIGHT_DECAY * value
            )
            if mask is not None:
                along = along * ops.cast(mask, along.dtype)
            moves.append(along)
            moved.append(value - _NETWORK_RATE * along)
        return moved, moves
