"""What a step does to masks, kernels and slots, as arrays to arrays.

Nothing here knows a backend's control flow or variables: the trainers read
variables, call these functions and assign what comes back.
"""

import dataclasses
import functools
import math
import numbers
import typing
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_freetickets.topology.kernel_view import KernelView
from keras_freetickets.topology.methods import Method
from keras_freetickets.topology.methods import is_kernelwise
from keras_freetickets.topology.methods.method import program_traits
from keras_freetickets.types import Tensor


@dataclasses.dataclass
class KernelBatch:
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
        kernel_indices: List of integers, the kernels' places in the model;
            `None` if they are all. Or a list with one `int32` tensor.
        others: List of the gradients of all other variables, which must be
            finite too.
    """

    kernels: list[Tensor]
    masks: list[Tensor]
    gradients: Sequence[Tensor | None]
    states: list[dict[str, Tensor]]
    fraction: Tensor = 0.0
    step: Tensor = 0
    update: Tensor = 0
    seed: Tensor = 0
    kernel_indices: Sequence[Tensor] | None = None
    others: Sequence[Tensor] = ()

    def views(self) -> list[KernelView]:
        """What a method looks at, one for each kernel."""
        kernel_indices = self.kernel_indices or range(len(self.kernels))
        return [
            KernelView(
                ops.cast(kernel, "float32"),
                mask,
                None if gradient is None else ops.cast(gradient, "float32"),
                state,
                self.step,
                self.update,
                self.seed,
                index,
            )
            for kernel, mask, gradient, state, index in zip(
                self.kernels,
                self.masks,
                self.gradients,
                self.states,
                kernel_indices,
                strict=True,
            )
        ]

    def part(self, places: Sequence[int]) -> "KernelBatch":
        """The arrays of some of the kernels."""
        kernel_indices = self.kernel_indices or range(len(self.kernels))
        names = ("kernels", "masks", "gradients", "states")
        parts = {n: [getattr(self, n)[i] for i in places] for n in names}
        kernel_indices = [kernel_indices[i] for i in places]
        return dataclasses.replace(self, **parts, kernel_indices=kernel_indices)


def all_finite(gradients: Iterable[Tensor | None]) -> Tensor:
    """A boolean tensor: no gradient holds NaN or infinity."""
    finite = [
        ops.all(ops.isfinite(gradient))
        for gradient in _stacked_by_shape(gradients)
    ]
    return ops.all(ops.stack(finite))


def all_finite_in_turn(
    others: Sequence[Tensor],
    flags: Sequence[Tensor],
    dense: Sequence[Callable[[typing.Any], Tensor]],
) -> Tensor:
    """A boolean tensor: no gradient holds NaN or infinity.

    Args:
        others: List of tensors.
        flags: List of boolean tensors: whether gradients elsewhere are finite.
        dense: List of functions that make dense gradients, one at a time.
    """
    finite = all_finite(others) if others else ops.cast(True, "bool")
    for flag in flags:
        finite = ops.logical_and(finite, flag)
    for make in dense:
        here = ops.all(ops.isfinite(make(finite)))
        finite = ops.logical_and(finite, here)
    return finite


def indices_of(places: list[int], in_turn: bool) -> list[typing.Any]:
    """Kernel indices of a turn, a tensor if it is of one kernel.

    Args:
        places: List of integers.
        in_turn: Boolean, whether there are other turns.
    """
    if not in_turn or len(places) > 1:
        return places
    return [ops.convert_to_tensor(np.int32(places[0]))]


def turns(method: Method, compressed: Sequence[bool]) -> list[list[int]]:
    """Which kernels are updated together: lists of their numbers.

    Compressed kernels are dense while they are updated, so that each has a
    turn of its own unless the method looks at several at once.

    Args:
        method: A `Method`.
        compressed: List of booleans, one for each kernel.
    """
    everything = list(range(len(compressed)))
    if not any(compressed) or not is_kernelwise(method):
        return [everything]
    masked = [i for i in everything if not compressed[i]]
    alone = [[i] for i in everything if compressed[i]]
    return [masked, *alone] if masked else alone


def _stacked_by_shape(arrays: Iterable[Tensor | None]) -> list[Tensor]:
    """Stacks of the arrays that have the same shape and type.

    What is done with each is then compiled for each shape, not for each array.

    Args:
        arrays: List of tensors; `None` is left out.
    """
    groups: dict[tuple, list[Tensor]] = {}
    for array in arrays:
        if array is not None:
            kind = (tuple(array.shape), str(array.dtype))
            groups.setdefault(kind, []).append(array)
    return [_stack(same) for same in groups.values()]


def _stack(arrays: Sequence[Tensor]) -> Tensor:
    return arrays[0][None] if len(arrays) == 1 else ops.stack(arrays)


def as_is(function: Callable, traits: list) -> Callable:
    """Stands for a backend's `compiled`: the function is not compiled apart."""
    return function


def new_masks(
    method: Method,
    inputs: KernelBatch,
    compiled: Callable[[Callable, list], Callable] = as_is,
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """The masks after an update, or the old ones if a gradient is not finite.

    Args:
        method: A `Method`.
        inputs: `KernelBatch`.
        compiled: As for `masks_and_counts`.

    Returns:
        As of `masks_and_counts`, but instead of the counts their share.
    """
    masks, survivors, counts, done = masks_and_counts(method, inputs, compiled)
    return masks, survivors, share_of([counts]), done


def masks_and_counts(
    method: Method,
    inputs: KernelBatch,
    compiled: Callable[[Callable, list], Callable] = as_is,
) -> tuple[list[Tensor], list[Tensor], tuple[Tensor, Tensor], Tensor]:
    """The masks after an update, for updates of several batches.

    Args:
        method: A `Method`.
        inputs: `KernelBatch`.
        compiled: Callable that takes a function of arrays, and a list of what
            else decides its result, and returns a function that a backend
            compiles by itself.

    Returns:
        Tuple `(masks, survivors, counts, done)`: the new masks; where values
        and slots are kept; how many connections are new, and how many there
        are; and whether the update took place.
    """
    groups = _groups(method, inputs)
    parts = [inputs.part(places) for places in groups]
    stacks = [_stacks_of(part) for part in parts]
    others = _stacked_by_shape(inputs.others)
    scalars = {
        name: getattr(inputs, name)
        for name in ("fraction", "step", "update", "seed")
    }
    kernel_indices: typing.Any = [part.kernel_indices for part in parts]
    given: list[Tensor] = []
    if not isinstance(kernel_indices[0][0], numbers.Integral):
        # A tensor for each: kernels of one shape share a program.
        given, kernel_indices = [one for (one,) in kernel_indices], None
    choose = compiled(
        functools.partial(_choose, method, kernel_indices),
        [program_traits(method), kernel_indices],
    )
    new, alive, counts, finite = choose(stacks, others, scalars, given)
    order = np.argsort([i for places in groups for i in places])
    masks, survivors = (
        [array for stack in chosen for array in ops.unstack(stack)]
        for chosen in (new, alive)
    )
    masks, survivors = ([one[i] for i in order] for one in (masks, survivors))
    return masks, survivors, counts, finite


def share_of(counts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The share of connections that are new, of `masks_and_counts`.

    Args:
        counts: List of pairs of `int32` scalars.
    """
    replaced = sum(new for new, _ in counts)
    active = sum(both for _, both in counts)
    return ops.cast(replaced, "float32") / ops.maximum(
        ops.cast(active, "float32"), 1.0
    )


def _choose(
    method: Method,
    kernel_indices: list | None,
    stacks: list[dict],
    others: list[Tensor],
    scalars: dict[str, Tensor],
    given: list[Tensor],
) -> tuple[list[Tensor], list[Tensor], tuple[Tensor, Tensor], Tensor]:
    """`masks_and_counts` on stacks of the kernels of one shape.

    Args:
        method: A `Method`.
        kernel_indices: List of lists of integers, the places in the model of
            the kernels that each stack holds; `None` if they are `given`.
        stacks: List of dicts of tensors, as `_stacks_of` makes them.
        others: List of tensors that must be finite too.
        scalars: Dict of scalar tensors, attributes of `KernelBatch`.
        given: List of `int32` scalars, the place of the only kernel of each
            stack.
    """
    if kernel_indices is None:
        kernel_indices = [[place] for place in given]
    finite = ops.all(
        ops.stack(
            [
                ops.all(ops.isfinite(array))
                for array in [*(s["gradient"] for s in stacks), *others]
            ]
        )
    )
    parts = [
        _Part(stack, places, scalars)
        for stack, places in zip(stacks, kernel_indices, strict=True)
    ]
    masks, survivors = [], []
    replaced = ops.cast(0, "int32")
    active = ops.cast(0, "int32")
    for part, (kept, grown) in zip(parts, _chosen(method, parts), strict=True):
        old = part.stack["mask"]
        new = ops.where(finite, ops.logical_or(kept, grown), old)
        alive = new if method.regrown == "keep" else kept
        alive = ops.where(finite, ops.logical_and(alive, old), old)
        born = ops.logical_and(new, ops.logical_not(old))
        replaced = replaced + ops.sum(ops.cast(born, "int32"))
        active = active + ops.sum(ops.cast(new, "int32"))
        masks.append(new)
        survivors.append(alive)
    return masks, survivors, (replaced, active), finite


# Kernels are stacked up to this many entries, as a stack is a copy. A larger
# kernel spends its time in the update itself, not in the compilation.
_LARGEST_STACK = 1 << 22


def _groups(method: Method, inputs: KernelBatch) -> list[list[int]]:
    """Places of kernels that share a compiled program: those of one shape.

    The time to compile an update then grows with the number of shapes, not of
    layers. Each kernel stands alone if a method looks at all of them at once.
    """
    if not is_kernelwise(method):
        return [[i] for i in range(len(inputs.kernels))]
    groups: dict[tuple, list[list[int]]] = {}
    for i, arrays in enumerate(
        zip(inputs.kernels, inputs.gradients, inputs.states, strict=True)
    ):
        kernel, gradient, state = arrays
        named = [("", kernel), ("", gradient), *sorted(state.items())]
        kind = tuple((name, str(value.dtype)) for name, value in named)
        shape = tuple(kernel.shape)
        stacks = groups.setdefault((shape, kind), [[]])
        if (len(stacks[-1]) + 1) * math.prod(shape) > _LARGEST_STACK:
            stacks.append([])
        stacks[-1].append(i)
    return [places for stacks in groups.values() for places in stacks if places]


def _stacks_of(inputs: KernelBatch) -> dict[str, typing.Any]:
    """A dict of stacks of what `KernelBatch` of kernels of one shape hold."""
    return {
        "kernel": _stack(inputs.kernels),
        "mask": _stack(inputs.masks),
        "gradient": _stack(inputs.gradients),
        "state": {
            name: _stack([state[name] for state in inputs.states])
            for name in inputs.states[0]
        },
    }


@dataclasses.dataclass
class _Part:
    """Kernels of one shape.

    Attributes:
        stack: Dict of stacks, as `_stacks_of` makes it.
        kernel_indices: List of integers, the kernels' places in the model.
        scalars: Dict of scalar tensors, attributes of `KernelBatch`.
    """

    stack: dict[str, typing.Any]
    kernel_indices: Sequence[int]
    scalars: dict[str, Tensor]

    def view(self, i: Tensor) -> KernelView:
        """The `KernelView` of the kernel at a place of the stack.

        Args:
            i: Integer, or integer tensor.
        """
        one = keras.tree.map_structure(lambda s: _row(s, i), self.stack)
        index = self.kernel_indices[0]
        if len(self.kernel_indices) > 1:
            index = ops.take(np.array(self.kernel_indices, "int32"), i)
        inputs = KernelBatch(
            [one["kernel"]],
            [one["mask"]],
            [one["gradient"]],
            [one["state"]],
            kernel_indices=[index],
            **self.scalars,
        )
        return inputs.views()[0]


def _row(stack: Tensor, i: Tensor) -> Tensor:
    if stack.shape[0] == 1:
        return stack[0]
    rest = stack.shape[1:]
    row = ops.slice(stack, [i, *(0 for _ in rest)], (1, *rest))
    return ops.reshape(row, rest)


def _chosen(method: Method, parts: list[_Part]) -> list[typing.Any]:
    """What a method chooses: pairs of stacks, kept and grown connections.

    Kernels that share their shape with no other are updated together: one
    selection of several kernels compiles faster than several of one.
    """
    alone = [part.view(0) for part in parts if len(part.kernel_indices) == 1]
    chosen = []
    if alone:
        chosen = method.update(alone, parts[0].scalars["fraction"])
    pairs = iter([(kept[None], grown[None]) for kept, grown in chosen])
    return [
        next(pairs)
        if len(part.kernel_indices) == 1
        else _one_by_one(method, part)
        for part in parts
    ]


def _one_by_one(method: Method, part: _Part) -> list[Tensor]:
    """An update of kernels of one shape, in a loop that is compiled once."""
    fraction = part.scalars["fraction"]

    def update(i: Tensor) -> tuple[Tensor, Tensor]:
        ((kept, grown),) = method.update([part.view(i)], fraction)
        return kept[None], grown[None]

    def trip(i: Tensor, *chosen: Tensor) -> tuple:
        start = [i, *(0 for _ in chosen[0].shape[1:])]
        return i + 1, *(
            ops.slice_update(stack, start, new)
            for stack, new in zip(chosen, update(i), strict=True)
        )

    none = ops.zeros_like(part.stack["mask"])
    first = ops.convert_to_tensor(np.int32(0))
    count = len(part.kernel_indices)
    _, *chosen = ops.while_loop(
        lambda i, *_: i < count, trip, (first, none, none)
    )
    return chosen


def projected(
    value: Tensor,
    alive: Tensor,
    mask: Tensor,
    fill: float,
    grown: float | None = None,
) -> Tensor:
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
