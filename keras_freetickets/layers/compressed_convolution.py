"""Convolutions of which only the active weights exist."""

import typing

import keras
from keras import ops

from keras_freetickets.arguments import check_choice
from keras_freetickets.arguments import check_count
from keras_freetickets.kernels.geometry import Geometry
from keras_freetickets.layers.compressed import Compressed
from keras_freetickets.layers.compressed_kernels import bridge
from keras_freetickets.types import Config
from keras_freetickets.types import Layer
from keras_freetickets.types import Tensor


@keras.saving.register_keras_serializable(package="keras_freetickets")
class CompressedConv2D(Compressed):
    """`keras.layers.Conv2D` of which only the active weights exist.

    Args:
        filters: Positive integer, the channels of the output.
        active: Positive integer, the number of active weights.
        kernel_size: Integer or pair of integers. Defaults to 1.
        strides: Integer or pair of integers.
        padding: `"valid"` or `"same"`.
        activation: As for `keras.layers.Conv2D`.
        use_bias: Whether there is a bias.
        **kwargs: As for `keras.layers.Conv2D`, of one group, without
            dilation, with channels last.

    Raises:
        ValueError: If a count is not a positive integer, the padding is
            another, or the dtype policy does not compute in float32.

    Example:

    ```python
    compressed = CompressedConv2D.from_dense(convolution, mask)
    ```
    """

    def __init__(
        self,
        filters: int,
        active: int,
        kernel_size: typing.Any = 1,
        strides: typing.Any = 1,
        padding: str = "valid",
        activation: typing.Any = None,
        use_bias: bool = True,
        **kwargs: typing.Any,
    ) -> None:
        check_count("filters", filters)
        check_choice("padding", padding, ("valid", "same"))
        super().__init__(active, activation, use_bias, **kwargs)
        self.filters, self.padding = filters, padding
        self.kernel_size = _pair("kernel_size", kernel_size)
        self.strides = _pair("strides", strides)

    @classmethod
    def reason_against(cls, layer: Layer) -> str:
        """As for `Compressed`; groups, dilation and channels count too."""
        if layer.groups != 1:
            return "it has several groups"
        if tuple(layer.dilation_rate) != (1, 1):
            return "it is dilated"
        if layer.data_format != "channels_last":
            return "its channels are not last"
        return super().reason_against(layer)

    def _kernel_axes(self, input_shape: tuple) -> tuple[tuple, tuple]:
        return (*self.kernel_size, int(input_shape[-1])), (self.filters,)

    @classmethod
    def _input_shape_of(cls, layer):
        return (None, None, None, layer.kernel.shape[-2])

    @classmethod
    def _arguments_of(cls, layer: Layer) -> dict[str, typing.Any]:
        return {
            **super()._arguments_of(layer),
            "use_bias": layer.use_bias,
            "filters": layer.filters,
            "kernel_size": tuple(layer.kernel_size),
            "strides": layer.strides,
            "padding": layer.padding,
        }

    def dense_layer(self) -> Layer:
        layer = keras.layers.Conv2D(
            data_format="channels_last", **self._shared_arguments()
        )
        layer.build((None, None, None, self.kernel_shape[-2]))
        return layer

    def call(self, inputs: Tensor) -> Tensor:
        if self.kernel_size == (1, 1):
            # Every stride-th pixel is all that counts.
            down, right = self.strides
            return super().call(inputs[:, ::down, ::right])
        geometry = self._geometry(ops.shape(inputs)[1:])
        convolution = bridge("_convolution").convolution
        return self._activated(convolution(*self._given(inputs, geometry)))

    def _geometry(self, shape):
        known = all(isinstance(size, int) for size in shape)
        return Geometry.of(
            shape,
            self.kernel_size,
            self.strides,
            self.padding,
            max if known else ops.maximum,
        )

    def rows_of(self, x: Tensor) -> Tensor:
        if len(x.shape) == 2:  # of a kernel of one pixel
            return x
        patches = ops.image.extract_patches(
            x,
            self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            data_format="channels_last",
        )
        return ops.reshape(patches, (-1, self.num_inputs))

    def _input_rank(self):
        return 1

    def compute_output_shape(self, input_shape: typing.Any) -> tuple:
        batch, *sizes, _ = input_shape
        made = []
        for size, kernel, stride in zip(
            sizes, self.kernel_size, self.strides, strict=True
        ):
            if size is not None and self.padding == "valid":
                size = max(0, size - kernel + 1)
            made.append(None if size is None else -(-size // stride))
        return (batch, *made, self.filters)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
        }


def _pair(name: str, value: typing.Any) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2:
        raise ValueError(
            f"`{name}` must be an integer or a pair of integers. Received: "
            f"{name}={value!r}"
        )
    for one in pair:
        check_count(name, one)
    return pair
