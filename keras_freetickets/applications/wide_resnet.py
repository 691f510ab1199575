"""Wide residual networks for small images."""

import math
from typing import Any

import keras
from keras import layers

from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import is_integer
from keras_freetickets.types import Shape
from keras_freetickets.types import Tensor


def _normal(kernel_size, filters):
    """N(0, sqrt(2 / (k * k * out))), as in VITA-Group/FreeTickets."""
    deviation = math.sqrt(2.0 / (kernel_size * kernel_size * filters))
    return keras.initializers.RandomNormal(stddev=deviation)


class _Builder:
    """Makes the layers of one network, with its penalty and dropout."""

    def __init__(self, dropout: float, weight_decay: float) -> None:
        self.dropout = dropout
        self.penalty = (
            keras.regularizers.L2(weight_decay) if weight_decay else None
        )

    def convolution(
        self, x: Tensor, filters: int, kernel_size: int, strides: int, name: str
    ) -> Any:
        return layers.Conv2D(
            filters,
            kernel_size,
            strides=strides,
            padding="same",
            use_bias=False,
            kernel_initializer=_normal(kernel_size, filters),
            kernel_regularizer=self.penalty,
            name=name,
        )(x)

    def activation(self, x: Tensor, name: str) -> Any:
        # Momentum and epsilon of the reference's framework.
        x = layers.BatchNormalization(
            momentum=0.9,
            epsilon=1e-5,
            gamma_regularizer=self.penalty,
            beta_regularizer=self.penalty,
            name=f"{name}_norm",
        )(x)
        return layers.ReLU(name=f"{name}_relu")(x)

    def block(self, x: Tensor, filters: int, strides: int, name: str) -> Any:
        """Pre-activation block; a shortcut kernel shares its activation."""
        shortcut = x
        y = self.activation(x, f"{name}_1")
        if x.shape[-1] != filters:
            shortcut = self.convolution(
                y, filters, 1, strides, f"{name}_shortcut"
            )
        y = self.convolution(y, filters, 3, strides, f"{name}_conv1")
        y = self.activation(y, f"{name}_2")
        if self.dropout:
            y = layers.Dropout(self.dropout, name=f"{name}_dropout")(y)
        y = self.convolution(y, filters, 3, 1, f"{name}_conv2")
        return layers.Add(name=f"{name}_add")([y, shortcut])


def wide_resnet(
    depth: int = 28,
    width: int = 10,
    input_shape: Shape = (32, 32, 3),
    classes: int = 10,
    dropout: float = 0.0,
    weight_decay: float = 2.5e-4,
    classifier_activation: str | None = "softmax",
) -> keras.Model:
    """Builds a wide residual network, WRN-depth-width.

    Args:
        depth: Integer, 6n + 4: 10, 16, 22, 28, 40 ...
        width: Positive integer, factor of the channels 16, 32 and 64.
        input_shape: Shape of one image.
        classes: Integer, number of classes.
        dropout: Float in [0, 1), the dropout rate within the blocks. Defaults
            to 0 (FreeTickets).
        weight_decay: Float, factor of the L2 penalty of every weight.
            Defaults to 2.5e-4, which equals 5e-4 in the reference code: there
            the penalty's gradient is the factor times the weight, in Keras
            twice that.
        classifier_activation: Activation of the last layer; `None` for
            logits.

    Returns:
        A Functional model.

    Raises:
        ValueError: If `depth` is not 6n + 4 or `width` not positive.

    Example:

    ```python
    wide_resnet(28, 10)  # 36,461,232 weights in kernels
    ```

    Reference:
        Zagoruyko and Komodakis, 2016, arXiv:1605.07146.
    """
    if not is_integer(depth) or depth < 10 or (depth - 4) % 6:
        raise ValueError(
            "`depth` must be 6n + 4, at least 10: 10, 16, 22, 28 ... "
            f"Received: depth={depth}"
        )
    check_count("width", width)
    build = _Builder(dropout, weight_decay)
    inputs = keras.Input(input_shape)
    x = build.convolution(inputs, 16, 3, 1, "stem")
    for group, channels in enumerate((16, 32, 64)):
        for i in range((depth - 4) // 6):
            strides = 2 if group > 0 and i == 0 else 1
            name = f"group{group}_block{i}"
            x = build.block(x, channels * width, strides, name)
    x = build.activation(x, "head")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(
        classes,
        activation=classifier_activation,
        kernel_regularizer=build.penalty,
        bias_regularizer=build.penalty,
        name="classifier",
    )(x)
    return keras.Model(inputs, outputs, name=f"wide_resnet_{depth}_{width}")
