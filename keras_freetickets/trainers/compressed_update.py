"""What an update of the topology changes of one compressed kernel."""

import math

from keras import ops

from keras_freetickets.kernels import structure as structures
from keras_freetickets.layers.compressed import CompressedKernel
from keras_freetickets.topology.methods import Method
from keras_freetickets.trainers.backend import Backend
from keras_freetickets.trainers.kernel_update import Slots
from keras_freetickets.types import Tensor


class CompressedUpdate:
    """The variables of one compressed kernel that change in an update.

    Masks are chosen by the program of masked kernels, from the dense kernel,
    mask and gradient, so that they are the same. Those exist for one kernel at
    a time; values and slots then go to their new places.

    Attributes:
        variables: List of variables: values, positions and slots.
    """

    compressed = True

    def __init__(
        self,
        masked: CompressedKernel,
        slots: Slots,
        method: Method,
        backend: Backend,
    ) -> None:
        self.method, self.backend = method, backend
        self.shape = masked.shape
        layer = masked.layer
        self.inputs, self.outputs = layer.num_inputs, layer.units
        self.room = layer.active
        self.fills = [initial for _, initial in slots]
        self.variables = [
            masked.kernel,
            *layer.position_variables,
            *(slot for slot, _ in slots),
        ]
        self.dtypes = [v.dtype for v in layer.position_variables]

    def dense(self, values: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The dense kernel and mask, of values of `variables`."""
        weights, pointers, columns, *_ = values
        places = self._places(pointers, columns)
        kernel = self._spread(weights, places, 0.0)
        mask = self._spread(ops.ones((self.room,), "bool"), places, False)
        return self._as_kernel(kernel), self._as_kernel(mask)

    def moved(
        self, values: list[Tensor], mask: Tensor, alive: Tensor
    ) -> list[Tensor]:
        """The values after an update.

        Args:
            values: List of tensors, the values of `variables` before it.
            mask: Boolean tensor of the kernel's shape, the mask from now on.
            alive: Boolean tensor, where values are kept.
        """
        weights, pointers, columns, _, _, *slots = values
        mask, alive = (
            ops.reshape(one, (self.inputs, self.outputs))
            for one in (mask, alive)
        )
        # Where a weight was among the values, at its place in the kernel.
        order = ops.arange(self.room, dtype="int32")
        before = self._spread(order, self._places(pointers, columns), self.room)
        flags = ops.reshape(ops.transpose(mask), (-1,))
        places = self.backend.places(flags, self.room)
        within = places < self._size
        places = ops.where(within, places, 0)
        source = ops.take(before, places)
        lives = ops.take(ops.reshape(ops.transpose(alive), (-1,)), places)
        lives = ops.logical_and(lives, source < self.room)
        lives = ops.logical_and(lives, within)
        source = ops.where(lives, source, 0)

        def gathered(value: Tensor, fill: float, grown: float) -> Tensor:
            born = ops.where(
                within,
                ops.cast(grown, value.dtype),
                ops.cast(fill, value.dtype),
            )
            return ops.where(lives, ops.take(value, source), born)

        grown = float(self.method.grown_value)
        return [
            gathered(weights, 0.0, grown),
            *self._positions(mask, places, within),
            *(
                gathered(slot, fill, fill)
                for slot, fill in zip(slots, self.fills, strict=True)
            ),
        ]

    @property
    def _size(self) -> int:
        return math.prod(self.shape)

    def _places(self, pointers: Tensor, columns: Tensor) -> Tensor:
        """Where values are in the transposed kernel; its size for none."""
        order = ops.arange(self.room, dtype="int32")
        units = ops.searchsorted(pointers[1:], order, side="right")
        units = ops.cast(units, "int32")
        places = units * self.inputs + ops.cast(columns, "int32")
        return ops.where(units < self.outputs, places, self._size)

    def _spread(self, values: Tensor, places: Tensor, fill: float) -> Tensor:
        """Values at their places of the transposed kernel, flat."""
        whole = ops.full((self._size + 1,), fill, values.dtype)
        return ops.scatter_update(whole, places[:, None], values)[:-1]

    def _as_kernel(self, flat: Tensor) -> Tensor:
        matrix = ops.reshape(flat, (self.outputs, self.inputs))
        return ops.reshape(ops.transpose(matrix), self.shape)

    def _positions(
        self, mask: Tensor, places: Tensor, within: Tensor
    ) -> list[Tensor]:
        """The arrays of `kernels.structure.Positions` of a mask."""
        pointers = _ends(ops.sum(ops.cast(mask, "int32"), axis=0))
        columns = ops.where(within, places % self.inputs, 0)
        units = structures.block_units(self.room, self.outputs)
        blocks = structures.num_blocks(self.room, self.outputs)
        spare = blocks * units - self.outputs
        by_block = ops.pad(mask, [[0, 0], [0, spare]])
        by_block = ops.reshape(by_block, (self.inputs, blocks, units))
        by_block = ops.transpose(by_block, (1, 0, 2))
        by_input = _ends(
            ops.reshape(ops.sum(ops.cast(by_block, "int32"), axis=2), (-1,))
        )
        flags = ops.reshape(by_block, (-1,))
        inner = self.backend.places(flags, self.room) % units
        inner = ops.where(within, inner, 0)
        found = [pointers, columns, by_input, inner]
        return [
            ops.cast(array, dtype)
            for array, dtype in zip(found, self.dtypes, strict=True)
        ]


def _ends(counts: Tensor) -> Tensor:
    """0 and the sums of counts so far."""
    sums = ops.cast(ops.cumsum(counts), "int32")
    return ops.concatenate([ops.zeros((1,), "int32"), sums])
