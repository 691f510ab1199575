"""Reads a chain of Keras layers into stages."""

import itertools
from typing import Any

import keras
import numpy as np

from keras_freetickets.discrete.stages import Stage
from keras_freetickets.types import Model

_SUPPORTED = (
    "Dense, Conv2D, Flatten, MaxPooling2D, AveragePooling2D, "
    "GlobalMaxPooling2D, GlobalAveragePooling2D, Activation, ReLU, Softmax "
    "and Dropout"
)


def unsupported(layer: Any, why: str) -> ValueError:
    """The error about a layer that a search cannot evaluate."""
    return ValueError(
        f"`model` must be a chain of {_SUPPORTED}: {why}. Received: layer "
        f"{layer.name!r} of type {type(layer).__name__}"
    )


class StageReader:
    """Reads the layers of a model one after another into `stages`.

    Args:
        shape: Tuple of integers, shape of an input.

    Raises:
        ValueError: If inputs are neither vectors nor images.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        if len(shape) not in (1, 3) or None in shape:
            raise ValueError(
                "`model` must have inputs of shape (features,) or (height, "
                f"width, channels). Received: inputs of shape {tuple(shape)}"
            )
        image = (1, 1, *shape) if len(shape) == 1 else tuple(shape)
        self.height, self.width, self.channels = map(int, image)
        self.flat = len(shape) == 1
        self.stages: list[Stage] = []
        self.has_softmax = False

    def read(self, layer: Any) -> None:
        """Reads the next layer.

        Args:
            layer: A built Keras layer.

        Raises:
            ValueError: If a search cannot evaluate it.
        """
        if self.has_softmax:
            raise unsupported(layer, "softmax must be the last layer")
        names = [one.__name__ for one in type(layer).__mro__]
        for name in names:
            method = getattr(self, f"_read_{name.lower()}", None)
            if method is not None and _is_plain(layer, name):
                method(layer)
                return
        raise unsupported(layer, "this layer is not supported")

    def _read_inputlayer(self, layer):
        pass

    def _read_dropout(self, layer):
        pass

    def _read_flatten(self, layer):
        if layer.data_format != "channels_last":
            raise unsupported(layer, "data must be channels_last")
        self.flat = True

    def _add(self, layer, taps, weights):
        if keras.backend.standardize_dtype(layer.kernel.dtype) != "float32":
            raise unsupported(layer, "kernels must be float32")
        units = weights.shape[2]
        biases = np.zeros(units)
        if layer.use_bias:
            bias = keras.ops.convert_to_numpy(layer.bias)
            biases = bias.astype("float64")
        self.stages.append(
            Stage(
                layer,
                channels_in=self.channels,
                positions_in=self.height * self.width,
                taps=taps.astype("int64"),
                weights=weights.astype("float64"),
                biases=biases,
                allowed=np.ones(weights.shape, bool),
            )
        )
        self.channels = units
        self._activate(layer, keras.activations.serialize(layer.activation))

    def _read_dense(self, layer):
        positions = self.height * self.width
        if not self.flat and positions > 1:
            raise unsupported(layer, "Dense needs Flatten before it")
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        weights = kernel.reshape(positions, self.channels, -1)
        self._add(layer, np.arange(positions)[:, None], weights)
        self.height = self.width = 1
        self.flat = True

    def _read_conv2d(self, layer):
        if self.flat or layer.groups != 1:
            raise unsupported(layer, "it must have images and groups=1")
        self._check_channels_last(layer)
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        taps, height, width = _windows(
            (self.height, self.width),
            layer.kernel_size,
            layer.strides,
            layer.dilation_rate,
            layer.padding,
        )
        weights = kernel.reshape(-1, self.channels, kernel.shape[3])
        self._add(layer, taps, weights)
        self.height, self.width = height, width

    def _check_channels_last(self, layer):
        if layer.data_format != "channels_last":
            raise unsupported(layer, "data must be channels_last")

    def _pool(self, layer, pools, mean):
        self._check_channels_last(layer)
        if not self.stages or self.flat:
            raise unsupported(layer, "pooling must follow a convolution")
        if self.stages[-1].pools is not None:
            raise unsupported(layer, "pooling must not follow pooling")
        self.stages[-1].pools = pools
        self.stages[-1].pool_mean = mean

    def _read_windows(self, layer, mean):
        pools, height, width = _windows(
            (self.height, self.width),
            layer.pool_size,
            layer.strides,
            (1, 1),
            layer.padding,
        )
        self._pool(layer, pools.T.copy(), mean)
        self.height, self.width = height, width

    def _read_maxpooling2d(self, layer):
        self._read_windows(layer, mean=False)

    def _read_averagepooling2d(self, layer):
        self._read_windows(layer, mean=True)

    def _read_global(self, layer, mean):
        if layer.keepdims:
            raise unsupported(layer, "keepdims=True is not supported")
        everything = np.arange(self.height * self.width)[None]
        self._pool(layer, everything, mean)
        self.height = self.width = 1
        self.flat = True

    def _read_globalmaxpooling2d(self, layer):
        self._read_global(layer, mean=False)

    def _read_globalaveragepooling2d(self, layer):
        self._read_global(layer, mean=True)

    def _activate(self, layer, name):
        name = name if isinstance(name, str) else "unknown"
        if name == "softmax":
            self.has_softmax = True
        elif name == "relu":
            if not self.stages or self.stages[-1].pool_mean:
                raise unsupported(layer, "ReLU must follow a layer's sums")
            self.stages[-1].rectified = True
        elif name != "linear":
            raise unsupported(layer, "activations must be ReLU or linear")

    def _read_activation(self, layer):
        self._activate(layer, keras.activations.serialize(layer.activation))

    def _read_relu(self, layer):
        if layer.max_value is not None or layer.negative_slope:
            raise unsupported(layer, "activations must be ReLU or linear")
        if layer.threshold:
            raise unsupported(layer, "activations must be ReLU or linear")
        self._activate(layer, "relu")

    def _read_softmax(self, layer):
        self._activate(layer, "softmax")


def _is_plain(layer, name):
    """Whether a class is Keras' own: a subclass may compute otherwise."""
    return type(layer).__name__ == name and type(layer).__module__.startswith(
        "keras."
    )


def _windows(shape, size, strides, dilation, padding):
    """Positions that a window sees: `(size, positions)`, height and width."""
    found, sizes = [], []
    for length, window, stride, step in zip(
        shape, size, strides, dilation, strict=True
    ):
        reach = (window - 1) * step + 1
        before = 0
        if padding == "same":
            count = -(-length // stride)
            before = max((count - 1) * stride + reach - length, 0) // 2
        else:
            count = (length - reach) // stride + 1
        at = np.arange(count) * stride - before
        at = at[None, :] + np.arange(window)[:, None] * step
        found.append(np.where((at >= 0) & (at < length), at, -1))
        sizes.append(count)
    rows, columns = found
    rows = rows[:, None, :, None]
    columns = columns[None, :, None, :]
    positions = np.where(
        (rows >= 0) & (columns >= 0), rows * shape[1] + columns, -1
    )
    return positions.reshape(size[0] * size[1], -1), *sizes


def layers_of(model: Model) -> list[Any]:
    """The layers of a chain, in their order.

    Raises:
        ValueError: If the model is not a chain.
    """
    layers = list(model.layers)
    if isinstance(model, keras.Sequential):
        return layers
    for below, layer in itertools.pairwise(layers):
        try:
            follows = layer.input is below.output
        except (AttributeError, ValueError):
            follows = False
        if not follows:
            raise unsupported(layer, "it must have the layer before as input")
    if len(model.outputs) != 1 or layers[-1].output is not model.outputs[0]:
        raise unsupported(layers[-1], "its output must be the model's only one")
    return layers
