"""Convolutions of compressed layers within JAX's programs."""

import functools
import typing

import numpy as np

from keras_freetickets.kernels.geometry import Geometry
from keras_freetickets.kernels.jax import call_target
from keras_freetickets.kernels.jax import check_arrays
from keras_freetickets.kernels.jax import nothing_like
from keras_freetickets.kernels.structure import Positions
from keras_freetickets.optional import import_optional
from keras_freetickets.types import Tensor


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
        positions: As for `kernels.jax.product`, of the kernel as a matrix
            `(height * width * channels, filters)`.
        values: float32 array of shape `(active,)`.
        x: float32 array of shape `(batch, height, width, channels)`.
        bias: float32 array of shape `(filters,)`.
        geometry: `Geometry`.
        relu: Whether negative outputs become 0.
        tap: As for `kernels.jax.product`. It is given the images, and the
            gradient of the output as a matrix of pixels.

    Returns:
        float32 array of shape `(batch, height, width, filters)`.

    Raises:
        ImportError: If numba is not installed.
        ValueError: If an array is not float32, a shape does not fit, or JAX
            runs on a GPU or TPU.
    """
    shape = (x.shape[0], geometry.height, geometry.width, geometry.channels)
    check_arrays(positions, values, x, bias, shape)
    sinks: tuple = ()
    if tap is not None:
        pixels = x.shape[0] * geometry.out_height * geometry.out_width
        sinks = tap.sinks(x, (pixels, bias.shape[0]))
    return _convolution(geometry, bool(relu))(positions, values, x, bias, sinks)


@functools.cache
def _convolution(geometry, relu):
    jax = import_optional("jax")
    sizes = np.array(geometry.numbers(), "int32")
    made = (geometry.out_height, geometry.out_width)

    @jax.custom_vjp
    def call(positions, values, x, bias, sinks):
        return forward(positions, values, x, bias, sinks)[0]

    def forward(positions, values, x, bias, sinks):
        float32 = jax.numpy.float32
        shape = (x.shape[0], *made, bias.shape[0])
        (y,) = call_target(
            "convolution_forward",
            positions.column_indices.dtype,
            [values, *positions[:2], bias, x, sizes],
            [jax.ShapeDtypeStruct(shape, float32)],
            relu,
        )
        return y, (positions, values, x, y, sinks)

    def backward(kept, dy):
        positions, values, x, y, sinks = kept
        if relu:
            dy = jax.numpy.where(y == 0, 0, dy)
        float32 = jax.numpy.float32
        shapes = [x.shape, values.shape, (y.shape[-1],)]
        dx, dvalues, dbias = call_target(
            "convolution_backward",
            positions.column_indices.dtype,
            [values, *positions, x, dy, sizes],
            [jax.ShapeDtypeStruct(shape, float32) for shape in shapes],
        )
        sinks = (x, dy.reshape(-1, y.shape[-1])) if sinks else ()
        return nothing_like(positions), dvalues, dx, dbias, sinks

    call.defvjp(forward, backward)
    return call
