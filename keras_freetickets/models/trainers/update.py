"""What a step does to masks, kernels and slots, as arrays to arrays.

Nothing here knows a backend's control flow or variables: the trainers read
variables, call these functions and assign what comes back.
"""

import dataclasses
import typing

from keras import ops

from keras_freetickets.topology.drop_and_grow import Connections


@dataclasses.dataclass
class Inputs:
    """Arrays that decide an update, one entry for each masked kernel.

    Attributes:
        kernels: List of tensors.
        masks: List of boolean tensors.
        gradients: List of dense gradients.
        states: List of dicts of tensors.
        fraction: Float tensor, the share of connections to replace.
        step: `int32` tensor, optimizer updates so far.
        update: `int32` tensor, topology updates so far.
        seed: `int32` tensor.
        layers: List of integers, the kernels' places in the model; `None` if
            they are all.
        others: List of the gradients of all other variables, which must be
            finite too.
    """

    kernels: typing.Any
    masks: typing.Any
    gradients: typing.Any
    states: typing.Any
    fraction: typing.Any = 0.0
    step: typing.Any = 0
    update: typing.Any = 0
    seed: typing.Any = 0
    layers: typing.Any = None
    others: typing.Any = ()

    def connections(self):
        layers = self.layers or range(len(self.kernels))
        return [
            Connections(
                ops.cast(kernel, "float32"),
                mask,
                None if gradient is None else ops.cast(gradient, "float32"),
                state,
                self.step,
                self.update,
                self.seed,
                layer,
            )
            for kernel, mask, gradient, state, layer in zip(
                self.kernels, self.masks, self.gradients, self.states, layers
            )
        ]

    def part(self, places):
        """The inputs of some of the kernels."""
        names = ("kernels", "masks", "gradients", "states", "layers")
        parts = {n: [getattr(self, n)[i] for i in places] for n in names}
        return dataclasses.replace(self, **parts)


def all_finite(gradients):
    """A boolean tensor: no gradient holds NaN or infinity."""
    finite = [
        ops.all(ops.isfinite(gradient))
        for gradient in gradients
        if gradient is not None
    ]
    return ops.all(ops.stack(finite))


def new_masks(method, inputs):
    """The masks after an update, or the old ones if a gradient is not finite.

    Args:
        method: A `Method`.
        inputs: `Inputs`.

    Returns:
        Tuple `(masks, survivors, replaced, done)`: the new masks; where
        values and slots are kept; the share of connections that are new; and
        whether the update took place.
    """
    finite = all_finite([*inputs.gradients, *inputs.others])
    pairs = method.update(inputs.connections(), inputs.fraction)
    masks, survivors = [], []
    replaced = ops.cast(0, "int32")
    active = ops.cast(0, "int32")
    for (kept, grown), old in zip(pairs, inputs.masks):
        new = ops.logical_or(kept, grown)
        new = ops.where(finite, new, old)
        alive = new if method.regrown == "keep" else kept
        alive = ops.logical_and(alive, old)
        masks.append(new)
        survivors.append(ops.where(finite, alive, old))
        born = ops.logical_and(new, ops.logical_not(old))
        replaced = replaced + ops.sum(ops.cast(born, "int32"))
        active = active + ops.sum(ops.cast(new, "int32"))
    share = ops.cast(replaced, "float32") / ops.maximum(
        ops.cast(active, "float32"), 1.0
    )
    return masks, survivors, share, finite


def projected(value, alive, mask, fill, grown=None):
    """A kernel or slot that holds `fill` where no connection lives.

    Args:
        value: Tensor.
        alive: Boolean tensor, where `value` is kept.
        mask: Boolean tensor, the mask; contains `alive`.
        fill: Float, the value outside the mask.
        grown: Float, the value of new connections. `None` for `fill`.
    """
    filler = ops.cast(fill, value.dtype)
    if grown is None or grown == fill:
        return ops.where(alive, value, filler)
    born = ops.where(mask, ops.cast(grown, value.dtype), filler)
    return ops.where(alive, value, born)
