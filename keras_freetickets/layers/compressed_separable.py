"""Separable convolutions of whose pointwise kernel the active weights exist."""

import typing

import keras
import numpy as np
from keras import ops

from keras_freetickets.arguments import check_count
from keras_freetickets.layers.compressed_convolution import CompressedConv1D
from keras_freetickets.layers.compressed_convolution import CompressedConv2D
from keras_freetickets.layers.compressed_kernels import CompressedKernel
from keras_freetickets.layers.compressed_kernels import CompressesKernels
from keras_freetickets.layers.compressed_kernels import check_compressible
from keras_freetickets.layers.compressed_kernels import check_float32
from keras_freetickets.types import Array
from keras_freetickets.types import Config
from keras_freetickets.types import Layer
from keras_freetickets.types import Tensor


class CompressedSeparable(CompressesKernels):
    """What compressed separable convolutions have in common; see those.

    The depthwise convolution is that of Keras; the pointwise one, which has
    nearly all weights, is a compressed convolution of one pixel.

    Args:
        *args: As for the layer of Keras.
        active: Positive integer, the number of active pointwise weights.
        **kwargs: As for the layer of Keras.
    """

    role = "pointwise_kernel"
    keras_class: typing.Any
    pointwise_class: typing.Any

    def __init__(
        self, *args: typing.Any, active: int, **kwargs: typing.Any
    ) -> None:
        check_count("active", active)
        super().__init__(*args, **kwargs)
        check_float32(self)
        if self.data_format != "channels_last":
            raise ValueError(
                "`data_format` must be 'channels_last': for another use "
                f"storage='mask'. Received: data_format={self.data_format!r}"
            )
        self.active = active
        self.pointwise = self.pointwise_class(
            active=active,
            dtype=self.dtype_policy,
            **_pointwise_arguments(self),
        )

    @classmethod
    def _pointwise_of(cls, layer):
        """The pointwise part of a layer of Keras, as a convolution."""
        convolution = cls.pointwise_class.keras_class(
            kernel_size=1,
            data_format=layer.data_format,
            kernel_constraint=layer.pointwise_constraint,
            dtype=layer.dtype_policy,
            **_pointwise_arguments(layer),
        )
        kernel = layer.pointwise_kernel
        axis = 1 if layer.data_format == "channels_first" else -1
        shape = [None] * len(kernel.shape)
        shape[axis] = kernel.shape[-2]
        convolution.build(tuple(shape))
        convolution.kernel.assign(kernel)
        if layer.use_bias:
            convolution.bias.assign(layer.bias)
        return convolution

    @classmethod
    def reason_against(cls, layer: Layer) -> str:
        """As for `CompressesKernels`."""
        return cls.pointwise_class.reason_against(cls._pointwise_of(layer))

    @classmethod
    def from_dense(
        cls, layer: Layer, mask: Array, **kwargs: typing.Any
    ) -> typing.Self:
        """A compressed layer that computes what a dense one does.

        Args:
            layer: A built layer whose pointwise kernel is zero outside the
                mask.
            mask: Boolean array of the pointwise kernel's shape.
            **kwargs: Arguments of the layer; by default those of `layer`.

        Returns:
            A built layer.

        Raises:
            ValueError: If the mask does not fit the kernel, the kernel holds
                something outside it, or the layer has what compressed ones
                have not.
        """
        check_compressible(cls, layer, {layer.name: mask})
        active = int(np.count_nonzero(mask))
        config = {**layer.get_config(), "active": active, **kwargs}
        compressed = cls.from_config(config)
        channels = layer.depthwise_kernel.shape[-2]
        compressed.build((*(None,) * (layer.rank + 1), channels))
        # A copy: JAX gives up arrays that a step was handed.
        compressed.depthwise_kernel.assign(ops.copy(layer.depthwise_kernel))
        compressed.pointwise.take_weights(cls._pointwise_of(layer), mask)
        return compressed

    @classmethod
    def from_masks(
        cls,
        layer: Layer,
        masks: list[Array],
        rooms: list[int],
        **kwargs: typing.Any,
    ) -> typing.Self:
        """As for `CompressesKernels`, of one mask and room."""
        (mask,), (room,) = masks, rooms
        return cls.from_dense(layer, mask, active=room, **kwargs)

    def to_dense(self) -> Layer:
        """As for `CompressesKernels`."""
        config = self.get_config()
        del config["active"]
        layer = self.keras_class.from_config(config)
        channels = self.depthwise_kernel.shape[-2]
        layer.build((*(None,) * (self.rank + 1), channels))
        layer.depthwise_kernel.assign(ops.copy(self.depthwise_kernel))
        pointwise = self.pointwise.to_dense()
        layer.pointwise_kernel.assign(pointwise.kernel)
        if self.use_bias:
            layer.bias.assign(pointwise.bias)
        return layer

    def build(self, input_shape: typing.Any) -> None:
        """As for the layer of Keras.

        Args:
            input_shape: Shape of the input.
        """
        channels = input_shape[-1]
        self.input_spec = keras.layers.InputSpec(
            min_ndim=self.rank + 2, axes={-1: channels}
        )
        self.depthwise_kernel = self.add_weight(
            name="depthwise_kernel",
            shape=(*self.kernel_size, channels, self.depth_multiplier),
            initializer=self.depthwise_initializer,
            regularizer=self.depthwise_regularizer,
            constraint=self.depthwise_constraint,
        )
        made = (*(None,) * (self.rank + 1), channels * self.depth_multiplier)
        self.pointwise.build(made)
        for record in self.pointwise.masked_kernels:
            record.name = f"{self.name}/{self.role}"

    @property
    def kernel_layers(self) -> list[typing.Any]:
        """List with the pointwise convolution."""
        return [self.pointwise]

    @property
    def masked_kernels(self) -> list[CompressedKernel]:
        """List with the `CompressedKernel` of the pointwise convolution."""
        return self.pointwise.masked_kernels

    def call(self, inputs: Tensor) -> Tensor:
        """As for the layer of Keras.

        Args:
            inputs: Tensor of shape `(batch, ..., channels)`.

        Returns:
            Tensor of shape `(batch, ..., filters)`.
        """
        x = ops.depthwise_conv(
            inputs,
            self.depthwise_kernel,
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )
        return self.pointwise(x)

    def get_config(self) -> Config:
        return {**super().get_config(), "active": self.active}


def _pointwise_arguments(layer):
    """Arguments of the pointwise convolution of a separable one."""
    return {
        "filters": layer.filters,
        "activation": layer.activation,
        "use_bias": layer.use_bias,
        "kernel_initializer": layer.pointwise_initializer,
        "bias_initializer": layer.bias_initializer,
        "kernel_regularizer": layer.pointwise_regularizer,
        "bias_regularizer": layer.bias_regularizer,
        "bias_constraint": layer.bias_constraint,
        "name": "pointwise",
    }


@keras.saving.register_keras_serializable(package="keras_freetickets")
class CompressedSeparableConv1D(
    CompressedSeparable, keras.layers.SeparableConv1D
):
    """`keras.layers.SeparableConv1D` with a compressed pointwise kernel.

    Args:
        *args: As for `keras.layers.SeparableConv1D`.
        active: Positive integer, the number of active pointwise weights.
        **kwargs: As for `keras.layers.SeparableConv1D`, with channels last.

    Raises:
        ValueError: If a count is not a positive integer, channels are not
            last, or the dtype policy does not compute in float32.

    Example:

    ```python
    compressed = CompressedSeparableConv1D.from_dense(convolution, mask)
    ```
    """

    keras_class = keras.layers.SeparableConv1D
    pointwise_class = CompressedConv1D


@keras.saving.register_keras_serializable(package="keras_freetickets")
class CompressedSeparableConv2D(
    CompressedSeparable, keras.layers.SeparableConv2D
):
    """`keras.layers.SeparableConv2D` with a compressed pointwise kernel.

    Args:
        *args: As for `keras.layers.SeparableConv2D`.
        active: Positive integer, the number of active pointwise weights.
        **kwargs: As for `keras.layers.SeparableConv2D`, with channels last.

    Raises:
        ValueError: If a count is not a positive integer, channels are not
            last, or the dtype policy does not compute in float32.

    Example:

    ```python
    compressed = CompressedSeparableConv2D.from_dense(convolution, mask)
    ```
    """

    keras_class = keras.layers.SeparableConv2D
    pointwise_class = CompressedConv2D
