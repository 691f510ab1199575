"""Sparse networks of dense layers, several members as one network."""

import typing
from collections.abc import Sequence

import numpy as np

from keras_freetickets.kernels import operations
from keras_freetickets.kernels.structure import CompressedStructure
from keras_freetickets.types import Array


class CompressedLayer(typing.NamedTuple):
    """A compressed dense layer, for prediction.

    Attributes:
        values: float32 array of shape `(active,)`.
        structure: `CompressedStructure`.
        bias: float32 array of shape `(outputs,)`.
        relu: Whether negative outputs become 0.
    """

    values: np.ndarray
    structure: CompressedStructure
    bias: np.ndarray
    relu: bool


class CompressedNetwork:
    """Predicts with several sparse networks that get the same input.

    Their weights stand in one list, so that one example takes one call of a
    kernel, and a batch is packed once for all.

    Args:
        members: List of lists of `CompressedLayer`, one list for each member;
            each layer reads the one before it.

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
        layers = [layer for member in self.members for layer in member]
        counts = [np.diff(layer.structure.row_pointers) for layer in layers]
        wide = any(la.structure.num_inputs > 1 << 16 for la in layers)
        self._values = np.concatenate([layer.values for layer in layers])
        self._bias = np.concatenate([layer.bias for layer in layers])
        self._pointers = np.concatenate([[0], *counts]).cumsum()
        self._columns = np.concatenate(
            [layer.structure.column_indices for layer in layers]
        ).astype("int32" if wide else "uint16")
        self._table = self._layer_table()

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

    def _layer_table(self):
        rows, first = [], 0
        for member in self.members:
            source = -1
            for layer in member:
                end = first + layer.structure.num_outputs
                rows.append([source, first, end, layer.relu])
                source, first = first, end
        return np.array(rows, "int64")

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
            return self._one(x)
        packed = operations.pack(x)
        found = operations.empty(len(self.members), len(x), self.num_outputs)
        for member, y in zip(self.members, found, strict=True):
            activations = packed
            for values, structure, bias, relu in member:
                activations = operations.forward_packed(
                    structure, values, activations, bias, relu
                )
            operations.unpack_into(activations, y)
        return found

    def _one(self, x):
        from keras_freetickets.kernels import compiled

        units = np.empty(self._table[-1, 2], "float32")
        compiled.predict_network(
            self._values,
            self._pointers,
            self._columns,
            self._bias,
            self._table,
            x[0],
            units,
        )
        ends = np.cumsum([len(member) for member in self.members]) - 1
        last = self._table[ends]
        return np.stack([units[begin:end][None] for _, begin, end, _ in last])
