"""Convolutions of compressed layers within JAX's programs."""

import functools
import typing

import numpy as np

from keras_freetickets.kernels.geometry import Geometry
from keras_freetickets.kernels.jax import call_target
from keras_freetickets.kernels.jax import cfunc
from keras_freetickets.kernels.jax import check_arrays
from keras_freetickets.kernels.jax import frame_helpers
from keras_freetickets.kernels.jax import nothing_like
from keras_freetickets.kernels.structure import Positions
from keras_freetickets.kernels.threads import address
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
            f"convolution_forward{'_relu' if relu else ''}",
            positions.column_indices.dtype,
            functools.partial(_forward_target, relu),
            [values, *positions[:2], bias, x, sizes],
            [jax.ShapeDtypeStruct(shape, float32)],
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
            _backward_target,
            [values, *positions, x, dy, sizes],
            [jax.ShapeDtypeStruct(shape, float32) for shape in shapes],
        )
        sinks = (x, dy.reshape(-1, y.shape[-1])) if sinks else ()
        return nothing_like(positions), dvalues, dx, dbias, sinks

    call.defvjp(forward, backward)
    return call


def _forward_target(relu, columns_type):
    from keras_freetickets.kernels import convolution as kernels

    run = kernels.forward_at_addresses(columns_type)
    pool, threads = kernels.pool(), address()
    is_execution, data, size, parts = frame_helpers()

    def compute(frame):
        if is_execution(frame):
            # values, row_pointers, column_indices, bias, x, sizes; y
            a, r = parts(frame, 6, 1)
            run(
                *(data(a, 0), data(a, 1), data(a, 2), data(a, 3), data(a, 4)),
                *(data(r, 0), data(a, 5), relu),
                *(size(a, 0, 0), size(a, 3, 0), size(a, 4, 0)),
                *(np.uint64(pool), np.uint64(threads)),
            )
        return np.uint64(0)  # no error

    return cfunc(compute)


def _backward_target(columns_type):
    from keras_freetickets.kernels import convolution as kernels

    run = kernels.backward_at_addresses(columns_type)
    pool, threads = kernels.pool(), address()
    is_execution, data, size, parts = frame_helpers()

    def compute(frame):
        if is_execution(frame):
            # values, positions (4), x, dy, sizes; dx, dvalues, dbias
            a, r = parts(frame, 8, 3)
            run(
                *(data(a, 0), data(a, 1), data(a, 2), data(a, 3), data(a, 4)),
                *(data(a, 5), data(a, 6), data(r, 0), data(r, 1), data(r, 2)),
                *(data(a, 7), size(a, 0, 0), size(a, 6, 3), size(a, 5, 0)),
                *(np.uint64(pool), np.uint64(threads)),
            )
        return np.uint64(0)

    return cfunc(compute)
