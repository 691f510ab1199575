"""Sparse networks of dense layers, several members as one network."""

import threading
import typing
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from keras_freetickets.kernels import blocks
from keras_freetickets.kernels import groups
from keras_freetickets.kernels import operations
from keras_freetickets.kernels import threads
from keras_freetickets.kernels.structure import CompressedStructure
from keras_freetickets.types import Array

# Changes an array of units in place; the axis is that of the units.
Activation: typing.TypeAlias = Callable[[np.ndarray, int], None]


class CompressedLayer(typing.NamedTuple):
    """A compressed dense layer, for prediction.

    Attributes:
        values: float32 array of shape `(active,)`.
        structure: `CompressedStructure`.
        bias: float32 array of shape `(outputs,)`.
        relu: Whether negative outputs become 0.
        activation: Function that changes an array of outputs in place, given
            the axis of the units, e.g. of another activation. `None`
            (default) for none.
    """

    values: np.ndarray
    structure: CompressedStructure
    bias: np.ndarray
    relu: bool
    activation: Activation | None = None


class CompressedNetwork:
    """Predicts with several sparse networks that get the same input.

    One example takes one call of a kernel for all members, and a batch is
    packed once for all. Weights are sorted as these kernels read them when
    the first example or batch comes, which takes as much memory again for
    each of the two. It may be called from several threads.

    Args:
        members: List of lists of `CompressedLayer`, one list for each member;
            each layer reads the one before it.

    Attributes:
        num_inputs: Integer, the inputs of each member.
        num_outputs: Integer, the outputs of each.
        active: Integer, the weights of all members.

    Raises:
        ValueError: If there is no layer, or one does not fit the one before.

    Example:

    ```python
    layer = CompressedLayer(values, structure, bias, relu=False)
    network = CompressedNetwork([[layer]])
    network.predict_members(x)  # (1, batch, outputs)
    ```
    """

    def __init__(self, members: Sequence[Sequence[CompressedLayer]]) -> None:
        self.members = [list(member) for member in members]
        if not self.members or not all(self.members):
            raise ValueError(
                "`members` must be lists of at least one layer. Received: "
                f"members of {[len(member) for member in self.members]} layers"
            )
        self.num_inputs = self.members[0][0].structure.num_inputs
        self.num_outputs = self.members[0][-1].structure.num_outputs
        self._check()
        self.active = sum(len(la.values) for ms in self.members for la in ms)
        self._lock = threading.Lock()
        self._program: _SingleExample | None = None
        self._blocks: list[list[blocks.Blocks]] | None = None

    def _check(self):
        for member in self.members:
            size = self.num_inputs
            for layer in member:
                if layer.structure.num_inputs != size:
                    raise ValueError(
                        "`members` must have layers that fit the one before, "
                        f"here of {size} units. Received: a layer of "
                        f"{layer.structure.num_inputs} inputs"
                    )
                size = layer.structure.num_outputs
            if size != self.num_outputs:
                raise ValueError(
                    f"`members` must all have {self.num_outputs} outputs, as "
                    f"the first. Received: a member of {size} outputs"
                )

    def predict_members(self, x: Array) -> np.ndarray:
        """Outputs of all members.

        Args:
            x: float32 array of shape `(batch, inputs)`.

        Returns:
            float32 array of shape `(members, batch, outputs)`.

        Raises:
            ImportError: If numba is not installed.
            ValueError: If the shape or dtype of `x` is wrong.
        """
        x = operations.checked_batch("x", x, self.num_inputs)
        if len(x) == 1:
            return self._single_example.predict(x[0])
        found = operations.empty(len(self.members), len(x), self.num_outputs)
        if len(x):
            self._predict_batch(x, found)
        return found

    @property
    def _single_example(self):
        with self._lock:
            if self._program is None:
                self._program = _SingleExample(self.members)
            return self._program

    @property
    def _layers(self):
        with self._lock:
            if self._blocks is None:
                self._blocks = [
                    [blocks.blocked(la.values, la.structure) for la in member]
                    for member in self.members
                ]
            return self._blocks

    def _predict_batch(self, x, found):
        layers, lanes = self._layers, _lanes_for(len(x))
        with operations.lent_memory() as memory:
            packed = operations.pack(x, lanes, memory.of("x"))
            tiles = packed.data.reshape(packed.tiles, -1)

            def run(begin: int, end: int) -> None:
                with operations.lent_memory() as own:
                    for task in range(begin, end):
                        tile, i = divmod(task, len(self.members))
                        first = tile * lanes
                        y = found[i, first : first + lanes]
                        member = self.members[i], layers[i]
                        _predict_tile(*member, tiles[tile], lanes, own, y)

            tasks = packed.tiles * len(self.members)
            threads.run_parts(run, tasks, self.active * len(x))


def _lanes_for(batch: int) -> int:
    """Examples of a tile, of those that pad a batch by an eighth or by 16."""
    for lanes in (64, 32):
        if -(-batch // lanes) * lanes <= batch * 9 // 8:
            return lanes
    return 16


def _predict_tile(member, layers, x, lanes, memory, y):
    """Outputs of a member for a tile of packed examples."""
    from keras_freetickets.kernels import prediction

    kernel = prediction.predict_blocks(lanes)
    for i, (layer, weights) in enumerate(zip(member, layers, strict=True)):
        units = memory.floats("yz"[i % 2], len(layer.bias) * lanes)
        kernel(*weights, layer.bias, layer.relu, x, units)
        if layer.activation is not None:
            layer.activation(units.reshape(-1, lanes), 0)
        x = units
    packed = operations.PackedBatch(x, len(y), y.shape[1], lanes)
    operations.unpack_into(packed, y)


class _SingleExample:
    """All layers of all members in the arrays of one call of a kernel.

    Layers stand in the order of their depth, so that the kernel computes those
    of all members up to one whose activation NumPy computes.

    Args:
        members: As for `CompressedNetwork`.
    """

    def __init__(self, members: list[list[CompressedLayer]]) -> None:
        from keras_freetickets.kernels import prediction
        from keras_freetickets.kernels import vectors

        depth = max(map(len, members))
        order = [
            (m, d)
            for d in range(depth)
            for m, member in enumerate(members)
            if d < len(member)
        ]
        layers = [members[m][d] for m, d in order]
        self._num_inputs = layers[0].structure.num_inputs
        self._num_outputs = members[0][-1].structure.num_outputs
        starts, biases = _starts(layers)
        self._units = np.concatenate(biases)
        place = {which: i for i, which in enumerate(order)}
        rows = [
            [
                starts[place[m, d - 1]] if d else 0,
                starts[i],
                starts[i] + len(biases[i + 1]),
                layers[i].relu,
            ]
            for i, (m, d) in enumerate(order)
        ]
        found = []
        if vectors.has_permutations():
            found = [groups.grouped(la.values, la.structure) for la in layers]
        self._kernel: Callable[..., None]
        if found and all(one.pays for one in found):
            self._kernel = prediction.predict_groups
            columns, self._arrays = _joined_groups(found)
        else:
            self._kernel = prediction.predict_rows
            columns, self._arrays = _joined_rows(layers)
        table = np.concatenate([np.array(rows, "int64"), columns], axis=1)
        self._steps = _steps(table, layers, [d for _, d in order])
        self._outputs = [
            slice(starts[i], starts[i] + len(members[m][-1].bias))
            for m, i in enumerate(
                place[m, len(member) - 1] for m, member in enumerate(members)
            )
        ]

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Outputs `(members, 1, outputs)` for an example `(inputs,)`."""
        shape = len(self._outputs), 1, self._num_outputs
        found = np.empty(shape, "float32")
        with operations.lent_memory() as memory:
            units = memory.floats("units", len(self._units))
            units[:] = self._units
            units[: self._num_inputs] = x
            for table, activations in self._steps:
                self._kernel(table, *self._arrays, units)
                for where, activation in activations:
                    activation(units[where], 0)
            for i, where in enumerate(self._outputs):
                found[i] = units[where]
        return found


def _starts(layers):
    """Where the units of layers begin, and all of the units at first.

    Those are the input's, then the biases of each layer; all filled up to
    whole blocks.
    """
    sizes = [layers[0].structure.num_inputs]
    sizes += [layer.structure.num_outputs for layer in layers]
    starts = np.cumsum([_padded(size) for size in sizes])[:-1].tolist()
    biases = [np.zeros(_padded(size), "float32") for size in sizes]
    for layer, bias in zip(layers, biases[1:], strict=True):
        bias[: len(layer.bias)] = layer.bias
    return starts, biases


def _padded(size: int) -> int:
    return -(-size // groups.BLOCK) * groups.BLOCK


def _steps(table, layers, depths):
    """Rows for one call of the kernel, and what NumPy computes after it."""
    steps, first = [], 0
    for i in range(len(layers)):
        if i + 1 < len(layers) and depths[i + 1] == depths[i]:
            continue
        after = [
            (
                slice(table[j, 1], table[j, 1] + len(layers[j].bias)),
                layers[j].activation,
            )
            for j in range(first, i + 1)
            if layers[j].activation is not None
        ]
        if after or i + 1 == len(layers):
            steps.append((table[first : i + 1], after))
            first = i + 1
    return steps


def _joined_rows(layers):
    """Columns of the table for `predict_rows`, and its arrays."""
    structures = [layer.structure for layer in layers]
    wide = any(s.num_inputs > 1 << 16 for s in structures)
    first_weight = np.cumsum([0, *(s.active for s in structures)])
    counts = [s.num_outputs for s in structures]
    first = np.cumsum([0, *(count + 1 for count in counts)])[:-1]
    pointers = [
        s.row_pointers.astype("int64") + begin
        for s, begin in zip(structures, first_weight[:-1], strict=True)
    ]
    arrays = (
        np.concatenate([np.asarray(la.values, "float32") for la in layers]),
        np.concatenate(pointers),
        np.concatenate([s.column_indices for s in structures]).astype(
            "int32" if wide else "uint16"
        ),
    )
    return np.stack([first, counts], axis=1), arrays


def _joined_groups(layers):
    """Columns of the table for `predict_groups`, and its arrays."""

    def firsts(sizes):
        return np.cumsum([0, *sizes])[:-1]

    entries = firsts(len(one.groups) for one in layers)
    blocks = [len(one.ends) // (groups.MOST_ROWS + 1) for one in layers]
    columns = [
        firsts(len(one.values) for one in layers),
        firsts(len(one.codes) for one in layers),
        firsts(len(one.counts) for one in layers),
        entries,
        firsts(blocks),
        np.array(blocks),
    ]
    values, codes, counts, ends, of_units, rows = zip(*layers, strict=True)
    # Each vector of codes in a cache line of its own.
    aligned = operations.empty(sum(map(len, codes))).view("uint32")
    later = [part + begin for part, begin in zip(ends, entries, strict=True)]
    arrays = [
        np.concatenate(values),
        np.concatenate(codes, out=aligned),
        *map(np.concatenate, (counts, later, of_units, rows)),
    ]
    return np.stack(columns, axis=1), arrays
