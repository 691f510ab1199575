"""Layers that store their weights as codes of a few bits."""

from typing import Any

import keras
import numpy as np
from keras import activations
from keras import ops

from keras_freetickets.arguments import check_choice
from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import check_number
from keras_freetickets.discrete import storage
from keras_freetickets.types import Array
from keras_freetickets.types import Config
from keras_freetickets.types import Shape
from keras_freetickets.types import Tensor

_BIASES = ("discrete", "float", "none")


class _Discrete(keras.layers.Layer):
    """What dense and convolutional layers share: codes, biases, a scale."""

    def _set(self, values, scale, bias, activation):
        self.values = storage.check_values(values)
        check_number("scale", scale, "(0, inf)")
        check_choice("bias", bias, _BIASES)
        self.scale = float(scale)
        self.bias = bias
        self.activation = activations.get(activation)

    def _add_codes(self, kernel_shape):
        count = len(self.values)
        self.kernel_shape = kernel_shape
        self.packed_kernel = self.add_weight(
            shape=(storage.num_bytes(int(np.prod(kernel_shape)), count),),
            initializer="zeros",
            dtype="uint8",
            trainable=False,
            name="packed_kernel",
        )
        units = kernel_shape[-1]
        if self.bias == "discrete":
            self.packed_bias = self.add_weight(
                shape=(storage.num_bytes(units, count),),
                initializer="zeros",
                dtype="uint8",
                trainable=False,
                name="packed_bias",
            )
        elif self.bias == "float":
            self.float_bias = self.add_weight(
                shape=(units,),
                initializer="zeros",
                trainable=False,
                name="float_bias",
            )

    def set_codes(self, kernel: Array, bias: Array | None = None) -> None:
        """Packs weights and biases into the layer.

        Args:
            kernel: Array of the kernel's shape, of members of `values`: the
                weights without the scale.
            bias: Array `(units,)`. For `bias="discrete"` it is of members of
                `values`, without the scale; for `"float"` of any numbers, as
                they are added. `None` for `"none"`.

        Raises:
            ValueError: If a shape or a value does not fit.
        """
        if np.shape(kernel) != tuple(self.kernel_shape):
            raise ValueError(
                f"`kernel` must have the shape {tuple(self.kernel_shape)}. "
                f"Received: kernel of shape {np.shape(kernel)}"
            )
        units = (self.kernel_shape[-1],)
        wanted = None if self.bias == "none" else units
        found = None if bias is None else np.shape(bias)
        if found != wanted:
            raise ValueError(
                f"`bias` must have the shape {wanted} with "
                f"bias={self.bias!r}. Received: bias of shape {found}"
            )
        self.packed_kernel.assign(storage.pack(kernel, self.values))
        if self.bias == "discrete":
            self.packed_bias.assign(storage.pack(bias, self.values))
        elif self.bias == "float":
            self.float_bias.assign(bias)

    @property
    def kernel(self) -> Tensor:
        """The kernel that the layer computes with, scale included."""
        codes = storage.unpack(
            self.packed_kernel, self.values, self.kernel_shape
        )
        return ops.cast(codes * self.scale, self.compute_dtype)

    def _finish(self, outputs):
        if self.bias == "discrete":
            units = (self.kernel_shape[-1],)
            codes = storage.unpack(self.packed_bias, self.values, units)
            outputs += ops.cast(codes * self.scale, self.compute_dtype)
        elif self.bias == "float":
            outputs += ops.cast(self.float_bias, self.compute_dtype)
        return self.activation(outputs)

    def _config(self):
        return {
            "values": list(self.values),
            "scale": self.scale,
            "bias": self.bias,
            "activation": activations.serialize(self.activation),
        }


@keras.saving.register_keras_serializable(package="keras_freetickets")
class DiscreteDense(_Discrete):
    """A dense layer whose weights are of a finite set, at 2 bits for three.

    It predicts `activation(scale * (x @ codes + bias codes))`. Its weights are
    variables of uint8, which no optimizer trains; `CoordinateDescent` makes
    such layers, and `set_codes` fills them. Up to 2 values take 1 bit, 4 take
    2, 16 take 4 and 256 take 8.

    Args:
        units: Integer, number of outputs.
        values: Sequence of 2 to 256 different numbers, the finite set.
        scale: Positive float, the factor of all weights.
        bias: `"discrete"`, biases of the finite set; `"float"`; or `"none"`.
        activation: As for `keras.layers.Dense`.
        **kwargs: Other arguments of a layer.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> layer = DiscreteDense(2, scale=0.5, bias="none")
    >>> layer.build((None, 3))
    >>> layer.set_codes([[1, 0], [0, -1], [-1, 1]])
    >>> ops.convert_to_numpy(layer(np.ones((1, 3), "float32"))).tolist()
    [[0.0, 0.0]]

    Reference:
        Date et al., "Training Deep Neural Networks with Constrained Learning
        Parameters", https://arxiv.org/abs/2009.00540
    """

    def __init__(
        self,
        units: int,
        values: tuple[float, ...] = (-1.0, 0.0, 1.0),
        scale: float = 1.0,
        bias: str = "discrete",
        activation: Any = None,
        **kwargs: Any,
    ) -> None:
        check_count("units", units)
        super().__init__(**kwargs)
        self.units = int(units)
        self._set(values, scale, bias, activation)

    def build(self, input_shape: Shape) -> None:
        self._add_codes((input_shape[-1], self.units))

    def call(self, inputs: Tensor) -> Tensor:
        return self._finish(ops.matmul(inputs, self.kernel))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.units)

    def get_config(self) -> Config:
        return {**super().get_config(), "units": self.units, **self._config()}


@keras.saving.register_keras_serializable(package="keras_freetickets")
class DiscreteConv2D(_Discrete):
    """A convolution whose weights are of a finite set, as `DiscreteDense`.

    Args:
        filters: Integer, number of outputs.
        kernel_size: As for `keras.layers.Conv2D`.
        values: As for `DiscreteDense`.
        scale: As for `DiscreteDense`.
        bias: As for `DiscreteDense`.
        activation: As for `DiscreteDense`.
        strides: As for `keras.layers.Conv2D`.
        padding: As for `keras.layers.Conv2D`.
        dilation_rate: As for `keras.layers.Conv2D`.
        **kwargs: Other arguments of a layer.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> layer = DiscreteConv2D(1, 2, bias="none")
    >>> layer.build((None, 2, 2, 1))
    >>> layer.set_codes([[[[1]], [[0]]], [[[0]], [[-1]]]])
    >>> images = np.array([[[[5.0], [2.0]], [[2.0], [3.0]]]], "float32")
    >>> ops.convert_to_numpy(layer(images)).tolist()
    [[[[2.0]]]]
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        values: tuple[float, ...] = (-1.0, 0.0, 1.0),
        scale: float = 1.0,
        bias: str = "discrete",
        activation: Any = None,
        strides: int | tuple[int, int] = 1,
        padding: str = "valid",
        dilation_rate: int | tuple[int, int] = 1,
        **kwargs: Any,
    ) -> None:
        check_count("filters", filters)
        check_choice("padding", padding, ["valid", "same"])
        super().__init__(**kwargs)
        self.filters = int(filters)
        self.kernel_size = _pair("kernel_size", kernel_size)
        self.strides = _pair("strides", strides)
        self.dilation_rate = _pair("dilation_rate", dilation_rate)
        self.padding = padding
        self._set(values, scale, bias, activation)

    def build(self, input_shape: Shape) -> None:
        self._add_codes((*self.kernel_size, input_shape[-1], self.filters))

    def call(self, inputs: Tensor) -> Tensor:
        outputs = ops.conv(
            inputs,
            self.kernel,
            strides=self.strides,
            padding=self.padding,
            data_format="channels_last",
            dilation_rate=self.dilation_rate,
        )
        return self._finish(outputs)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        sizes: list[int | None] = []
        for length, window, stride, step in zip(
            input_shape[1:3],
            self.kernel_size,
            self.strides,
            self.dilation_rate,
            strict=True,
        ):
            if length is None:
                sizes.append(None)
            elif self.padding == "same":
                sizes.append(-(-length // stride))
            else:
                sizes.append((length - (window - 1) * step - 1) // stride + 1)
        return (input_shape[0], *sizes, self.filters)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "dilation_rate": self.dilation_rate,
            **self._config(),
        }


def _pair(name, value):
    pair = tuple(value) if isinstance(value, (list, tuple)) else (value,) * 2
    if len(pair) != 2:
        raise ValueError(
            f"`{name}` must be one integer or two. Received: {name}={value!r}"
        )
    for one in pair:
        check_count(name, one)
    return tuple(int(one) for one in pair)
