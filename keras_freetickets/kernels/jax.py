"""The kernels within JAX's programs, by XLA's typed interface for calls.

XLA hands a C structure with the addresses of all buffers to a function that
numba compiled. A call takes no Python and no GIL, and its memory is XLA's.
"""

import ctypes
import functools
import threading
import typing
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from keras_freetickets.kernels.structure import Positions
from keras_freetickets.kernels.threads import address
from keras_freetickets.optional import import_optional
from keras_freetickets.types import Tensor

# Of XLA_FFI_CallFrame (xla/ffi/api/c_api.h, version 0.x), in words of 8 bytes.
# Each part begins with its size and its extensions.
_EXTENSION, _STAGE = 1, 4
_ARGUMENTS, _RESULTS = 9, 14  # void** args, void** rets
_EXECUTE = 3
# Of XLA_FFI_Buffer.
_DATA, _DIMENSIONS = 3, 5
# Of XLA_FFI_Metadata_Extension, XLA_FFI_Metadata and its version.
_METADATA, _API_VERSION = 3, 1

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
        _drop_and_grow_target,
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
    make = {"forward": _forward_target, "backward": _backward_target}[way]
    return call_target(
        f"{way}{'_relu' if relu else ''}",
        columns_type,
        functools.partial(make, relu),
        operands,
        results,
    )


def call_target(
    name: str,
    columns_type: typing.Any,
    make: Callable[[str], typing.Any],
    operands: Sequence[Tensor],
    results: Sequence[typing.Any],
) -> Sequence[Tensor]:
    """Calls a compiled function, which XLA gets to know with the first call.

    Args:
        name: String, what it does.
        columns_type: dtype of column indices, for each of which there is a
            function.
        make: Function of the name of that dtype, which compiles it.
        operands: List of arrays.
        results: List of `jax.ShapeDtypeStruct`.

    Returns:
        List of arrays.
    """
    jax = import_optional("jax")
    name = f"keras_freetickets_compressed_{name}_{columns_type}"
    with _lock:
        if name not in _registered:
            target = make(str(columns_type))
            _kept.append(target)
            address = ctypes.c_void_p(target.address)
            capsule = jax.ffi.pycapsule(ctypes.cast(address, _HANDLER))
            _kept.append(capsule)
            jax.ffi.register_ffi_target(name, capsule, platform="cpu")
            _registered.add(name)
    return jax.ffi.ffi_call(name, results)(*operands)


_HANDLER = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)


@functools.cache
def frame_helpers() -> tuple:
    """Compiled: what every target does with XLA's frame.

    Returns:
        Tuple `(is_execution, data, size, parts)`: whether a frame asks for an
        execution; the address of the `i`-th buffer's data; the size of one of
        its axes; and the arguments and results of a frame.
    """
    from keras_freetickets.kernels.vectors import numba
    from keras_freetickets.kernels.vectors import pointer

    njit = numba.njit(nogil=True, error_model="numpy")
    uint64, int32 = numba.uint64, numba.int32

    @njit
    def words(address, count):
        return numba.carray(pointer(address), count, uint64)

    @njit
    def is_execution(frame):
        """Answers what XLA asks before: which version this is for."""
        head = words(frame, 5)
        if head[_EXTENSION] != 0:
            extension = words(head[_EXTENSION], 4)
            kind = numba.carray(pointer(head[_EXTENSION] + 8), 1, int32)[0]
            if kind == 1:
                # struct_size; {struct_size, extension, major, minor}; traits
                data = extension[_METADATA]
                version = numba.carray(pointer(data + 24), 2, int32)
                version[0], version[1] = 0, 3
                return False
        stage = numba.carray(pointer(frame + 8 * _STAGE), 1, int32)[0]
        return stage == _EXECUTE

    @njit
    def data(buffers, i):
        return words(buffers[i], 6)[_DATA]

    @njit
    def size(buffers, i, axis):
        dimensions = words(words(buffers[i], 6)[_DIMENSIONS], axis + 1)
        return np.int64(dimensions[axis])

    @njit
    def parts(frame, arguments, results):
        head = words(frame, 20)
        found = words(head[_ARGUMENTS], arguments)
        return found, words(head[_RESULTS], results)

    return is_execution, data, size, parts


def cfunc(function: Callable) -> typing.Any:
    """A target: a function of a frame's address, compiled for XLA."""
    from keras_freetickets.kernels.vectors import numba

    address = numba.types.uintp
    return numba.cfunc(address(address), nopython=True)(function)


def _forward_target(relu, columns_type):
    from keras_freetickets.kernels import native

    call, threads = native.forward_at_addresses(columns_type), address()
    is_execution, data, size, parts = frame_helpers()

    def compute(frame):
        if is_execution(frame):
            # values, row_pointers, column_indices, bias, x; y, memory, memory
            a, r = parts(frame, 5, 3)
            call(
                *(data(a, 0), data(a, 1), data(a, 2), data(a, 3), data(a, 4)),
                *(data(r, 0), data(r, 1), data(r, 2), relu),
                *(size(a, 0, 0), size(a, 3, 0), size(a, 4, 0), size(a, 4, 1)),
                np.uint64(threads),
            )
        return np.uint64(0)  # no error

    return cfunc(compute)


def _backward_target(relu, columns_type):
    from keras_freetickets.kernels import native

    call, threads = native.backward_at_addresses(columns_type), address()
    is_execution, data, size, parts = frame_helpers()

    def compute(frame):
        if is_execution(frame):
            # values, positions (4), x, dy, y; dx, dvalues, dbias, memory (3)
            a, r = parts(frame, 8, 6)
            call(
                *(data(a, 0), data(a, 1), data(a, 2), data(a, 3), data(a, 4)),
                *(data(a, 5), data(a, 6), data(a, 7)),
                *(data(r, 0), data(r, 1), data(r, 2), data(r, 3), data(r, 4)),
                *(data(r, 5), relu),
                *(size(a, 0, 0), size(a, 6, 1), size(a, 5, 0), size(a, 5, 1)),
                np.uint64(threads),
            )
        return np.uint64(0)

    return cfunc(compute)


def _drop_and_grow_target(columns_type):
    from keras_freetickets.kernels import drop_and_grow

    call = drop_and_grow.update_at_addresses(columns_type)
    is_execution, data, size, parts = frame_helpers()

    def compute(frame):
        if is_execution(frame):
            # values, row_pointers, column_indices, x, dy, settings; positions
            # (4), source, report
            a, r = parts(frame, 6, 6)
            call(
                *(data(a, 0), data(a, 1), data(a, 2), data(a, 3), data(a, 4)),
                *(data(a, 5), data(r, 0), data(r, 1), data(r, 2), data(r, 3)),
                *(data(r, 4), data(r, 5)),
                *(size(a, 0, 0), size(a, 4, 1), size(a, 3, 0), size(a, 3, 1)),
            )
        return np.uint64(0)

    return cfunc(compute)
