"""The compiled kernels on NumPy arrays, as layers and predictors call them.

Numba is imported with the first call.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable
from collections.abc import Iterator

import numpy as np

from keras_freetickets.kernels import threads
from keras_freetickets.kernels.structure import CompressedStructure
from keras_freetickets.kernels.structure import check_values
from keras_freetickets.types import Array

_LINE = 64  # bytes of a cache line: vectors that cross two take twice as long


def empty(*shape: int) -> np.ndarray:
    """A float32 array that begins with a cache line.

    Args:
        *shape: Integers.
    """
    size = 4 * math.prod(shape)
    memory = np.empty(size + _LINE, "uint8")
    start = -memory.ctypes.data % _LINE
    return memory[start : start + size].view("float32").reshape(shape)


class _Memory:
    """Arrays that calls take one after the other."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}

    def floats(self, name: str, size: int) -> np.ndarray:
        array = self.arrays.get(name)
        if array is None or array.size < size:
            array = self.arrays[name] = empty(size)
        return array[:size]

    def packed(self, name: str, batch: np.ndarray) -> np.ndarray:
        """As many as a packed batch may take, whatever its lanes."""
        from keras_freetickets.kernels import native

        return self.floats(name, native.scratch_floats(*batch.shape))

    def of(self, name: str) -> Callable[[int], np.ndarray]:
        return functools.partial(self.floats, name)


# Taken for the time of a call, so that there are as many as calls that ran at
# the same time, however many threads a backend has.
_memories: list[_Memory] = []


@contextlib.contextmanager
def lent_memory() -> Iterator[_Memory]:
    """Arrays for the time of a call, which later calls take again."""
    try:
        memory = _memories.pop()
    except IndexError:
        memory = _Memory()
    try:
        yield memory
    finally:
        _memories.append(memory)


def checked_batch(name: str, array: Array, columns: int) -> np.ndarray:
    """A batch as the kernels take it, or an error that names it."""
    array = np.asarray(array)
    if array.dtype != np.float32:
        raise ValueError(
            f"`{name}` must be float32, which the kernels compute in. "
            f"Received: {name}.dtype={array.dtype}"
        )
    if array.ndim != 2 or array.shape[1] != columns:
        raise ValueError(
            f"`{name}` must have the shape (batch, {columns}). Received: "
            f"{name}.shape={array.shape}"
        )
    return np.ascontiguousarray(array)


def _stored(values: Array, structure: CompressedStructure) -> np.ndarray:
    """Values as the kernels take them: 16-bit floats as their bits."""
    values = np.ascontiguousarray(values)
    check_values(values, structure)
    kinds = {"float32": None, "float16": "int16", "bfloat16": "uint16"}
    if values.dtype.name not in kinds:
        raise ValueError(
            "`values` must be float32, float16 or bfloat16. Received: "
            f"values.dtype={values.dtype}"
        )
    bits = kinds[values.dtype.name]
    return values if bits is None else values.view(bits)


def _bias(bias: Array | None, structure: CompressedStructure) -> np.ndarray:
    if bias is None:
        return np.zeros(structure.num_outputs, "float32")
    bias = np.ascontiguousarray(bias)
    if bias.shape != (structure.num_outputs,) or bias.dtype != np.float32:
        raise ValueError(
            f"`bias` must be float32 of shape ({structure.num_outputs},). "
            f"Received: bias of shape {bias.shape}, dtype {bias.dtype}"
        )
    return bias


@dataclasses.dataclass(frozen=True)
class PackedBatch:
    """A batch as the kernels take it.

    Attributes:
        data: Flat float32 array of `(tiles, features, lanes)`.
        batch: Integer, the number of examples.
        features: Integer.
        lanes: Integer, the examples of a tile; the last is filled up with
            zeros.
    """

    data: np.ndarray
    batch: int
    features: int
    lanes: int

    @property
    def tiles(self) -> int:
        return -(-self.batch // self.lanes)


def pack(
    x: Array, lanes: int | None = None, memory: Callable = empty
) -> PackedBatch:
    """Packs a batch into tiles with the examples innermost.

    Args:
        x: float32 array of shape `(batch, features)`.
        lanes: Integer, the examples of a tile. `None` for what suits.
        memory: Callable that takes a size and returns a flat float32 array;
            by default a new one.

    Returns:
        `PackedBatch`.

    Raises:
        ValueError: If `x` is not a float32 matrix.
    """
    from keras_freetickets.kernels import compiled

    x = np.asarray(x)
    x = checked_batch("x", x, x.shape[-1] if x.ndim else 0)
    batch, features = x.shape
    lanes = compiled.lanes_for(batch) if lanes is None else lanes
    size = -(-batch // lanes) * lanes * features
    data = memory(size)
    compiled.pack(x.reshape(-1), batch, features, lanes, data)
    return PackedBatch(data, batch, features, lanes)


def unpack(packed: PackedBatch) -> np.ndarray:
    """The batch, of shape `(batch, features)`, that `pack` was given."""
    x = empty(packed.batch, packed.features)
    unpack_into(packed, x)
    return x


def unpack_into(packed: PackedBatch, x: np.ndarray) -> None:
    """Writes a packed batch to an array of shape `(batch, features)`."""
    from keras_freetickets.kernels import compiled

    compiled.unpack(
        packed.data,
        packed.batch,
        packed.features,
        packed.lanes,
        x.reshape(-1),
        0,
        packed.features,
    )


def forward_packed(
    structure: CompressedStructure,
    values: Array,
    x: PackedBatch,
    bias: Array | None = None,
    relu: bool = False,
    memory: Callable = empty,
) -> PackedBatch:
    """`forward` from a packed batch to one, for several layers in a row.

    Args:
        structure: `CompressedStructure`.
        values: Array of shape `(active,)`, float32, float16 or bfloat16.
        x: `PackedBatch` of `inputs` features.
        bias: float32 array of shape `(outputs,)`; `None` for zeros.
        relu: Whether negative outputs become 0.
        memory: As for `pack`.

    Returns:
        `PackedBatch` of `outputs` features.

    Raises:
        ValueError: If a shape or dtype is wrong.
    """
    from keras_freetickets.kernels import compiled

    if x.features != structure.num_inputs:
        raise ValueError(
            f"`x` must have {structure.num_inputs} features. Received: "
            f"x.features={x.features}"
        )
    values, bias = _stored(values, structure), _bias(bias, structure)
    size = x.tiles * x.lanes * structure.num_outputs
    y = memory(size)
    kernel = compiled.forward(x.lanes)

    def run(begin: int, end: int) -> None:
        kernel(
            values,
            *structure.positions[:2],
            bias,
            x.data,
            y,
            x.tiles,
            structure.num_inputs,
            relu,
            begin,
            end,
        )

    threads.run_parts(run, structure.num_outputs, structure.active * x.batch)
    return PackedBatch(y, x.batch, structure.num_outputs, x.lanes)


def forward(
    structure: CompressedStructure,
    values: Array,
    x: Array,
    bias: Array | None = None,
    relu: bool = False,
) -> np.ndarray:
    """Output of a dense layer of which only the active weights exist.

    Args:
        structure: `CompressedStructure`.
        values: Array of shape `(active,)`, float32, float16 or bfloat16; sums
            are float32.
        x: float32 array of shape `(batch, inputs)`.
        bias: float32 array of shape `(outputs,)`; `None` for zeros.
        relu: Whether negative outputs become 0.

    Returns:
        float32 array of shape `(batch, outputs)`.

    Raises:
        ImportError: If numba is not installed.
        ValueError: If a shape or dtype is wrong.

    Example:

    ```python
    values, structure = compress(kernel, mask)
    y = forward(structure, values, x)  # x @ kernel
    ```
    """
    from keras_freetickets.kernels import native

    x = checked_batch("x", x, structure.num_inputs)
    y = empty(len(x), structure.num_outputs)
    with lent_memory() as memory:
        native.forward(
            _stored(values, structure),
            *structure.positions[:2],
            _bias(bias, structure),
            x.reshape(-1),
            y.reshape(-1),
            len(x),
            structure.num_inputs,
            bool(relu),
            memory.packed("x", x),
            memory.packed("y", y),
            np.uint64(threads.address()),
        )
    return y


def backward(
    structure: CompressedStructure,
    values: Array,
    x: Array,
    dy: Array,
    y: Array | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of `forward`, in one pass over the active weights.

    Args:
        structure: `CompressedStructure`.
        values: float32 array of shape `(active,)`.
        x: float32 array of shape `(batch, inputs)`.
        dy: float32 array of shape `(batch, outputs)`, the gradient of the
            output.
        y: What `forward` returned with `relu=True`; `None` without.

    Returns:
        Tuple of the gradients of `x`, `values` and the bias.

    Raises:
        ImportError: If numba is not installed.
        ValueError: If a shape or dtype is wrong.
    """
    from keras_freetickets.kernels import native

    values = np.ascontiguousarray(values)
    check_values(values, structure)
    if values.dtype != np.float32:
        raise ValueError(
            "`values` must be float32 to be trained. Received: "
            f"values.dtype={values.dtype}"
        )
    x = checked_batch("x", x, structure.num_inputs)
    dy = checked_batch("dy", dy, structure.num_outputs)
    if len(x) != len(dy):
        raise ValueError(
            "`x` and `dy` must have as many rows. Received: "
            f"x.shape={x.shape}, dy.shape={dy.shape}"
        )
    if y is not None:
        y = checked_batch("y", y, structure.num_outputs)
    dx, dbias = empty(*x.shape), empty(structure.num_outputs)
    dvalues = empty(structure.active)
    with lent_memory() as memory:
        native.backward(
            values,
            *structure.positions,
            x.reshape(-1),
            dy.reshape(-1),
            (dy if y is None else y).reshape(-1),
            dx.reshape(-1),
            dvalues,
            dbias,
            len(x),
            structure.num_inputs,
            y is not None,
            memory.packed("x", x),
            memory.packed("y", dy),
            memory.packed("dx", max(x, dy, key=np.size)),
            np.uint64(threads.address()),
        )
    return dx, dvalues, dbias
