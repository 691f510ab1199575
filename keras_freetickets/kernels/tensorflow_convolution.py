"""Convolutions of compressed layers in TensorFlow's graphs."""

import functools
import threading
import typing

import numpy as np

from keras_freetickets.kernels import tensorflow_operations as operations
from keras_freetickets.kernels.geometry import Geometry
from keras_freetickets.kernels.structure import Positions
from keras_freetickets.kernels.tensorflow import check_tensors
from keras_freetickets.kernels.tensorflow import name_of
from keras_freetickets.kernels.threads import address
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
            kinds = ["float32", "int32", columns_type]
            operations.Registration(
                forward,
                [*kinds, "float32", "float32", "int32", "int32"],
                ["float32"],
            ).add(_forward_kernel(columns_type))
            kinds += ["int32", "uint16", "float32", "float32", "int32"]
            operations.Registration(backward, kinds, ["float32"] * 3).add(
                _backward_kernel(columns_type)
            )
            # The custom gradient around them is theirs, in eager calls too.
            for name in (forward, backward):
                tf.no_gradient(name)
            _registered.add(forward)
    return forward, backward


def _forward_kernel(columns_type):
    from keras_freetickets.kernels import convolution as kernels
    from keras_freetickets.kernels import native

    run = kernels.forward_at_addresses(columns_type)
    pool, threads = kernels.pool(), address()
    images, made, flag = kernels.images_at, kernels.made_at, native.flag_at
    use, calls = operations.helpers(), operations.calls()
    read, output, data = use.read, use.output, use.addresses
    mismatch, close = use.mismatch, use.close
    get_code, size = calls["TF_GetCode"], calls["TF_Dim"]
    new_status, delete_status = calls["TF_NewStatus"], calls["TF_DeleteStatus"]

    def compute(_, context):
        # values, row_pointers, column_indices, bias, x, sizes, relu; y
        status = new_status()
        tensors = np.zeros(8, np.uint64)
        read(context, 7, tensors, status)
        room, outputs = size(tensors[0], 0), size(tensors[3], 0)
        sizes = data(tensors[5:6])[0]
        batch = images(size(tensors[4], 0), size(tensors[4], 1), sizes)
        if (
            size(tensors[1], 0) != outputs + 1
            or size(tensors[2], 0) != room
            or batch < 0
        ):
            mismatch(status)
        if get_code(status) == 0:
            rows = batch * made(sizes)
            tensors[7] = output(context, 0, 2, rows, outputs, status)
        if get_code(status) == 0:
            at = data(tensors)
            run(
                *(at[0], at[1], at[2], at[3], at[4], at[7], at[5]),
                *(flag(at[6]), room, outputs, batch),
                *(np.uint64(pool), np.uint64(threads)),
            )
        close(context, tensors, status)
        delete_status(status)

    return operations.compiled(compute)


def _backward_kernel(columns_type):
    from keras_freetickets.kernels import convolution as kernels

    run = kernels.backward_at_addresses(columns_type)
    pool, threads = kernels.pool(), address()
    images, made = kernels.images_at, kernels.made_at
    use, calls = operations.helpers(), operations.calls()
    read, output, data = use.read, use.output, use.addresses
    mismatch, close = use.mismatch, use.close
    get_code, size = calls["TF_GetCode"], calls["TF_Dim"]
    new_status, delete_status = calls["TF_NewStatus"], calls["TF_DeleteStatus"]

    def compute(_, context):
        # values, row_pointers, column_indices, input_pointers, units, x, dy,
        # sizes; dx, dvalues, dbias
        status = new_status()
        tensors = np.zeros(11, np.uint64)
        read(context, 8, tensors, status)
        room, outputs = size(tensors[0], 0), size(tensors[6], 1)
        rows, channels = size(tensors[5], 0), size(tensors[5], 1)
        sizes = data(tensors[7:8])[0]
        batch = images(rows, channels, sizes)
        if (
            size(tensors[1], 0) != outputs + 1
            or size(tensors[2], 0) != room
            or size(tensors[4], 0) != room
            or batch < 0
            or size(tensors[6], 0) != batch * made(sizes)
        ):
            mismatch(status)
        if get_code(status) == 0:
            tensors[8] = output(context, 0, 2, rows, channels, status)
        if get_code(status) == 0:
            tensors[9] = output(context, 1, 1, room, 1, status)
        if get_code(status) == 0:
            tensors[10] = output(context, 2, 1, outputs, 1, status)
        if get_code(status) == 0:
            at = data(tensors)
            run(
                *(at[0], at[1], at[2], at[3], at[4], at[5], at[6], at[8]),
                *(at[9], at[10], at[7], room, outputs, batch),
                *(np.uint64(pool), np.uint64(threads)),
            )
        close(context, tensors, status)
        delete_status(status)

    return operations.compiled(compute)
