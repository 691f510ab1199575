"""Spiking networks for small images: VGG-16, ResNet-19 and a small one.

Their outputs are those of the mean of the logits over the steps, so `fit`
minimizes the loss of that mean, CE(mean_t logits_t, y): what is trained is
what is predicted, calibrated and averaged in ensembles, and any loss and metric
of `(batch, classes)` works. The code of arXiv:2207.01382 minimizes the mean of
the steps' losses, mean_t CE(logits_t, y), which is never smaller and asks every
step to be right by itself. `per_step=True` is for that: give each label once
for every step.

```python
model = spiking_vgg16(classes=10, steps=5, per_step=True)
model.compile("sgd", "sparse_categorical_crossentropy")
model.fit(x, np.repeat(y[:, None], 5, axis=1))
```
"""

from collections.abc import Sequence
from typing import Any

import keras

from keras_freetickets import spiking
from keras_freetickets.types import Shape
from keras_freetickets.types import Tensor

# Configuration "D" of VGG: channels of convolutions; `None` halves the image.
_VGG_16: tuple[int | None, ...]
_VGG_16 = (64, 64, None, 128, 128, None, 256, 256, 256, None)
_VGG_16 += (512, 512, 512, None, 512, 512, 512, None)
# Blocks and channels of ResNet-19's stages, each halving the image.
_RESNET_19 = ((3, 128), (3, 256), (2, 512))


class _Builder:
    """Adds layers to a graph whose steps are merged into the batch."""

    def __init__(self, steps: int, neuron: dict[str, Any]) -> None:
        self.steps = steps
        self.neuron = neuron

    def fire(self, x: Tensor, name: str) -> Tensor:
        x = spiking.SplitSteps(self.steps, name=f"{name}_split")(x)
        x = spiking.LIF(**self.neuron, name=name)(x)
        return spiking.MergeSteps(name=f"{name}_merge")(x)

    def convolve(
        self,
        x: Tensor,
        filters: int,
        name: str,
        size: int = 3,
        strides: int = 1,
    ) -> Tensor:
        x = keras.layers.Conv2D(
            filters,
            size,
            strides,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            name=f"{name}_conv",
        )(x)
        return keras.layers.BatchNormalization(
            momentum=0.9, epsilon=1e-5, name=f"{name}_bn"
        )(x)

    def begin(self, x: Tensor, filters: int) -> Tensor:
        """The first layer sees the image once; its output is repeated."""
        x = self.convolve(x, filters, "stem")
        x = spiking.RepeatSteps(self.steps, name="repeat")(x)
        x = spiking.LIF(**self.neuron, name="stem_lif")(x)
        return spiking.MergeSteps(name="stem_merge")(x)

    def end(
        self, x: Tensor, classes: int, activation: str | None, per_step: bool
    ) -> Tensor:
        """The logits of each step, or their mean over the steps."""
        x = keras.layers.Dense(classes, name="logits")(x)
        x = spiking.SplitSteps(self.steps, name="logits_split")(x)
        if not per_step:
            x = keras.layers.GlobalAveragePooling1D(name="mean_over_steps")(x)
        return keras.layers.Activation(activation, name="probabilities")(x)


def spiking_cnn(
    input_shape: Shape = (28, 28, 1),
    classes: int = 10,
    steps: int = 5,
    filters: Sequence[int] = (32, 64),
    units: int = 128,
    activation: str | None = "softmax",
    per_step: bool = False,
    **neuron: Any,
) -> keras.Model:
    """`small_cnn` with spiking neurons in place of ReLUs.

    Each entry of `filters` is a 3x3 convolution, batch normalization, neurons
    and 2x2 max pooling; a dense layer with neurons and the classifier follow.
    The first convolution sees the image once (direct coding). The outputs are
    those of the mean logits, which `fit` trains; see `per_step`.

    Args:
        input_shape: Tuple `(height, width, channels)`; height and width at
            least 2 ** len(filters).
        classes: Positive integer.
        steps: Positive integer. Defaults to 5 (code of arXiv:2207.01382).
        filters: Tuple of integers, output channels of the convolutions.
        units: Positive integer, width of the dense layer.
        activation: Of the outputs; `"linear"` for logits.
        per_step: Whether the outputs are those of each step, of shape
            `(batch, steps, classes)`, in place of those of the mean logits.
        **neuron: As for `keras_freetickets.spiking.LIF`.

    Returns:
        A `keras.Model`.

    Example:

    ```python
    model = spiking_cnn((8, 8, 1), classes=10, filters=(16, 32), units=64)
    ```
    """
    builder = _Builder(steps, neuron)
    inputs = keras.Input(input_shape)
    x = builder.begin(inputs, filters[0])
    x = keras.layers.MaxPooling2D(name="pool_0")(x)
    for i, count in enumerate(filters[1:], 1):
        x = builder.convolve(x, count, f"block_{i}")
        x = builder.fire(x, f"block_{i}_lif")
        x = keras.layers.MaxPooling2D(name=f"pool_{i}")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(units, name="hidden")(x)
    x = builder.fire(x, "hidden_lif")
    outputs = builder.end(x, classes, activation, per_step)
    return keras.Model(inputs, outputs, name="spiking_cnn")


def spiking_vgg16(
    input_shape: Shape = (32, 32, 3),
    classes: int = 10,
    steps: int = 5,
    width: int = 64,
    activation: str | None = "softmax",
    per_step: bool = False,
    **neuron: Any,
) -> keras.Model:
    """VGG-16 with spiking neurons in place of ReLUs.

    The first convolution sees the image once and its output is fed at every
    step (direct coding). The outputs are those of the mean logits, which
    `fit` trains; with `per_step=True` it trains the mean of the steps' losses
    as the code of arXiv:2207.01382 does.

    Args:
        input_shape: Tuple `(height, width, channels)`, 16 pixels at least;
            images so small are pooled as often as they allow.
        classes, steps: As for `spiking_cnn`.
        width: Positive integer, channels of the first layer. Defaults to 64
            (VGG-16).
        activation, per_step, **neuron: As for `spiking_cnn`.

    Returns:
        A `keras.Model`.

    Example:

    ```python
    model = spiking_vgg16(classes=10, steps=5)
    ```

    Reference:
        Kim et al., 2022, arXiv:2207.01382; Huang et al., arXiv:2304.12214.
    """
    builder = _Builder(steps, neuron)
    inputs = keras.Input(input_shape)
    x = builder.begin(inputs, width)
    for i, filters in enumerate(_VGG_16[1:], 1):
        if filters is None:
            if min(x.shape[1:3]) > 1:
                x = keras.layers.MaxPooling2D(name=f"pool_{i}")(x)
            continue
        name = f"block_{i}"
        x = builder.convolve(x, filters * width // 64, name)
        x = builder.fire(x, f"{name}_lif")
    x = keras.layers.Flatten(name="flatten")(x)
    outputs = builder.end(x, classes, activation, per_step)
    return keras.Model(inputs, outputs, name="spiking_vgg16")


def spiking_resnet19(
    input_shape: Shape = (32, 32, 3),
    classes: int = 10,
    steps: int = 5,
    width: int = 64,
    activation: str | None = "softmax",
    per_step: bool = False,
    **neuron: Any,
) -> keras.Model:
    """ResNet-19 with spiking neurons.

    A stem of 64 channels and stages of 3, 3 and 2 blocks with 128, 256 and
    512, each halving the image; neurons fire after the residual sum. Inputs,
    outputs and what `fit` trains are as in `spiking_vgg16`.

    Args:
        input_shape: Tuple `(height, width, channels)`.
        classes, steps: As for `spiking_cnn`.
        width: Positive integer, channels of the stem. Defaults to 64, those
            of ResNet-19.
        activation, per_step, **neuron: As for `spiking_cnn`.

    Returns:
        A `keras.Model`.

    Example:

    ```python
    model = spiking_resnet19(classes=10, steps=5)
    ```

    Reference:
        Kim et al., 2022, arXiv:2207.01382; Huang et al., arXiv:2304.12214.
    """
    builder = _Builder(steps, neuron)
    inputs = keras.Input(input_shape)
    x = builder.begin(inputs, width)
    for i, (blocks, channels) in enumerate(_RESNET_19, 1):
        for j in range(1, blocks + 1):
            strides = 2 if j == 1 else 1
            filters = channels * width // 64
            x = _block(builder, x, filters, strides, f"stage_{i}_block_{j}")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = keras.layers.Dense(4 * width, name="hidden")(x)
    x = builder.fire(x, "hidden_lif")
    outputs = builder.end(x, classes, activation, per_step)
    return keras.Model(inputs, outputs, name="spiking_resnet19")


def _block(builder, x, filters, strides, name):
    shortcut = x
    if strides != 1 or x.shape[-1] != filters:
        shortcut = builder.convolve(
            x, filters, f"{name}_shortcut", size=1, strides=strides
        )
    y = builder.convolve(x, filters, f"{name}_1", strides=strides)
    y = builder.fire(y, f"{name}_1_lif")
    y = builder.convolve(y, filters, f"{name}_2")
    y = keras.layers.Add(name=f"{name}_add")([y, shortcut])
    return builder.fire(y, f"{name}_2_lif")
