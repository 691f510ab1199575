"""What XLA calls for compressed layers: each takes the address of a frame.

Each function compiles a target for a type of column indices, "uint16" or
"int32", and returns what `numba.cfunc` does. A target closes over that type and
numbers alone: numba then finds it compiled in the next process. Importing this
imports numba.
"""

import typing

import numpy as np

from keras_freetickets.kernels import convolution
from keras_freetickets.kernels import native
from keras_freetickets.kernels.compiled import callback
from keras_freetickets.kernels.compiled import compiled
from keras_freetickets.kernels.drop_and_grow import update_at
from keras_freetickets.kernels.vectors import numba
from keras_freetickets.kernels.vectors import pointer
from keras_freetickets.types import Array

# Of XLA_FFI_CallFrame (xla/ffi/api/c_api.h, version 0.x), in words of 8 bytes.
# Each part begins with its size and its extensions.
_EXTENSION, _STAGE = 1, 4
_ARGUMENTS, _RESULTS = 9, 14  # void** args, void** rets
_EXECUTE = 3
# Of XLA_FFI_Buffer.
_DATA, _DIMENSIONS = 3, 5
# Of XLA_FFI_Metadata_Extension.
_METADATA = 3

carray = numba.carray
uint64, int32 = numba.uint64, numba.int32
# Names that compiled functions may have: numba looks for them here.
_forward, _backward = native.forward_at, native.backward_at
_convolution_forward = convolution.forward_at
_convolution_backward = convolution.backward_at


@compiled
def _words(address: int, count: int) -> Array:
    return carray(pointer(address), count, uint64)


@compiled
def _is_execution(frame: int) -> bool:
    """Whether a frame asks for an execution.

    Answers what XLA asks before: which version this is for.
    """
    head = _words(frame, 5)
    if head[_EXTENSION] != 0:
        extension = _words(head[_EXTENSION], 4)
        kind = carray(pointer(head[_EXTENSION] + 8), 1, int32)[0]
        if kind == 1:
            # struct_size; {struct_size, extension, major, minor}; traits
            data = extension[_METADATA]
            version = carray(pointer(data + 24), 2, int32)
            version[0], version[1] = 0, 3
            return False
    stage = carray(pointer(frame + 8 * _STAGE), 1, int32)[0]
    return stage == _EXECUTE


@compiled
def _data(buffers: Array, i: int) -> int:
    """The address of a buffer's data."""
    return _words(buffers[i], 6)[_DATA]


@compiled
def _size(buffers: Array, i: int, axis: int) -> np.int64:
    """The size of an axis of a buffer."""
    dimensions = _words(_words(buffers[i], 6)[_DIMENSIONS], axis + 1)
    return np.int64(dimensions[axis])


@compiled
def _parts(frame: int, arguments: int, results: int) -> tuple:
    """The arguments and the results of a frame."""
    head = _words(frame, 20)
    found = _words(head[_ARGUMENTS], arguments)
    return found, _words(head[_RESULTS], results)


def _target(compute: typing.Callable) -> typing.Any:
    address = numba.types.uintp
    return callback(compute, address(address))


def forward(columns_type: str, relu: bool = False) -> typing.Any:
    """The product of a dense layer."""
    column = getattr(numba, columns_type)

    def compute(frame):
        if _is_execution(frame):
            # values, row_pointers, column_indices, bias, x; y, memory, memory
            a, r = _parts(frame, 5, 3)
            _forward(
                *(column, _data(a, 0), _data(a, 1), _data(a, 2), _data(a, 3)),
                *(_data(a, 4), _data(r, 0), _data(r, 1), _data(r, 2), relu),
                *(_size(a, 0, 0), _size(a, 3, 0), _size(a, 4, 0)),
                _size(a, 4, 1),
            )
        return uint64(0)  # no error

    return _target(compute)


def backward(columns_type: str, relu: bool = False) -> typing.Any:
    """The gradients of a dense layer's product."""
    column = getattr(numba, columns_type)

    def compute(frame):
        if _is_execution(frame):
            # values, positions (4), x, dy, y; dx, dvalues, dbias, memory (3)
            a, r = _parts(frame, 8, 6)
            _backward(
                *(column, _data(a, 0), _data(a, 1), _data(a, 2), _data(a, 3)),
                *(_data(a, 4), _data(a, 5), _data(a, 6), _data(a, 7)),
                *(_data(r, 0), _data(r, 1), _data(r, 2), _data(r, 3)),
                *(_data(r, 4), _data(r, 5), relu, _size(a, 0, 0)),
                *(_size(a, 6, 1), _size(a, 5, 0), _size(a, 5, 1)),
            )
        return uint64(0)

    return _target(compute)


def convolution_forward(columns_type: str, relu: bool = False) -> typing.Any:
    """A convolution."""
    column = getattr(numba, columns_type)

    def compute(frame):
        if _is_execution(frame):
            # values, row_pointers, column_indices, bias, x, sizes; y
            a, r = _parts(frame, 6, 1)
            _convolution_forward(
                *(column, _data(a, 0), _data(a, 1), _data(a, 2), _data(a, 3)),
                *(_data(a, 4), _data(r, 0), _data(a, 5), relu),
                *(_size(a, 0, 0), _size(a, 3, 0), _size(a, 4, 0)),
            )
        return uint64(0)

    return _target(compute)


def convolution_backward(columns_type: str) -> typing.Any:
    """The gradients of a convolution."""
    column = getattr(numba, columns_type)

    def compute(frame):
        if _is_execution(frame):
            # values, positions (4), x, dy, sizes; dx, dvalues, dbias
            a, r = _parts(frame, 8, 3)
            _convolution_backward(
                *(column, _data(a, 0), _data(a, 1), _data(a, 2), _data(a, 3)),
                *(_data(a, 4), _data(a, 5), _data(a, 6), _data(r, 0)),
                *(_data(r, 1), _data(r, 2), _data(a, 7), _size(a, 0, 0)),
                *(_size(a, 6, 3), _size(a, 5, 0)),
            )
        return uint64(0)

    return _target(compute)


def drop_and_grow(columns_type: str) -> typing.Any:
    """An update of the topology."""
    column = getattr(numba, columns_type)

    def compute(frame):
        if _is_execution(frame):
            # values, row_pointers, column_indices, x, dy, settings; positions
            # (4), source, report
            a, r = _parts(frame, 6, 6)
            update_at(
                *(column, _data(a, 0), _data(a, 1), _data(a, 2), _data(a, 3)),
                *(_data(a, 4), _data(a, 5), _data(r, 0), _data(r, 1)),
                *(_data(r, 2), _data(r, 3), _data(r, 4), _data(r, 5)),
                *(_size(a, 0, 0), _size(a, 4, 1), _size(a, 3, 0)),
                _size(a, 3, 1),
            )
        return uint64(0)

    return _target(compute)
