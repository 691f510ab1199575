"""What an update of the topology changes of one compressed kernel."""

import math
from collections.abc import Sequence

from keras import ops

from keras_freetickets.kernels import structure as structures
from keras_freetickets.kernels.structure import Positions
from keras_freetickets.kernels.update_settings import BORN
from keras_freetickets.kernels.update_settings import DROP
from keras_freetickets.kernels.update_settings import GROWTH
from keras_freetickets.kernels.update_settings import SPARE
from keras_freetickets.kernels.update_settings import UpdateSettings
from keras_freetickets.layers.compressed_kernels import CompressedKernel
from keras_freetickets.layers.compressed_kernels import bridge
from keras_freetickets.topology.kernel_view import ROUNDING
from keras_freetickets.topology.kernel_view import STAGES
from keras_freetickets.topology.kernel_view import parts_of
from keras_freetickets.topology.methods import Method
from keras_freetickets.topology.methods import method as methods
from keras_freetickets.topology.randomness import random_keys
from keras_freetickets.trainers.backend import Backend
from keras_freetickets.trainers.kernel_update import Slots
from keras_freetickets.types import Tensor


class CompressedUpdate:
    """The variables of one compressed kernel that change in an update.

    A method whose criteria have names drops and grows in one operation that
    makes no dense array (`dropped_and_grown`). For others masks are chosen by
    the program of masked kernels, from the dense kernel, mask and gradient
    (`dense`), which exist for one kernel at a time; values and slots then go
    to their new places (`moved`). Both choose what masked kernels would.

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
        source = ops.where(lives, source, ops.where(within, BORN, SPARE))
        positions = self._positions(mask, places, within)
        return self._taken(weights, source, positions, slots)

    def dropped_and_grown(
        self,
        values: list[Tensor],
        pairs: Sequence[tuple[Tensor, Tensor]],
        settings: Tensor,
    ) -> tuple[list[Tensor], Tensor]:
        """The values after an update by criteria that have names.

        Args:
            values: List of tensors, the values of `variables` before it.
            pairs: List of pairs of what products noted, as of
                `taps.dense_gradient`; none if growth is random.
            settings: Tensor, as `settings_of` returns it.

        Returns:
            Tuple of the values, and of an `int32` tensor: how many
            connections are new, how many there are, and whether all
            gradients are finite.
        """
        weights, *rest = values
        positions, slots = Positions(*rest[:4]), rest[4:]
        x = ops.zeros((0, self.inputs), "float32")
        dy = ops.zeros((0, self.outputs), "float32")
        if pairs:
            x, dy = (
                parts[0] if len(parts) == 1 else ops.concatenate(parts)
                for parts in zip(*pairs, strict=True)
            )
        update = bridge().drop_and_grow
        new, source, report = update(positions, weights, x, dy, settings)
        return self._taken(weights, source, new, slots), report

    def _taken(
        self,
        weights: Tensor,
        source: Tensor,
        positions: Sequence[Tensor],
        slots: Sequence[Tensor],
    ) -> list[Tensor]:
        """Values of `variables`: weights and slots from where they were."""
        lives, spare = source >= 0, ops.equal(source, SPARE)
        places = ops.maximum(source, 0)

        def taken(value: Tensor, grown: float, fill: float) -> Tensor:
            born = ops.where(
                spare,
                ops.cast(fill, value.dtype),
                ops.cast(grown, value.dtype),
            )
            return ops.where(lives, ops.take(value, places), born)

        return [
            taken(weights, float(self.method.grown_value), 0.0),
            *positions,
            *(
                taken(slot, fill, fill)
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


def settings_of(
    method: Method,
    names: tuple[str, str],
    fraction: Tensor,
    seed: Tensor,
    update: Tensor,
    kernel_index: int,
) -> Tensor:
    """`UpdateSettings` of an update by criteria, as an `int32` tensor.

    Args:
        method: A `Method`.
        names: What `named_criteria` says of it.
        fraction: Float tensor, the share to replace.
        seed: Integer tensor.
        update: Integer tensor, topology updates so far.
        kernel_index: Integer, the kernel's place in the model.
    """
    stages = (methods.DROP, methods.GROW)
    layers = [STAGES * kernel_index + stage for stage in stages]
    keys = ops.view(random_keys(seed, update, layers), dtype="int32")
    drop, growth = names
    settings = UpdateSettings(
        parts=parts_of(fraction),
        rounding=ROUNDING[method.rounding],
        drop_key=keys[0],
        growth_key=keys[1],
        drop=DROP[drop],
        growth=GROWTH[growth],
        keeps_regrown=int(method.regrown == "keep"),
    )
    return ops.stack([ops.cast(one, "int32") for one in settings])
