"""What a compiled kernel does with the context that TensorFlow calls it with.

Contexts, statuses and tensors are addresses. What went wrong once stays in the
status. Importing this imports numba and TensorFlow.
"""

import ctypes
import typing

import numpy as np

from keras_freetickets.kernels.addresses import address_of
from keras_freetickets.kernels.addresses import name_address
from keras_freetickets.kernels.compiled import callback
from keras_freetickets.kernels.compiled import compiled
from keras_freetickets.kernels.tensorflow_operations import FLOAT32
from keras_freetickets.kernels.tensorflow_operations import INVALID_ARGUMENT
from keras_freetickets.kernels.tensorflow_operations import UINT16
from keras_freetickets.kernels.tensorflow_operations import library
from keras_freetickets.kernels.vectors import numba
from keras_freetickets.kernels.vectors import types
from keras_freetickets.types import Array

_SIZE, _NUMBER, _LONG = types.uintp, types.int32, types.int64
_MISMATCH = ctypes.create_string_buffer(
    b"The positions of a compressed layer are not those of its values, or its "
    b"input has the wrong number of features."
)
name_address("keras_freetickets_mismatch", ctypes.addressof(_MISMATCH))


def _function(
    name: str, result: typing.Any, *arguments: typing.Any
) -> typing.Any:
    """A function of TensorFlow's C interface, as compiled ones call it."""
    found = ctypes.cast(getattr(library(), name), ctypes.c_void_p)
    assert found.value is not None
    name_address(name, found.value)
    return types.ExternalFunction(name, result(*arguments))


new_status = _function("TF_NewStatus", _SIZE)
delete_status = _function("TF_DeleteStatus", types.void, _SIZE)
get_code = _function("TF_GetCode", _NUMBER, _SIZE)
_set_status = _function("TF_SetStatus", types.void, _SIZE, _NUMBER, _SIZE)
_get_input = _function("TF_GetInput", types.void, _SIZE, _NUMBER, _SIZE, _SIZE)
_allocate_output = _function(
    "TF_AllocateOutput",
    _SIZE,
    *(_SIZE, _NUMBER, _NUMBER, _SIZE, _NUMBER, _SIZE, _SIZE),
)
_allocate_temporary = _function(
    "TF_AllocateTemp",
    _SIZE,
    *(_SIZE, _NUMBER, _SIZE, _NUMBER, _SIZE, _SIZE),
)
_failure = _function("TF_OpKernelContext_Failure", types.void, _SIZE, _SIZE)
_data_of = _function("TF_TensorData", _SIZE, _SIZE)
size = _function("TF_Dim", _LONG, _SIZE, _NUMBER)
_delete = _function("TF_DeleteTensor", types.void, _SIZE)


@compiled
def read(context: int, count: int, tensors: Array, status: int) -> None:
    """Fills the first `count` places of `tensors` with the inputs."""
    for i in range(count):
        _get_input(context, i, tensors.ctypes.data + 8 * i, status)


@compiled
def output(
    context: int, i: int, rank: int, rows: int, columns: int, status: int
) -> int:
    """Makes output `i`, of floats, with one axis or two."""
    dims = np.empty(2, np.int64)
    dims[0], dims[1] = rows, columns
    count = rows * columns if rank == 2 else rows
    return _allocate_output(
        context, i, FLOAT32, dims.ctypes.data, rank, 4 * count, status
    )


@compiled
def integers(context: int, i: int, kind: int, count: int, status: int) -> int:
    """Makes output `i`, of integers."""
    dims = np.empty(1, np.int64)
    dims[0] = count
    num_bytes = count * (2 if kind == UINT16 else 4)
    return _allocate_output(
        context, i, kind, dims.ctypes.data, 1, num_bytes, status
    )


@compiled
def memory(context: int, count: int, status: int) -> int:
    """Makes a tensor of floats for the time of the call."""
    # {size_t struct_size; TF_Bool on_host;}: 9 bytes of 16.
    where = np.empty(2, np.int64)
    where[0], where[1] = 9, 1
    dims = np.empty(1, np.int64)
    dims[0] = count
    return _allocate_temporary(
        context, FLOAT32, dims.ctypes.data, 1, where.ctypes.data, status
    )


@compiled
def mismatch(status: int) -> None:
    """Says that inputs do not belong together."""
    text = address_of("keras_freetickets_mismatch")
    _set_status(status, INVALID_ARGUMENT, text)


@compiled
def addresses(tensors: Array) -> Array:
    """Where the data of tensors is."""
    found = np.zeros(len(tensors), np.uint64)
    for i in range(len(tensors)):
        found[i] = _data_of(tensors[i])
    return found


@compiled
def close(context: int, tensors: Array, status: int) -> None:
    """Gives tensors and the status back; tells TensorFlow what went wrong."""
    for i in range(len(tensors)):
        if tensors[i] != 0:
            _delete(tensors[i])
    if get_code(status) != 0:
        _failure(context, status)
    delete_status(status)


def kernel(compute: typing.Callable) -> typing.Any:
    """A kernel of a function of the addresses of nothing and a context."""
    signature = numba.types.void(_SIZE, _SIZE)
    return callback(compute, signature)
