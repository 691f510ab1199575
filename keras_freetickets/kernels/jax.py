"""The kernels within JAX's programs, by XLA's typed interface for calls.

XLA hands a C structure with the addresses of all buffers to a function that
numba compiled. A call takes no Python and no GIL, and its memory is XLA's.
"""

import ctypes
import functools
import threading
import typing
from collections.abc import Sequence

import numpy as np

from keras_freetickets.kernels.structure import Positions
from keras_freetickets.optional import import_optional
from keras_freetickets.types import Tensor

_lock = threading.Lock()
_kept: list[typing.Any] = []  # what XLA holds addresses of
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
        positions: `Positions` of arrays, with pointers of 32 bits. They must
            be right: they are addresses to the kernels.
            `CompressedStructure.positions` is.
        values: float32 array of shape `(active,)`.
        x: float32 array of shape `(batch, inputs)`.
        bias: float32 array of shape `(outputs,)`.
        relu: Whether negative outputs become 0.
        tap: Object whose `sinks(x, shape)` returns a pair of arrays of the
            shapes of `x` and of the output. Their values are not read: their
            gradients will be `x` and the gradient of the product. `None` for
            nothing.

    Returns:
        float32 array of shape `(batch, outputs)`.

    Raises:
        ImportError: If numba is not installed.
        ValueError: If an array is not float32, a shape does not fit, or JAX
            runs on a GPU or TPU.
    """
    check_arrays(positions, values, x, bias, (x.shape[0], x.shape[-1]))
    shape = (x.shape[0], bias.shape[0])
    sinks = () if tap is None else tap.sinks(x, shape)
    return _product(bool(relu))(positions, values, x, bias, sinks)


def check_arrays(
    positions: Positions,
    values: Tensor,
    x: Tensor,
    bias: Tensor,
    shape: tuple[int, ...],
) -> None:
    """Raises unless the kernels compute with arrays, on this platform.

    Args:
        positions: `Positions` of arrays.
        values: Array.
        x: Array.
        bias: Array.
        shape: Tuple of integers, the shape of `x`.

    Raises:
        ValueError: If an array is not float32, a shape does not fit, or JAX
            runs on a GPU or TPU.
    """
    _check_platform()
    shapes = {
        "values": (values, (positions.column_indices.shape[0],)),
        "x": (x, shape),
        "bias": (bias, (positions.row_pointers.shape[0] - 1,)),
    }
    for name, (array, shape) in shapes.items():
        if array.dtype != "float32":
            raise ValueError(
                f"`{name}` must be float32: compressed layers compute in "
                "float32; for another dtype use storage='mask'. Received: "
                f"{name}.dtype={array.dtype}"
            )
        if tuple(array.shape) != shape:
            raise ValueError(
                f"`{name}` must have the shape {shape}. Received: "
                f"{name}.shape={tuple(array.shape)}"
            )


def _check_platform() -> None:
    platform = import_optional("jax").default_backend()
    if platform != "cpu":
        raise ValueError(
            "Compressed layers run on processors: use storage='mask', or "
            "JAX_PLATFORMS=cpu. Received: "
            f"jax.default_backend()={platform!r}"
        )


@functools.cache
def _product(relu):
    jax = import_optional("jax")

    @jax.custom_vjp
    def call(positions, values, x, bias, sinks):
        return forward(positions, values, x, bias, sinks)[0]

    def forward(positions, values, x, bias, sinks):
        batch, inputs = x.shape
        outputs = bias.shape[0]
        y, *_ = _call(
            "forward",
            positions.column_indices.dtype,
            [values, *positions[:2], bias, x],
            [(batch, outputs), *_memory(batch, inputs, outputs)],
            relu,
        )
        return y, (positions, values, x, y, sinks)

    def backward(kept, dy):
        positions, values, x, y, sinks = kept
        batch, inputs = x.shape
        outputs = y.shape[1]
        product = jax.numpy.where(y == 0, 0, dy) if relu else dy
        sinks = (x, product) if sinks else ()
        memory = _memory(batch, inputs, outputs)
        dx, dvalues, dbias, *_ = _call(
            "backward",
            positions.column_indices.dtype,
            [values, *positions, x, dy, y],
            [
                *[(batch, inputs), values.shape, (outputs,)],
                *[*memory, max(memory)],
            ],
            relu,
        )
        return nothing_like(positions), dvalues, dx, dbias, sinks

    call.defvjp(forward, backward)
    return call


def _memory(batch, inputs, outputs):
    """Shapes of packed batches, as `native.scratch_floats` counts them."""
    rows = batch * 9 // 8 + 16
    return (rows * inputs,), (rows * outputs,)


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
        values: float32 array of shape `(active,)`.
        x: float32 array of shape `(batch, inputs)`, the input of the product;
            of no rows if growth is random.
        dy: float32 array of shape `(batch, outputs)`, the gradient of its
            output.
        settings: `int32` array of `kernels.update_settings.UpdateSettings`.

    Returns:
        Tuple `(positions, source, report)`: the new positions; and two `int32`
        arrays as of `kernels.drop_and_grow.update`.
    """
    jax = import_optional("jax")
    likes = [*positions, jax.ShapeDtypeStruct(values.shape, np.int32)]
    likes.append(jax.ShapeDtypeStruct((3,), np.int32))
    *found, source, report = call_target(
        "drop_and_grow",
        positions.column_indices.dtype,
        [values, *positions[:2], x, dy, settings],
        [jax.ShapeDtypeStruct(one.shape, one.dtype) for one in likes],
    )
    return Positions(*found), source, report


def nothing_like(positions: Positions) -> Positions:
    """What positions have for a gradient, as integers."""
    float0 = import_optional("jax").dtypes.float0
    return Positions(*(np.zeros(p.shape, float0) for p in positions))


def _call(way, columns_type, operands, shapes, relu):
    jax = import_optional("jax")
    results = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    return call_target(way, columns_type, operands, results, relu)


def call_target(
    name: str,
    columns_type: typing.Any,
    operands: Sequence[Tensor],
    results: Sequence[typing.Any],
    relu: bool = False,
) -> Sequence[Tensor]:
    """Calls a compiled function, which XLA gets to know with the first call.

    Args:
        name: String, a function of `jax_targets`.
        columns_type: dtype of column indices, for each of which there is a
            target.
        operands: List of arrays.
        results: List of `jax.ShapeDtypeStruct`.
        relu: Whether negative outputs become 0, for those that have a choice.

    Returns:
        List of arrays.
    """
    jax = import_optional("jax")
    arguments = (str(columns_type), *([True] if relu else []))
    end = f"{columns_type}{'_relu' if relu else ''}"
    known = f"keras_freetickets_compressed_{name}_{end}"
    with _lock:
        if known not in _registered:
            from keras_freetickets.kernels import jax_targets

            target = getattr(jax_targets, name)(*arguments)
            _kept.append(target)
            address = ctypes.c_void_p(target.address)
            capsule = jax.ffi.pycapsule(ctypes.cast(address, _HANDLER))
            _kept.append(capsule)
            jax.ffi.register_ffi_target(known, capsule, platform="cpu")
            _registered.add(known)
    return jax.ffi.ffi_call(known, results)(*operands)


_HANDLER = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
