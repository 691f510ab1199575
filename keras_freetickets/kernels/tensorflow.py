"""The product of a compressed layer, and its update, in TensorFlow's graphs.

They are operations of their own: a `tf.numpy_function` costs a step of a small
layer more than the layer.
"""

import functools
import threading
import typing

import numpy as np

from keras_freetickets.accelerators import tensorflow_accelerators
from keras_freetickets.kernels import tensorflow_operations as operations
from keras_freetickets.kernels.structure import Positions
from keras_freetickets.kernels.tensorflow_operations import FLOAT32
from keras_freetickets.kernels.tensorflow_operations import INT32
from keras_freetickets.kernels.tensorflow_operations import UINT16
from keras_freetickets.kernels.threads import address
from keras_freetickets.optional import tensorflow as tf
from keras_freetickets.types import Tensor

_lock = threading.Lock()
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


def check_tensors(values: Tensor, x: Tensor, bias: Tensor) -> None:
    """Raises unless the kernels compute with tensors, on these devices.

    Args:
        values: Tensor.
        x: Tensor.
        bias: Tensor.

    Raises:
        ValueError: If one is not float32, or there is a GPU or TPU.
    """
    for name, tensor in (("values", values), ("x", x), ("bias", bias)):
        if tensor.dtype != "float32":
            raise ValueError(
                f"`{name}` must be float32: compressed layers compute in "
                "float32; for another dtype use storage='mask'. Received: "
                f"{name}.dtype={tensor.dtype}"
            )
    _check_devices()


def _product(positions, values, x, bias, relu, tap):
    check_tensors(values, x, bias)
    names = _register(tf.as_dtype(positions.column_indices.dtype).name)
    rectify = tf.constant(relu, tf.int32)

    @tf.custom_gradient
    def call(values, x, bias):
        tensors = [values, *positions[:2], bias, x, rectify]
        (y,) = operations.call(names[0], tensors, ["float32"])
        y.set_shape([x.shape[0], bias.shape[0]])

        def gradient(dy):
            if tap is not None:
                tap.note(x, tf.where(y == 0.0, 0.0, dy) if relu else dy)
            tensors = [values, *positions, x, dy, y, rectify]
            found = operations.call(names[1], tensors, ["float32"] * 3)
            for one, like in zip(found, (x, values, bias), strict=True):
                one.set_shape(like.shape)
            dx, dvalues, dbias = found
            return dvalues, dx, dbias

        return y, gradient

    # Read here: a custom gradient may not read variables.
    return call(*map(tf.convert_to_tensor, (values, x, bias)))


def _check_devices() -> None:
    found = tensorflow_accelerators()
    if found:
        raise ValueError(
            "Compressed layers run on processors: use storage='mask', or hide "
            "the accelerator from TensorFlow (CUDA_VISIBLE_DEVICES=''). "
            f"Received: devices={list(found)}"
        )


def _register(columns_type: str) -> tuple[str, str]:
    """Names of the operations for a type of column indices.

    They are registered when they are first asked for, with names that XLA's
    refusal shows.
    """
    forward, backward = (
        name_of(way, columns_type) for way in ("Forward", "Backward")
    )
    with _lock:
        if forward not in _registered:
            kinds = ["float32", "int32", columns_type]
            operations.Registration(
                forward, [*kinds, "float32", "float32", "int32"], ["float32"]
            ).add(_forward_kernel(columns_type))
            kinds += ["int32", "uint16", *["float32"] * 3, "int32"]
            operations.Registration(backward, kinds, ["float32"] * 3).add(
                _backward_kernel(columns_type)
            )
            # The custom gradient around them is theirs, in eager calls too.
            for name in (forward, backward):
                tf.no_gradient(name)
            _registered.add(forward)
    return forward, backward


def name_of(way: str, columns_type: str) -> str:
    """The name of an operation, which XLA's refusal shows."""
    end = columns_type.capitalize()
    return f"KftCompressed{way}NotForXlaUseStorageMask{end}"


def drop_and_grow(
    positions: Positions,
    values: Tensor,
    x: Tensor,
    dy: Tensor,
    settings: Tensor,
) -> tuple[Positions, Tensor, Tensor]:
    """An update of a compressed kernel's topology.

    Args:
        positions: As for `product`.
        values: float32 tensor of shape `(active,)`.
        x: float32 tensor of shape `(batch, inputs)`, the input of the product;
            of no rows if growth is random.
        dy: float32 tensor of shape `(batch, outputs)`, the gradient of its
            output.
        settings: `int32` tensor of `kernels.update_settings.UpdateSettings`.

    Returns:
        Tuple `(positions, source, report)`: the new positions; and two `int32`
        tensors as of `kernels.drop_and_grow.update`.
    """
    columns_type = tf.as_dtype(positions.column_indices.dtype).name
    name = name_of("DropAndGrow", columns_type)
    kinds = ["int32", columns_type, "int32", "uint16", "int32", "int32"]
    with _lock:
        if name not in _registered:
            inputs = ["float32", "int32", columns_type, "int32"]
            inputs += ["float32", "float32", "int32"]
            operations.Registration(name, inputs, kinds).add(
                _drop_and_grow_kernel(columns_type)
            )
            tf.no_gradient(name)
            _registered.add(name)
    tensors = [values, *positions[:3], x, dy, settings]
    *found, source, report = operations.call(name, tensors, kinds)
    for one, like in zip(found, positions, strict=True):
        one.set_shape(like.shape)
    source.set_shape(values.shape)
    report.set_shape((3,))
    return Positions(*found), source, report


def _forward_kernel(columns_type):
    from keras_freetickets.kernels import native

    call, threads = native.forward_at_addresses(columns_type), address()
    floats, flag = native.scratch_floats, native.flag_at
    use, calls = operations.helpers(), operations.calls()
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
            tensors[7] = memory(context, FLOAT32, n, status)
        if get_code(status) == 0:
            n = floats(batch, outputs)
            tensors[8] = memory(context, FLOAT32, n, status)
        if get_code(status) == 0:
            at = addresses(tensors)
            call(
                *(at[0], at[1], at[2], at[3], at[4], at[6], at[7], at[8]),
                flag(at[5]),
                *(active, outputs, batch, inputs, np.uint64(threads)),
            )
        close(context, tensors, status)
        delete_status(status)

    return operations.compiled(compute)


def _backward_kernel(columns_type):
    from keras_freetickets.kernels import native

    call, threads = native.backward_at_addresses(columns_type), address()
    floats, flag = native.scratch_floats, native.flag_at
    use, calls = operations.helpers(), operations.calls()
    read, output, memory = use.read, use.output, use.memory
    mismatch, addresses, close = use.mismatch, use.addresses, use.close
    get_code, size = calls["TF_GetCode"], calls["TF_Dim"]
    new_status, delete_status = calls["TF_NewStatus"], calls["TF_DeleteStatus"]

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
                n = floats(batch, features)
                tensors[12 + i] = memory(context, FLOAT32, n, status)
        if get_code(status) == 0:
            at = addresses(tensors)
            call(
                *(at[0], at[1], at[2], at[3], at[4], at[5], at[6], at[7]),
                *(at[9], at[10], at[11], at[12], at[13], at[14], flag(at[8])),
                *(active, outputs, batch, inputs, np.uint64(threads)),
            )
        close(context, tensors, status)
        delete_status(status)

    return operations.compiled(compute)


def _drop_and_grow_kernel(columns_type):
    from keras_freetickets.kernels import drop_and_grow

    call = drop_and_grow.update_at_addresses(columns_type)
    columns_kind = UINT16 if columns_type == "uint16" else INT32
    use, calls = operations.helpers(), operations.calls()
    read, integers = use.read, use.integers
    mismatch, addresses, close = use.mismatch, use.addresses, use.close
    get_code, size = calls["TF_GetCode"], calls["TF_Dim"]
    new_status, delete_status = calls["TF_NewStatus"], calls["TF_DeleteStatus"]

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
            call(
                *(at[0], at[1], at[2], at[4], at[5], at[6], at[7], at[8]),
                *(at[9], at[10], at[11], at[12], room, outputs, batch, inputs),
            )
        close(context, tensors, status)
        delete_status(status)

    return operations.compiled(compute)
