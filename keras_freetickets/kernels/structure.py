"""Where the active weights of a kernel are: rows of columns, never changed.

A kernel of Keras has the shape `(inputs, outputs)`. Compressed, its active
weights are one array `values`, output unit by output unit and within a unit by
rising input: compressed sparse rows (CSR) of the transposed kernel.
"""

import functools
import typing

import numpy as np

from keras_freetickets.arguments import is_integer
from keras_freetickets.types import Array

# Inputs are counted by 16 bits where these suffice.
_UINT16_INPUTS = 1 << 16


def block_units(active: int, num_outputs: int) -> int:
    """Output units that the backward pass walks through together.

    A cache line of the values and one of their gradients for each of 256 units
    fill 32 KB, a processor's first cache. Where units have few weights, lines
    last long, and fewer blocks of twice the size save passes over the inputs
    (measured: a tenth of the pass at 41 to 82 weights a unit, and a loss from
    100 on).

    Args:
        active: Integer, the number of active weights.
        num_outputs: Integer.
    """
    return 512 if active <= 88 * num_outputs else 256


def num_blocks(active: int, num_outputs: int) -> int:
    """Blocks of `block_units` that hold all output units."""
    units = block_units(active, num_outputs)
    return (num_outputs + units - 1) // units


class Positions(typing.NamedTuple):
    """What the kernels read of a structure, as arrays or a backend's tensors.

    Attributes:
        row_pointers: `int32` of shape `(outputs + 1,)`; `int64` from 2^31
            weights on.
        column_indices: `uint16` or `int32` of shape `(active,)`.
        input_pointers: As `CompressedStructure.by_input` has them.
        units: As `CompressedStructure.by_input` has them.
    """

    row_pointers: typing.Any
    column_indices: typing.Any
    input_pointers: typing.Any
    units: typing.Any


class CompressedStructure:
    """The positions of a kernel's active weights.

    Immutable: another topology is another structure.

    Args:
        row_pointers: Integer array of shape `(outputs + 1,)`. The weights of
            output unit `o` are `row_pointers[o]` to `row_pointers[o + 1]`
            (exclusive).
        column_indices: Integer array of shape `(active,)`, the input of each
            weight, rising within an output unit.
        num_inputs: Positive integer.

    Attributes:
        row_pointers: As given, `int32` if there are less than 2^31 weights,
            else `int64`.
        column_indices: As given, `uint16` if there are at most 65,536 inputs,
            else `int32`.
        num_inputs: Integer.
        num_outputs: Integer.
        active: Integer, the number of active weights.

    Raises:
        ValueError: If row pointers do not rise from 0 to the number of column
            indices, or column indices are out of range, unsorted or repeated
            within an output unit.

    Example:

    ```python
    # Kernel of 3 inputs and 2 outputs: unit 0 sees inputs 0 and 2, unit 1
    # sees none.
    structure = CompressedStructure([0, 2, 2], [0, 2], num_inputs=3)
    structure.active  # 2
    ```
    """

    def __init__(
        self, row_pointers: Array, column_indices: Array, num_inputs: int
    ) -> None:
        if not is_integer(num_inputs) or not 0 < num_inputs < 2**31:
            raise ValueError(
                "`num_inputs` must be a positive integer below 2^31. "
                f"Received: num_inputs={num_inputs!r}"
            )
        pointers = _integers("row_pointers", row_pointers)
        columns = _integers("column_indices", column_indices)
        _check_pointers(pointers, len(columns))
        _check_columns(pointers, columns, num_inputs)
        small = num_inputs <= _UINT16_INPUTS
        self.num_inputs = int(num_inputs)
        self.num_outputs = len(pointers) - 1
        self.active = len(columns)
        # Numba compiles again for arrays that are read-only.
        self._row_pointers = pointers.astype(_pointer_type(self.active))
        self._column_indices = columns.astype("uint16" if small else "int32")
        self.row_pointers = _read_only(self._row_pointers)
        self.column_indices = _read_only(self._column_indices)

    @classmethod
    def from_mask(cls, mask: Array) -> "CompressedStructure":
        """The structure of a kernel's mask.

        Args:
            mask: Boolean array of shape `(inputs, outputs)`.

        Returns:
            `CompressedStructure`.

        Raises:
            ValueError: If the mask is not a boolean matrix.
        """
        mask = np.asarray(mask)
        if mask.ndim != 2 or mask.dtype != bool:
            raise ValueError(
                "`mask` must be a boolean array of shape (inputs, outputs). "
                f"Received: mask of shape {mask.shape}, dtype {mask.dtype}"
            )
        counts = mask.sum(0, dtype="int64")
        pointers = np.concatenate([np.zeros(1, "int64"), np.cumsum(counts)])
        _, columns = np.nonzero(mask.T)
        return cls(pointers, columns, mask.shape[0])

    def has_positions_of(self, other: "CompressedStructure") -> bool:
        """Whether another structure has the same positions."""
        return np.array_equal(
            self.row_pointers, other.row_pointers
        ) and np.array_equal(self.column_indices, other.column_indices)

    def find(
        self, other: "CompressedStructure"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Finds the positions of another structure of the same shape.

        Args:
            other: `CompressedStructure`.

        Returns:
            Pair of arrays: a boolean one of shape `(other.active,)`, which of
            its positions are here too, and the places of those here.
        """
        mine, its = self._places(), other._places()
        found = np.searchsorted(mine, its)
        kept = np.append(mine, -1)[found] == its
        return kept, found[kept]

    def _places(self):
        """Places in a flat kernel of which outputs come first; ascending."""
        rows = np.asarray(self.row_indices, "int64")
        return rows * self.num_inputs + self.column_indices

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the kernel, `(inputs, outputs)`."""
        return self.num_inputs, self.num_outputs

    @property
    def nbytes(self) -> int:
        """Bytes of the positions, with those the backward pass adds."""
        arrays = [self.row_pointers, self.column_indices, *self.by_input]
        return sum(array.nbytes for array in arrays)

    @functools.cached_property
    def row_indices(self) -> np.ndarray:
        """The output unit of each weight, an `int64` array `(active,)`."""
        counts = np.diff(self.row_pointers)
        return np.repeat(np.arange(self.num_outputs), counts)

    @property
    def by_input(self) -> tuple[np.ndarray, np.ndarray]:
        """The same positions by input, within blocks of output units.

        Since columns rise within a unit, a walk by rising input meets the
        weights of each unit in the order of `values`. So a running place for
        each unit is all that leads from here to `values`.

        Returns:
            Tuple `(pointers, units)`. `pointers`, of shape `(blocks * inputs +
            1,)`, says which entries of `units` belong to input `i` in block
            `b` of output units: those from `pointers[b * inputs + i]`.
            `units`, `uint16` of shape `(active,)`, are places within a block.
        """
        pointers, units = self._by_input
        return _read_only(pointers), _read_only(units)

    @functools.cached_property
    def _by_input(self):
        return self._by_input_in_blocks_for(self.active)

    def _by_input_in_blocks_for(self, room):
        rows = np.repeat(
            np.arange(self.num_outputs, dtype="int32"),
            np.diff(self.row_pointers),
        )
        size = block_units(room, self.num_outputs)
        blocks = num_blocks(room, self.num_outputs)
        keys = (rows // size).astype("int64")
        keys *= self.num_inputs
        keys += self.column_indices
        order = np.argsort(keys, kind="stable")
        counts = np.bincount(keys, minlength=blocks * self.num_inputs)
        pointers = np.concatenate([np.zeros(1, "int64"), np.cumsum(counts)])
        return (
            pointers.astype(_pointer_type(self.active)),
            (rows % size)[order].astype("uint16"),
        )

    def positions_in(self, room: int) -> "Positions":
        """The arrays for a kernel that has room for more weights.

        A layer whose number of weights falls keeps the size of its variables.

        Args:
            room: Integer, at least `active`: the length of `values`.

        Returns:
            `Positions`; what is beyond the active weights is 0.

        Raises:
            ValueError: If there is room for fewer weights than there are.
        """
        if room < self.active:
            raise ValueError(
                f"`room` must be at least {self.active}, the active weights. "
                f"Received: room={room}"
            )
        pointers, units = self._by_input
        if room != self.active:
            pointers, units = self._by_input_in_blocks_for(room)
        spare = (0, room - self.active)
        return Positions(
            self._row_pointers,
            np.pad(self._column_indices, spare),
            pointers,
            np.pad(units, spare),
        )

    @property
    def positions(self) -> "Positions":
        """The arrays that a bridge hands to the kernels."""
        return Positions(
            self._row_pointers, self._column_indices, *self._by_input
        )

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, CompressedStructure)
            and self.shape == other.shape
            and np.array_equal(self.row_pointers, other.row_pointers)
            and np.array_equal(self.column_indices, other.column_indices)
        )

    def __hash__(self) -> int:
        return hash((self.shape, self.column_indices.tobytes()))

    @classmethod
    def from_positions(
        cls, positions: Positions, num_inputs: int
    ) -> "CompressedStructure":
        """The structure of arrays that a file or a layer holds, checked.

        Args:
            positions: `Positions` of arrays, as `positions_in` returns them.
            num_inputs: Positive integer.

        Returns:
            `CompressedStructure`.

        Raises:
            ValueError: If the arrays are no positions of a kernel, or those by
                input are not of the same weights.
        """
        pointers, columns, *by_input = map(np.asarray, positions)
        active = int(pointers[-1]) if pointers.size else 0
        if not 0 <= active <= len(columns):
            raise ValueError(
                "`row_pointers` must end within the column indices, of which "
                f"there are {len(columns)}. Received: row_pointers that end "
                f"with {active}"
            )
        structure = cls(pointers, columns[:active], num_inputs)
        expected = structure.positions_in(len(columns))
        if not all(map(np.array_equal, by_input, expected[2:])):
            raise ValueError(
                "`positions` by input must be of the same weights as those by "
                f"output. Received: positions of {active} active weights"
            )
        if columns[active:].any():
            raise ValueError(
                "`column_indices` must be 0 beyond the active weights. "
                f"Received: column_indices of {active} active weights that "
                "are not"
            )
        return structure

    def __repr__(self) -> str:
        return f"<CompressedStructure shape={self.shape}, active={self.active}>"


def compress(
    kernel: Array, mask: Array
) -> tuple[np.ndarray, CompressedStructure]:
    """The active weights of a masked kernel.

    Args:
        kernel: Float array of shape `(inputs, outputs)`.
        mask: Boolean array of the same shape.

    Returns:
        Tuple of `values`, of the kernel's dtype and shape `(active,)`, and
        their `CompressedStructure`.

    Raises:
        ValueError: If the shapes differ, the mask is not a boolean matrix or
            the kernel holds something outside it, which would be lost.

    Example:

    ```python
    kernel = np.array([[1.0, 0.0], [0.0, 0.0], [2.0, 3.0]], "float32")
    values, structure = compress(kernel, kernel != 0)
    values  # 1, 2, 3: output unit 0, then unit 1
    ```
    """
    kernel, mask = np.asarray(kernel), np.asarray(mask)
    if kernel.shape != mask.shape:
        raise ValueError(
            "`kernel` and `mask` must have the same shape. Received: "
            f"kernel.shape={kernel.shape}, mask.shape={mask.shape}"
        )
    structure = CompressedStructure.from_mask(mask)
    strays = int(np.count_nonzero(kernel[~mask]))
    if strays:
        raise ValueError(
            "`kernel` must be zero outside its mask. Received: kernel with "
            f"{strays} weights outside it"
        )
    return np.ascontiguousarray(kernel.T[mask.T]), structure


def decompress(values: Array, structure: CompressedStructure) -> np.ndarray:
    """The kernel that `compress` was given.

    Args:
        values: Array of shape `(active,)`.
        structure: `CompressedStructure`.

    Returns:
        Array of shape `(inputs, outputs)` and the values' dtype, zero
        elsewhere.

    Raises:
        ValueError: If there is not one value for each position.
    """
    values = np.asarray(values)
    check_values(values, structure)
    kernel = np.zeros(structure.shape, values.dtype)
    kernel[structure.column_indices, structure.row_indices] = values
    return kernel


def mask_of(structure: CompressedStructure) -> np.ndarray:
    """The boolean mask, of shape `(inputs, outputs)`, of a structure."""
    return decompress(np.ones(structure.active, bool), structure)


def check_values(values: Array, structure: CompressedStructure) -> None:
    """Raises unless there is one value for each active position.

    Raises:
        ValueError: If the shape is wrong.
    """
    if values.shape != (structure.active,):
        raise ValueError(
            f"`values` must have the shape ({structure.active},), one for "
            f"each active weight. Received: values.shape={values.shape}"
        )


def _integers(name: str, values: Array) -> np.ndarray:
    array = np.asarray(values)
    if array.size == 0 and array.ndim == 1:
        array = array.astype("int64")
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(
            f"`{name}` must be an integer array of one dimension. Received: "
            f"{name} of shape {array.shape}, dtype {array.dtype}"
        )
    return array.astype("int64")


def _pointer_type(active: int) -> str:
    return "int32" if active < 2**31 else "int64"


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


def _check_pointers(pointers: np.ndarray, active: int) -> None:
    whole = len(pointers) > 1 and pointers[0] == 0 and pointers[-1] == active
    if not whole or (np.diff(pointers) < 0).any():
        ends: typing.Any = pointers[[0, -1]].tolist() if len(pointers) else []
        raise ValueError(
            "`row_pointers` must rise from 0 to the number of column indices, "
            f"{active}, without falling. Received: row_pointers of length "
            f"{len(pointers)} with the ends {ends}"
        )


def _check_columns(
    pointers: np.ndarray, columns: np.ndarray, num_inputs: int
) -> None:
    if len(columns) == 0:
        return
    low, high = int(columns.min()), int(columns.max())
    if low < 0 or high >= num_inputs:
        raise ValueError(
            f"`column_indices` must be in [0, {num_inputs}), the inputs. "
            f"Received: column_indices from {low} to {high}"
        )
    falls = np.diff(columns) <= 0
    starts = pointers[1:-1]
    starts = starts[(starts > 0) & (starts < len(columns))]
    falls[starts - 1] = False  # from the last of a unit to the first of another
    if falls.any():
        place = int(np.argmax(falls))
        raise ValueError(
            "`column_indices` must rise within each output unit. Received: "
            f"column_indices[{place}]={columns[place]} before "
            f"column_indices[{place + 1}]={columns[place + 1]}"
        )
