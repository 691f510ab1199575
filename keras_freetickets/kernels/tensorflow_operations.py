"""Functions that numba compiled, as operations of TensorFlow's graphs.

TensorFlow's C interface registers an operation and its kernel at run time. A
call takes no Python and no GIL, and its memory is TensorFlow's.
"""

import ctypes
import functools
import os
import types
import typing
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from keras_freetickets.optional import import_optional
from keras_freetickets.optional import tensorflow as tf
from keras_freetickets.types import Tensor

# TF_FLOAT, TF_INT32, TF_UINT16, TF_INVALID_ARGUMENT of TensorFlow's
# C interface.
FLOAT32, INT32, UINT16, _INVALID_ARGUMENT = 1, 3, 17, 3
_kept: list[typing.Any] = []  # what TensorFlow holds addresses of


def call(
    name: str, tensors: Sequence[typing.Any], kinds: Sequence[str]
) -> list[Tensor]:
    """Calls a registered operation.

    Args:
        name: String.
        tensors: List of what it takes.
        kinds: List of the dtypes of what it returns.
    """
    tensors = [tf.convert_to_tensor(one) for one in tensors]
    if tf.executing_eagerly():
        specs = tuple((one.dtype, one.shape.rank) for one in tensors)
        return list(_in_a_graph(name, tuple(kinds), specs)(*tensors))
    graph = tf.compat.v1.get_default_graph()
    dtypes = [tf.as_dtype(kind) for kind in kinds]
    # XLA refuses it by its name.
    return graph.create_op(name, tensors, dtypes, name=name).outputs


@functools.cache
def _in_a_graph(
    name: str, kinds: tuple[str, ...], specs: tuple[tuple[typing.Any, int], ...]
) -> typing.Callable:
    """An operation for eager calls, which know no operation by its name.

    It is a concrete function: of what is only traced at a call,
    `tf.config.run_functions_eagerly` makes eager calls again.
    """

    def run(*tensors):
        return call(name, tensors, kinds)

    return tf.function(run, autograph=False).get_concrete_function(
        *[tf.TensorSpec([None] * rank, dtype) for dtype, rank in specs]
    )


@functools.cache
def _library() -> typing.Any:
    """TensorFlow's C interface, with the types of what is called."""
    folder = os.path.dirname(import_optional("tensorflow").__file__)
    library = ctypes.CDLL(os.path.join(folder, "libtensorflow_framework.so.2"))
    address, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    signatures: dict[str, list] = {
        "TF_NewStatus": [address],
        "TF_DeleteStatus": [None, address],
        "TF_GetCode": [number, address],
        "TF_Message": [text, address],
        "TF_NewOpDefinitionBuilder": [address, text],
        "TF_OpDefinitionBuilderAddInput": [None, address, text],
        "TF_OpDefinitionBuilderAddOutput": [None, address, text],
        "TF_OpDefinitionBuilderSetShapeInferenceFunction": [
            None,
            address,
            address,
        ],
        "TF_RegisterOpDefinition": [None, address, address],
        "TF_NewKernelBuilder": [address, text, text, *[address] * 3],
        "TF_RegisterKernelBuilder": [None, text, address, address],
    }
    for name, (result, *arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Registration:
    """An operation that TensorFlow gets to know.

    Args:
        name: String.
        inputs: List of the dtypes of its inputs.
        outputs: List of the dtypes of its outputs.
    """

    def __init__(
        self, name: str, inputs: Sequence[str], outputs: Sequence[str]
    ) -> None:
        self.name = name.encode()
        library = self.library = _library()
        builder = library.TF_NewOpDefinitionBuilder(self.name)
        for i, kind in enumerate(inputs):
            one = f"input_{i}: {_in_definitions(kind)}".encode()
            library.TF_OpDefinitionBuilderAddInput(builder, one)
        for i, kind in enumerate(outputs):
            one = f"output_{i}: {_in_definitions(kind)}".encode()
            library.TF_OpDefinitionBuilderAddOutput(builder, one)
        self._checked(library.TF_RegisterOpDefinition, builder)

    def add(self, kernel: typing.Any) -> None:
        """Registers its kernel for processors.

        Args:
            kernel: A function compiled by `numba.cfunc`.
        """
        _kept.append(kernel)
        builder = self.library.TF_NewKernelBuilder(
            self.name, b"CPU", None, kernel.address, None
        )
        self._checked(self.library.TF_RegisterKernelBuilder, self.name, builder)

    def _checked(self, function, *arguments):
        status = self.library.TF_NewStatus()
        function(*arguments, status)
        code = self.library.TF_GetCode(status)
        message = self.library.TF_Message(status).decode()
        self.library.TF_DeleteStatus(status)
        if code:
            raise RuntimeError(
                f"TensorFlow does not take the operation: {message} "
                f"Received: name={self.name.decode()!r}"
            )


def _in_definitions(kind: str) -> str:
    """A dtype as TensorFlow's definitions of operations name it."""
    return "float" if kind == "float32" else kind


@functools.cache
def calls() -> dict[str, typing.Any]:
    """Functions of TensorFlow that a kernel calls, as numba takes them."""
    size, number = ctypes.c_size_t, ctypes.c_int
    signatures: dict[str, list] = {
        "TF_NewStatus": [size],
        "TF_DeleteStatus": [None, size],
        "TF_GetCode": [number, size],
        "TF_SetStatus": [None, size, number, size],
        "TF_GetInput": [None, size, number, size, size],
        "TF_AllocateOutput": [
            size,
            size,
            *[number] * 2,
            size,
            number,
            *[size] * 2,
        ],
        "TF_AllocateTemp": [size, size, number, size, number, size, size],
        "TF_OpKernelContext_Failure": [None, size, size],
        "TF_TensorData": [size, size],
        "TF_Dim": [ctypes.c_int64, size, number],
        "TF_DeleteTensor": [None, size],
    }
    return {
        name: ctypes.CFUNCTYPE(*signature)((name, _library()))
        for name, signature in signatures.items()
    }


_MISMATCH = ctypes.create_string_buffer(
    b"The positions of a compressed layer are not those of its values, or its "
    b"input has the wrong number of features."
)


@functools.cache
def helpers() -> types.SimpleNamespace:
    """Compiled: what every kernel does with its context.

    Each takes the addresses of the context and of a status. What went wrong
    once stays in the status.
    """
    from keras_freetickets.kernels.vectors import numba

    functions = calls()
    get_input = functions["TF_GetInput"]
    allocate_output = functions["TF_AllocateOutput"]
    allocate_temporary = functions["TF_AllocateTemp"]
    failure, set_status = (
        functions["TF_OpKernelContext_Failure"],
        functions["TF_SetStatus"],
    )
    get_code = functions["TF_GetCode"]
    delete, data_of = functions["TF_DeleteTensor"], functions["TF_TensorData"]
    text = ctypes.addressof(_MISMATCH)
    njit = numba.njit(nogil=True, error_model="numpy")

    @njit
    def read(context, count, tensors, status):
        for i in range(count):
            get_input(context, i, tensors.ctypes.data + 8 * i, status)

    @njit
    def output(context, i, rank, rows, columns, status):
        dims = np.empty(2, np.int64)
        dims[0], dims[1] = rows, columns
        count = rows * columns if rank == 2 else rows
        return allocate_output(
            context, i, FLOAT32, dims.ctypes.data, rank, 4 * count, status
        )

    @njit
    def integers(context, i, kind, count, status):
        dims = np.empty(1, np.int64)
        dims[0] = count
        size = count * (2 if kind == UINT16 else 4)
        return allocate_output(
            context, i, kind, dims.ctypes.data, 1, size, status
        )

    @njit
    def memory(context, kind, count, status):
        # {size_t struct_size; TF_Bool on_host;}: 9 bytes of 16.
        where = np.empty(2, np.int64)
        where[0], where[1] = 9, 1
        dims = np.empty(1, np.int64)
        dims[0] = count
        return allocate_temporary(
            context, kind, dims.ctypes.data, 1, where.ctypes.data, status
        )

    @njit
    def mismatch(status):
        set_status(status, _INVALID_ARGUMENT, text)

    @njit
    def addresses(tensors):
        found = np.zeros(len(tensors), np.uint64)
        for i in range(len(tensors)):
            found[i] = data_of(tensors[i])
        return found

    @njit
    def close(context, tensors, status):
        for i in range(len(tensors)):
            if tensors[i] != 0:
                delete(tensors[i])
        if get_code(status) != 0:
            failure(context, status)

    return types.SimpleNamespace(
        read=read,
        output=output,
        integers=integers,
        memory=memory,
        mismatch=mismatch,
        addresses=addresses,
        close=close,
    )


def compiled(function: Callable) -> typing.Any:
    """The kernel of a function of the addresses of nothing and a context."""
    from keras_freetickets.kernels.vectors import numba

    address = numba.types.uintp
    signature = numba.types.void(address, address)
    return numba.cfunc(signature, nopython=True)(function)
