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


class CompressedConvolution(Compressed):
    """A compressed convolution of one or two axes: what both have in common.

    A sequence is an image of one row.

    Args:
        filters: Positive integer, the channels of the output.
        active: Positive integer, the number of active weights.
        kernel_size: Integer, or a tuple of one for each axis. Defaults to 1.
        strides: Integer, or a tuple of one for each axis.
        padding: One of `paddings`.
        activation: As for the layer of Keras.
        use_bias: Whether there is a bias.
        **kwargs: As for the layer of Keras, of one group, without dilation,
            with channels last.

    Raises:
        ValueError: If a count is not a positive integer, the padding is
            another, or the dtype policy does not compute in float32.
    """

    keras_class: typing.Any
    rank: int
    paddings: tuple[str, ...] = ("valid", "same")

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
        check_choice("padding", padding, self.paddings)
        super().__init__(active, activation, use_bias, **kwargs)
        self.filters, self.padding = filters, padding
        self.kernel_size = _sizes("kernel_size", kernel_size, self.rank)
        self.strides = _sizes("strides", strides, self.rank)

    @classmethod
    def reason_against(cls, layer: Layer) -> str:
        """As for `Compressed`; groups, dilation and channels count too."""
        if layer.groups != 1:
            return "it has several groups"
        if set(layer.dilation_rate) != {1}:
            return "it is dilated"
        if layer.data_format != "channels_last":
            return "its channels are not last"
        return super().reason_against(layer)

    def _kernel_axes(self, input_shape: tuple) -> tuple[tuple, tuple]:
        return (*self.kernel_size, int(input_shape[-1])), (self.filters,)

    @classmethod
    def _input_shape_of(cls, layer):
        return (*(None,) * (cls.rank + 1), layer.kernel.shape[-2])

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
        layer = self.keras_class(
            data_format="channels_last", **self._shared_arguments()
        )
        layer.build((*(None,) * (self.rank + 1), self.kernel_shape[-2]))
        return layer

    def call(self, inputs: Tensor) -> Tensor:
        if set(self.kernel_size) == {1}:
            # Every stride-th pixel is all that counts.
            pixels = (slice(None, None, stride) for stride in self.strides)
            return super().call(inputs[(slice(None), *pixels)])
        images = inputs if self.rank == 2 else inputs[:, None]
        geometry = self._geometry(ops.shape(images)[1:])
        convolution = bridge("_convolution").convolution
        y = self._activated(convolution(*self._given(images, geometry)))
        return y if self.rank == 2 else y[:, 0]

    def _of_images(self, sizes):
        """Sizes of the axes of an image: a sequence has one row."""
        return (*(1,) * (2 - self.rank), *sizes)

    def _geometry(self, shape):
        known = all(isinstance(size, int) for size in shape)
        return Geometry.of(
            shape,
            self._of_images(self.kernel_size),
            self._of_images(self.strides),
            self.padding,
            max if known else ops.maximum,
        )

    def rows_of(self, x: Tensor) -> Tensor:
        if len(x.shape) == 2:  # of a kernel of one pixel
            return x
        padding = self.padding
        if padding == "causal":
            before = [(size - 1, 0) for size in self.kernel_size]
            x = ops.pad(x, [(0, 0), (0, 0), *before, (0, 0)])
            padding = "valid"
        patches = ops.image.extract_patches(
            x,
            self._of_images(self.kernel_size),
            strides=self._of_images(self.strides),
            padding=padding,
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


@keras.saving.register_keras_serializable(package="keras_freetickets")
class CompressedConv1D(CompressedConvolution):
    """`keras.layers.Conv1D` of which only the active weights exist.

    Args:
        filters: Positive integer, the channels of the output.
        active: Positive integer, the number of active weights.
        kernel_size: Integer. Defaults to 1.
        strides: Integer.
        padding: `"valid"`, `"same"` or `"causal"`.
        activation: As for `keras.layers.Conv1D`.
        use_bias: Whether there is a bias.
        **kwargs: As for `keras.layers.Conv1D`, of one group, without
            dilation, with channels last.

    Raises:
        ValueError: If a count is not a positive integer, the padding is
            another, or the dtype policy does not compute in float32.

    Example:

    ```python
    compressed = CompressedConv1D.from_dense(convolution, mask)
    ```
    """

    keras_class = keras.layers.Conv1D
    rank = 1
    paddings = ("valid", "same", "causal")


@keras.saving.register_keras_serializable(package="keras_freetickets")
class CompressedConv2D(CompressedConvolution):
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

    keras_class = keras.layers.Conv2D
    rank = 2


def _sizes(name: str, value: typing.Any, rank: int) -> tuple[int, ...]:
    sizes = (value,) * rank if isinstance(value, int) else tuple(value)
    if len(sizes) != rank:
        several = "a tuple of one" if rank == 1 else "a pair of integers"
        raise ValueError(
            f"`{name}` must be an integer or {several}. Received: "
            f"{name}={value!r}"
        )
    for one in sizes:
        check_count(name, one)
    return sizes
