"""The product of a compressed layer, and its update, in TensorFlow's graphs.

They are operations of their own: a `tf.numpy_function` costs a step of a small
layer more than the layer.
"""

import functools
import threading
import typing

from keras_freetickets.accelerators import tensorflow_accelerators
from keras_freetickets.kernels import tensorflow_operations as operations
from keras_freetickets.kernels.structure import Positions
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
            from keras_freetickets.kernels import tensorflow_kernels as kernels

            kinds = ["float32", "int32", columns_type]
            operations.Registration(
                forward, [*kinds, "float32", "float32", "int32"], ["float32"]
            ).add(kernels.forward(columns_type))
            kinds += ["int32", "uint16", *["float32"] * 3, "int32"]
            operations.Registration(backward, kinds, ["float32"] * 3).add(
                kernels.backward(columns_type)
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
            from keras_freetickets.kernels import tensorflow_kernels as kernels

            inputs = ["float32", "int32", columns_type, "int32"]
            inputs += ["float32", "float32", "int32"]
            operations.Registration(name, inputs, kinds).add(
                kernels.drop_and_grow(columns_type)
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
