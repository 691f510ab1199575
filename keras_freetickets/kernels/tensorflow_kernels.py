"""The kernels of the operations that TensorFlow's graphs call.

Each function compiles one for a type of column indices, "uint16" or "int32",
and returns what `numba.cfunc` does. The kernel closes over that type alone:
numba then finds it compiled in the next process. Importing this imports numba
and TensorFlow.
"""

import typing

import numpy as np

from keras_freetickets.kernels import convolution
from keras_freetickets.kernels import native
from keras_freetickets.kernels.drop_and_grow import update_at
from keras_freetickets.kernels.native import flag_at
from keras_freetickets.kernels.native import scratch_floats
from keras_freetickets.kernels.tensorflow_context import addresses
from keras_freetickets.kernels.tensorflow_context import close
from keras_freetickets.kernels.tensorflow_context import get_code
from keras_freetickets.kernels.tensorflow_context import integers
from keras_freetickets.kernels.tensorflow_context import kernel
from keras_freetickets.kernels.tensorflow_context import memory
from keras_freetickets.kernels.tensorflow_context import mismatch
from keras_freetickets.kernels.tensorflow_context import new_status
from keras_freetickets.kernels.tensorflow_context import output
from keras_freetickets.kernels.tensorflow_context import read
from keras_freetickets.kernels.tensorflow_context import size
from keras_freetickets.kernels.tensorflow_operations import INT32
from keras_freetickets.kernels.tensorflow_operations import UINT16
from keras_freetickets.kernels.vectors import numba

# Names that compiled functions may have: numba looks for them here.
_forward, _backward = native.forward_at, native.backward_at
_convolution_forward = convolution.forward_at
_convolution_backward = convolution.backward_at
_images_at, _made_at = convolution.images_at, convolution.made_at


def forward(columns_type: str) -> typing.Any:
    """The product of a dense layer."""
    column = getattr(numba, columns_type)

    def compute(_, context):
        # values, row_pointers, column_indices, bias, x, relu; y,
        # memory, memory
        status = new_status()
        tensors = np.zeros(9, np.uint64)
        read(context, 6, tensors, status)
        active, outputs = size(tensors[0], 0), size(tensors[3], 0)
        batch, inputs = size(tensors[4], 0), size(tensors[4], 1)
        if size(tensors[1], 0) != outputs + 1 or size(tensors[2], 0) != active:
            mismatch(status)
        if get_code(status) == 0:
            tensors[6] = output(context, 0, 2, batch, outputs, status)
        if get_code(status) == 0:
            n = scratch_floats(batch, inputs)
            tensors[7] = memory(context, n, status)
        if get_code(status) == 0:
            n = scratch_floats(batch, outputs)
            tensors[8] = memory(context, n, status)
        if get_code(status) == 0:
            at = addresses(tensors)
            _forward(
                *(column, at[0], at[1], at[2], at[3], at[4], at[6], at[7]),
                *(at[8], flag_at(at[5]), active, outputs, batch, inputs),
            )
        close(context, tensors, status)

    return kernel(compute)


def backward(columns_type: str) -> typing.Any:
    """The gradients of a dense layer's product."""
    column = getattr(numba, columns_type)

    def compute(_, context):
        # values, row_pointers, column_indices, input_pointers, units, x, dy,
        # y, relu; dx, dvalues, dbias, memory
        status = new_status()
        tensors = np.zeros(15, np.uint64)
        read(context, 9, tensors, status)
        active, outputs = size(tensors[0], 0), size(tensors[6], 1)
        batch, inputs = size(tensors[5], 0), size(tensors[5], 1)
        if (
            size(tensors[1], 0) != outputs + 1
            or size(tensors[2], 0) != active
            or size(tensors[4], 0) != active
            or size(tensors[6], 0) != batch
            or (size(tensors[3], 0) - 1) % inputs != 0
        ):
            mismatch(status)
        if get_code(status) == 0:
            tensors[9] = output(context, 0, 2, batch, inputs, status)
        if get_code(status) == 0:
            tensors[10] = output(context, 1, 1, active, 1, status)
        if get_code(status) == 0:
            tensors[11] = output(context, 2, 1, outputs, 1, status)
        for i, features in enumerate((inputs, outputs, max(inputs, outputs))):
            if get_code(status) == 0:
                n = scratch_floats(batch, features)
                tensors[12 + i] = memory(context, n, status)
        if get_code(status) == 0:
            at = addresses(tensors)
            _backward(
                *(column, at[0], at[1], at[2], at[3], at[4], at[5], at[6]),
                *(at[7], at[9], at[10], at[11], at[12], at[13], at[14]),
                *(flag_at(at[8]), active, outputs, batch, inputs),
            )
        close(context, tensors, status)

    return kernel(compute)


def convolution_forward(columns_type: str) -> typing.Any:
    """A convolution."""
    column = getattr(numba, columns_type)

    def compute(_, context):
        # values, row_pointers, column_indices, bias, x, sizes, relu; y
        status = new_status()
        tensors = np.zeros(8, np.uint64)
        read(context, 7, tensors, status)
        room, outputs = size(tensors[0], 0), size(tensors[3], 0)
        sizes = addresses(tensors[5:6])[0]
        batch = _images_at(size(tensors[4], 0), size(tensors[4], 1), sizes)
        if (
            size(tensors[1], 0) != outputs + 1
            or size(tensors[2], 0) != room
            or batch < 0
        ):
            mismatch(status)
        if get_code(status) == 0:
            rows = batch * _made_at(sizes)
            tensors[7] = output(context, 0, 2, rows, outputs, status)
        if get_code(status) == 0:
            at = addresses(tensors)
            _convolution_forward(
                *(column, at[0], at[1], at[2], at[3], at[4], at[7], at[5]),
                *(flag_at(at[6]), room, outputs, batch),
            )
        close(context, tensors, status)

    return kernel(compute)


def convolution_backward(columns_type: str) -> typing.Any:
    """The gradients of a convolution."""
    column = getattr(numba, columns_type)

    def compute(_, context):
        # values, row_pointers, column_indices, input_pointers, units, x, dy,
        # sizes; dx, dvalues, dbias
        status = new_status()
        tensors = np.zeros(11, np.uint64)
        read(context, 8, tensors, status)
        room, outputs = size(tensors[0], 0), size(tensors[6], 1)
        rows, channels = size(tensors[5], 0), size(tensors[5], 1)
        sizes = addresses(tensors[7:8])[0]
        batch = _images_at(rows, channels, sizes)
        if (
            size(tensors[1], 0) != outputs + 1
            or size(tensors[2], 0) != room
            or size(tensors[4], 0) != room
            or batch < 0
            or size(tensors[6], 0) != batch * _made_at(sizes)
        ):
            mismatch(status)
        if get_code(status) == 0:
            tensors[8] = output(context, 0, 2, rows, channels, status)
        if get_code(status) == 0:
            tensors[9] = output(context, 1, 1, room, 1, status)
        if get_code(status) == 0:
            tensors[10] = output(context, 2, 1, outputs, 1, status)
        if get_code(status) == 0:
            at = addresses(tensors)
            _convolution_backward(
                *(column, at[0], at[1], at[2], at[3], at[4], at[5], at[6]),
                *(at[8], at[9], at[10], at[7], room, outputs, batch),
            )
        close(context, tensors, status)

    return kernel(compute)


def drop_and_grow(columns_type: str) -> typing.Any:
    """An update of the topology."""
    column = getattr(numba, columns_type)
    columns_kind = UINT16 if columns_type == "uint16" else INT32

    def compute(_, context):
        # values, row_pointers, column_indices, input_pointers, x, dy,
        # settings; positions (4), source, report
        status = new_status()
        tensors = np.zeros(13, np.uint64)
        read(context, 7, tensors, status)
        room, outputs = size(tensors[0], 0), size(tensors[5], 1)
        batch, inputs = size(tensors[4], 0), size(tensors[4], 1)
        by_input = size(tensors[3], 0)
        if (
            size(tensors[1], 0) != outputs + 1
            or size(tensors[2], 0) != room
            or (by_input - 1) % inputs != 0
            or size(tensors[5], 0) != batch
        ):
            mismatch(status)
        counts = (outputs + 1, room, by_input, room, room, 3)
        kinds = (INT32, columns_kind, INT32, UINT16, INT32, INT32)
        for i in range(6):
            if get_code(status) == 0:
                tensors[7 + i] = integers(
                    context, i, kinds[i], counts[i], status
                )
        if get_code(status) == 0:
            at = addresses(tensors)
            update_at(
                *(column, at[0], at[1], at[2], at[4], at[5], at[6], at[7]),
                *(at[8], at[9], at[10], at[11], at[12], room, outputs),
                *(batch, inputs),
            )
        close(context, tensors, status)

    return kernel(compute)
