"""What an update of the topology changes of one kernel."""

from keras import ops

from keras_freetickets.layers.sparse import MaskedKernel
from keras_freetickets.topology.methods import Method
from keras_freetickets.topology.methods.method import overrides
from keras_freetickets.trainers import update as updates
from keras_freetickets.types import Tensor
from keras_freetickets.types import Variable

# A slot of an optimizer and the value that it starts with.
Slots = list[tuple[Variable, float]]


class KernelUpdate:
    """The variables of one kernel that change in an update.

    Attributes:
        variables: List of variables: kernel, mask, slots, what the method
            notes of an update and, where it is tracked, which connections
            were ever active.
    """

    def __init__(
        self, masked: MaskedKernel, slots: Slots, method: Method
    ) -> None:
        self.method = method
        self.fills = [initial for _, initial in slots]
        self.notes: list[str] = []
        if overrides(method, "after_update"):
            self.notes = list(method.connection_state)
        self.variables = [masked.kernel, masked.mask, *(s for s, _ in slots)]
        self.variables += [masked.state[name] for name in self.notes]
        if "ever_active" in masked.state:
            self.variables.append(masked.state["ever_active"])

    compressed = False

    def dense(self, values: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The kernel and the mask, of values of `variables`."""
        return values[0], values[1]

    def moved(
        self, values: list[Tensor], mask: Tensor, alive: Tensor
    ) -> list[Tensor]:
        """The values after an update.

        Args:
            values: List of tensors, the values of `variables` before it.
            mask: Boolean tensor, the mask from now on.
            alive: Boolean tensor, where values are kept.
        """
        kernel, _, *rest = values
        slots, rest = rest[: len(self.fills)], rest[len(self.fills) :]
        notes, ever_active = rest[: len(self.notes)], rest[len(self.notes) :]
        if notes:
            state = dict(zip(self.notes, notes, strict=True))
            state = self.method.after_update(state, mask)
            notes = [state[name] for name in self.notes]
        grown = self.method.grown_value
        return [
            updates.projected(kernel, alive, mask, 0.0, grown),
            mask,
            *(
                updates.projected(slot, alive, mask, fill)
                for slot, fill in zip(slots, self.fills, strict=True)
            ),
            *notes,
            *(ops.logical_or(ever, mask) for ever in ever_active),
        ]
