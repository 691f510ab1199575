"""The kernels as operations of TensorFlow's graphs.

TensorFlow's C interface registers an operation and its kernel at run time;
here the kernel is a function that numba compiled. A call takes no Python and
no GIL, and its memory is TensorFlow's. A `tf.numpy_function` costs a step of
a small layer more than the layer.
"""

import ctypes
import functools
import os
import threading
import types
import typing

import numpy as np

from keras_freetickets.kernels.structure import Positions
from keras_freetickets.optional import import_optional
from keras_freetickets.optional import tensorflow as tf
from keras_freetickets.types import Tensor

# TF_FLOAT, TF_INT64, TF_INVALID_ARGUMENT of TensorFlow's C interface.
_FLOAT32, _INT64, _INVALID_ARGUMENT = 1, 9, 3
_lock = threading.Lock()
_kept: list[typing.Any] = []  # what TensorFlow holds addresses of
_registered: set[str] = set()


def product(
    positions: Positions,
    values: Tensor,
    x: Tensor,
    bias: Tensor,
    relu: bool = False,
    tap: typing.Any = None,
) -> Tensor:
    """Output of a compressed dense layer, differentiable once.

    Args:
        positions: `Positions` of tensors. They must be right: they are
            addresses to the kernels. `CompressedStructure.positions` is.
        values: float32 tensor of shape `(active,)`.
        x: float32 tensor of shape `(batch, inputs)`.
        bias: float32 tensor of shape `(outputs,)`.
        relu: Whether negative outputs become 0.
        tap: Object whose `note(x, dy)` is called with the input and the
            gradient of the product when the gradient is computed; `None` for
            nothing.

    Returns:
        float32 tensor of shape `(batch, outputs)`.

    Raises:
        ImportError: If numba or TensorFlow is not installed.
        ValueError: If a tensor is not float32, or there is a GPU or TPU.
    """
    return _unconverted()(positions, values, x, bias, relu, tap)


@functools.cache
def _unconverted() -> typing.Callable:
    """The product as it is: autograph would convert what numba compiles."""
    return tf.autograph.experimental.do_not_convert(_product)


def _product(positions, values, x, bias, relu, tap):
    for name, tensor in (("values", values), ("x", x), ("bias", bias)):
        if tensor.dtype != "float32":
            raise ValueError(
                f"`{name}` must be float32: compressed layers compute in "
                "float32; for another dtype use storage='mask'. Received: "
                f"{name}.dtype={tensor.dtype}"
            )
    _check_devices()
    names = _register(tf.as_dtype(positions.column_indices.dtype).name)
    rectify = tf.constant(relu, tf.int32)

    @tf.custom_gradient
    def call(values, x, bias):
        tensors = [values, *positions[:2], bias, x, rectify]
        (y,) = _operation(names[0], tensors, 1)
        y.set_shape([x.shape[0], bias.shape[0]])

        def gradient(dy):
            if tap is not None:
                tap.note(x, tf.where(y == 0.0, 0.0, dy) if relu else dy)
            tensors = [values, *positions, x, dy, y, rectify]
            found = _operation(names[1], tensors, 3)
            for one, like in zip(found, (x, values, bias), strict=True):
                one.set_shape(like.shape)
            dx, dvalues, dbias = found
            return dvalues, dx, dbias

        return y, gradient

    # Read here: a custom gradient may not read variables.
    return call(*map(tf.convert_to_tensor, (values, x, bias)))


@functools.cache
def _check_devices() -> None:
    found = [
        device.name
        for kind in ("GPU", "TPU")
        for device in tf.config.list_logical_devices(kind)
    ]
    if found:
        raise ValueError(
            "Compressed layers run on processors: use storage='mask', or hide "
            "the accelerator from TensorFlow (CUDA_VISIBLE_DEVICES=''). "
            f"Received: devices={found}"
        )


def _operation(name, tensors, count):
    tensors = [tf.convert_to_tensor(one) for one in tensors]
    if tf.executing_eagerly():
        return list(_in_a_graph(name, count)(*tensors))
    graph = tf.compat.v1.get_default_graph()
    # XLA refuses it by its name.
    found = graph.create_op(name, tensors, [tf.float32] * count, name=name)
    return found.outputs


@functools.cache
def _in_a_graph(name: str, count: int) -> typing.Callable:
    """An operation for eager calls, which know no operation by its name."""

    @tf.function(reduce_retracing=True, autograph=False)
    def call(*tensors):
        return _operation(name, tensors, count)

    return call


def _register(columns_type: str) -> tuple[str, str]:
    """Names of the operations for a type of column indices.

    They are registered when they are first asked for, with names that XLA's
    refusal shows.
    """
    end = columns_type.capitalize()
    forward, backward = (
        f"KftCompressed{way}NotForXlaUseStorageMask{end}"
        for way in ("Forward", "Backward")
    )
    with _lock:
        if forward not in _registered:
            kinds = ["float", "int32", columns_type]
            _Registration(forward, [*kinds, "float", "float", "int32"], 1).add(
                _forward_kernel(columns_type)
            )
            kinds += ["int32", "uint16", "float", "float", "float", "int32"]
            _Registration(backward, kinds, 3).add(
                _backward_kernel(columns_type)
            )
            # The custom gradient around them is theirs, in eager calls too.
            for name in (forward, backward):
                tf.no_gradient(name)
            _registered.add(forward)
    return forward, backward


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


class _Registration:
    """An operation that TensorFlow gets to know.

    Args:
        name: String.
        inputs: List of the types of its inputs.
        outputs: Integer, the number of its outputs, float32.
    """

    def __init__(self, name: str, inputs: list[str], outputs: int) -> None:
        self.name = name.encode()
        library = self.library = _library()
        builder = library.TF_NewOpDefinitionBuilder(self.name)
        for i, kind in enumerate(inputs):
            one = f"input_{i}: {kind}".encode()
            library.TF_OpDefinitionBuilderAddInput(builder, one)
        for i in range(outputs):
            one = f"output_{i}: float".encode()
            library.TF_OpDefinitionBuilderAddOutput(builder, one)
        self.checked(library.TF_RegisterOpDefinition, builder)

    def add(self, kernel: typing.Any) -> None:
        """Registers its kernel for processors.

        Args:
            kernel: A function compiled by `numba.cfunc`.
        """
        _kept.append(kernel)
        builder = self.library.TF_NewKernelBuilder(
            self.name, b"CPU", None, kernel.address, None
        )
        self.checked(self.library.TF_RegisterKernelBuilder, self.name, builder)

    def checked(self, function, *arguments):
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


@functools.cache
def _calls() -> dict[str, typing.Any]:
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
def _helpers() -> types.SimpleNamespace:
    """Compiled: what every kernel does with its context.

    Each takes the addresses of the context and of a status. What went wrong
    once stays in the status.
    """
    from keras_freetickets.kernels.vectors import numba

    calls = _calls()
    get_input = calls["TF_GetInput"]
    allocate_output = calls["TF_AllocateOutput"]
    allocate_temporary = calls["TF_AllocateTemp"]
    failure, set_status = (
        calls["TF_OpKernelContext_Failure"],
        calls["TF_SetStatus"],
    )
    get_code = calls["TF_GetCode"]
    delete, data_of = calls["TF_DeleteTensor"], calls["TF_TensorData"]
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
            context, i, _FLOAT32, dims.ctypes.data, rank, 4 * count, status
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
        memory=memory,
        mismatch=mismatch,
        addresses=addresses,
        close=close,
    )


def _cfunc(function):
    from keras_freetickets.kernels.vectors import numba

    address = numba.types.uintp
    signature = numba.types.void(address, address)
    return numba.cfunc(signature, nopython=True)(function)


def _forward_kernel(columns_type):
    from keras_freetickets.kernels import native

    call = native.forward_at_addresses(columns_type)
    floats, flag = native.scratch_floats, native.flag_at
    use, calls = _helpers(), _calls()
    read, output, memory = use.read, use.output, use.memory
    mismatch, addresses, close = use.mismatch, use.addresses, use.close
    get_code, size = calls["TF_GetCode"], calls["TF_Dim"]
    new_status, delete_status = calls["TF_NewStatus"], calls["TF_DeleteStatus"]

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
            n = floats(batch, inputs)
            tensors[7] = memory(context, _FLOAT32, n, status)
        if get_code(status) == 0:
            n = floats(batch, outputs)
            tensors[8] = memory(context, _FLOAT32, n, status)
        if get_code(status) == 0:
            at = addresses(tensors)
            call(
                *(at[0], at[1], at[2], at[3], at[4], at[6], at[7], at[8]),
                flag(at[5]),
                *(active, outputs, batch, inputs),
            )
        close(context, tensors, status)
        delete_status(status)

    return _cfunc(compute)


def _backward_kernel(columns_type):
    from keras_freetickets.kernels import native

    call = native.backward_at_addresses(columns_type)
    floats, flag = native.scratch_floats, native.flag_at
    use, calls = _helpers(), _calls()
    read, output, memory = use.read, use.output, use.memory
    mismatch, addresses, close = use.mismatch, use.addresses, use.close
    get_code, size = calls["TF_GetCode"], calls["TF_Dim"]
    new_status, delete_status = calls["TF_NewStatus"], calls["TF_DeleteStatus"]

    def compute(_, context):
        # values, row_pointers, column_indices, input_pointers, units, x, dy,
        # y, relu; dx, dvalues, dbias, memory
        status = new_status()
        tensors = np.zeros(16, np.uint64)
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
                n = floats(batch, features)
                tensors[12 + i] = memory(context, _FLOAT32, n, status)
        if get_code(status) == 0:
            tensors[15] = memory(context, _INT64, outputs, status)
        if get_code(status) == 0:
            at = addresses(tensors)
            call(
                *(at[0], at[1], at[2], at[3], at[4], at[5], at[6], at[7]),
                *(at[9], at[10], at[11], at[12], at[13], at[14], at[15]),
                flag(at[8]),
                *(active, outputs, batch, inputs),
            )
        close(context, tensors, status)
        delete_status(status)

    return _cfunc(compute)
