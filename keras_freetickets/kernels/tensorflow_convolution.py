"""Convolutions of compressed layers in TensorFlow's graphs."""

import functools
import threading
import typing

from keras_freetickets.kernels import tensorflow_operations as operations
from keras_freetickets.kernels.geometry import Geometry
from keras_freetickets.kernels.structure import Positions
from keras_freetickets.kernels.tensorflow import check_tensors
from keras_freetickets.kernels.tensorflow import name_of
from keras_freetickets.optional import tensorflow as tf
from keras_freetickets.types import Tensor

_lock = threading.Lock()
_registered: set[str] = set()


def convolution(
    positions: Positions,
    values: Tensor,
    x: Tensor,
    bias: Tensor,
    geometry: Geometry,
    relu: bool = False,
    tap: typing.Any = None,
) -> Tensor:
    """Output of a compressed convolution, differentiable once.

    Args:
        positions: As for `kernels.tensorflow.product`, of the kernel as a
            matrix `(height * width * channels, filters)`.
        values: float32 tensor of shape `(active,)`.
        x: float32 tensor of shape `(batch, height, width, channels)`.
        bias: float32 tensor of shape `(filters,)`.
        geometry: `Geometry`.
        relu: Whether negative outputs become 0.
        tap: As for `kernels.tensorflow.product`. It is given the images, and
            the gradient of the output as a matrix of pixels.

    Returns:
        float32 tensor of shape `(batch, height, width, filters)`.

    Raises:
        ImportError: If numba or TensorFlow is not installed.
        ValueError: If a tensor is not float32, or there is a GPU or TPU.
    """
    call = _unconverted()
    return call(positions, values, x, bias, geometry, relu, tap)


@functools.cache
def _unconverted() -> typing.Callable:
    """Autograph would convert what numba compiles."""
    return tf.autograph.experimental.do_not_convert(_convolution)


def _convolution(positions, values, x, bias, geometry, relu, tap):
    check_tensors(values, x, bias)
    names = _register(tf.as_dtype(positions.column_indices.dtype).name)
    sizes = tf.stack([tf.cast(n, tf.int32) for n in geometry.numbers()])
    rectify = tf.constant(relu, tf.int32)
    channels, filters = geometry.channels, bias.shape[0]
    made = [geometry.out_height, geometry.out_width, filters]

    @tf.custom_gradient
    def call(values, x, bias):
        pixels = tf.reshape(x, [-1, channels])
        tensors = [values, *positions[:2], bias, pixels, sizes, rectify]
        (y,) = operations.call(names[0], tensors, ["float32"])
        y.set_shape([None, filters])

        def gradient(dy):
            dy = tf.reshape(dy, [-1, filters])
            if relu:
                dy = tf.where(y == 0.0, 0.0, dy)
            if tap is not None:
                tap.note(x, dy)
            tensors = [values, *positions, pixels, dy, sizes]
            dx, dvalues, dbias = operations.call(
                names[1], tensors, ["float32"] * 3
            )
            dvalues.set_shape(values.shape)
            dbias.set_shape(bias.shape)
            return dvalues, tf.reshape(dx, tf.shape(x)), dbias

        return tf.reshape(y, [tf.shape(x)[0], *made]), gradient

    # Read here: a custom gradient may not read variables.
    return call(*map(tf.convert_to_tensor, (values, x, bias)))


def _register(columns_type: str) -> tuple[str, str]:
    """Names of the operations, registered when they are first asked for."""
    forward, backward = (
        name_of(f"Convolution{way}", columns_type)
        for way in ("Forward", "Backward")
    )
    with _lock:
        if forward not in _registered:
            from keras_freetickets.kernels import tensorflow_kernels as kernels

            kinds = ["float32", "int32", columns_type]
            operations.Registration(
                forward,
                [*kinds, "float32", "float32", "int32", "int32"],
                ["float32"],
            ).add(kernels.convolution_forward(columns_type))
            kinds += ["int32", "uint16", "float32", "float32", "int32"]
            operations.Registration(backward, kinds, ["float32"] * 3).add(
                kernels.convolution_backward(columns_type)
            )
            # The custom gradient around them is theirs, in eager calls too.
            for name in (forward, backward):
                tf.no_gradient(name)
            _registered.add(forward)
    return forward, backward
