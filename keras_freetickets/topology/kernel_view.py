"""The view of a kernel in an update, and selections over several views."""

import dataclasses
import typing

import numpy as np
from keras import ops

from keras_freetickets.topology.randomness import bits_of
from keras_freetickets.topology.randomness import random_keys
from keras_freetickets.topology.selection import select_rows
from keras_freetickets.topology.selection import sort_keys
from keras_freetickets.types import Tensor

# A drop fraction is a multiple of 1/PARTS, so that counts are exact integers:
# 0.3 of 10 is 3 on every backend. (float32 would lose counts above 2^24.)
PARTS = 10_000
# What is added to a count times `PARTS` before the division by `PARTS`.
ROUNDING = {"ceil": PARTS - 1, "floor": 0, "nearest": PARTS // 2}
# The most selections that an update may make for one kernel.
STAGES = 4


@dataclasses.dataclass
class KernelView:
    """What a criterion or hook sees of one kernel.

    Tensors that are not scalars have the kernel's shape. The arguments are
    also the attributes.

    Args:
        kernel: Float32 tensor, zero outside the mask.
        mask: Boolean tensor, true where a connection is active.
        gradient: Float32 tensor, the dense gradient of the batch (or mean
            gradient over micro-batches), also of absent connections.
        state: Dict of tensors, the method's state of each connection.
        step: Integer scalar tensor, optimizer updates so far.
        update: Integer scalar tensor, topology updates so far.
        seed: Integer scalar tensor for random decisions and ties.
        kernel_index: Integer or integer tensor, the kernel's index among the
            model's masked kernels.

    Example:

    ```python
    def taylor(connections):
        return (connections.kernel * connections.gradient) ** 2

    method = Method(drop=taylor)
    ```
    """

    kernel: typing.Any
    mask: typing.Any
    gradient: typing.Any
    state: dict
    step: typing.Any
    update: typing.Any
    seed: typing.Any = 0
    kernel_index: int = 0

    def count(self) -> Tensor:
        """The number of active connections, as an `int32` scalar."""
        # JAX returns `int64` if 64 bits are enabled.
        return ops.cast(ops.sum(ops.cast(self.mask, "int32")), "int32")


def parts_of(fraction: typing.Any) -> Tensor:
    """A float in [0, 1] in ten-thousandths, as an `int32` tensor."""
    return ops.cast(ops.round(ops.cast(fraction, "float32") * PARTS), "int32")


def fraction_of(
    count: typing.Any, fraction: Tensor, rounding: str = "ceil"
) -> Tensor:
    """Computes an exact integer share of an integer.

    Args:
        count: `int32` tensor.
        fraction: Float tensor in [0, 1]; rounded to 1/10,000.
        rounding: `"ceil"` (FreeTickets, ITOP), `"floor"` (RigL) or
            `"nearest"` (NDSNN; halves go up).

    Returns:
        `int32` tensor, the rounded `fraction * count`.
    """
    parts = parts_of(fraction)
    count = ops.cast(count, "int32")
    # 31,234 at 0.3: 3 * 3,000 + (1,234 * 3,000) / 10,000 = 9,000 + 370.2
    thousands, rest = count // PARTS, count % PARTS
    rest = rest * parts + ROUNDING[rounding]
    return thousands * parts + rest // PARTS


def _tie_keys(views: list[KernelView], stage: int) -> list[Tensor]:
    """Keys of the random bits that rank equal scores in a selection."""
    first = views[0]
    layers = [STAGES * view.kernel_index + stage for view in views]
    keys = random_keys(first.seed, first.update, layers)
    return ops.unstack(keys, len(layers))


def tie_bits(views: list[KernelView], stage: int) -> list[Tensor]:
    """Random bits that rank equal scores in one selection of an update.

    Args:
        views: List of `KernelView`.
        stage: Integer that identifies the selection within an update.

    Returns:
        List of `uint32` tensors of the kernels' shapes.
    """
    keys = _tie_keys(views, stage)
    return [
        bits_of(tuple(view.kernel.shape), k)
        for view, k in zip(views, keys, strict=True)
    ]


def best(
    views: list[KernelView],
    scores: list[Tensor],
    eligible: list[Tensor],
    counts: typing.Any,
    stage: int,
    scope: str = "layer",
) -> list[Tensor]:
    """Selects the eligible connections with the highest scores.

    Args:
        views: List of `KernelView`.
        scores: List of float tensors of the kernels' shapes.
        eligible: List of boolean tensors, the connections that may be chosen.
        counts: List of `int32` scalars, how many to choose in each kernel;
            with `scope="global"` only their sum matters.
        stage: Integer that identifies the selection within an update. A hash
            of the seed, the update, the layer and `stage` breaks ties.
        scope: `"layer"` if connections compete within their kernel, `"global"`
            if they compete across all kernels.

    Returns:
        List of boolean tensors of the kernels' shapes.
    """
    if not views:
        return []
    shapes = [tuple(view.kernel.shape) for view in views]
    keys = [
        ops.reshape(sort_keys(score, e), (1, -1))
        for score, e in zip(scores, eligible, strict=True)
    ]
    counts = [ops.reshape(ops.cast(count, "int32"), (1,)) for count in counts]

    if scope == "global":
        chosen = _best_of_all(views[0], keys, sum(counts), stage)
    else:
        chosen = select_rows(keys, counts, _tie_keys(views, stage))
    return [
        ops.reshape(mask, shape)
        for mask, shape in zip(chosen, shapes, strict=True)
    ]


def _best_of_all(
    first: KernelView, keys: list[Tensor], count: typing.Any, stage: int
) -> list[Tensor]:
    """One selection over all kernels."""
    sizes = [key.shape[1] for key in keys]
    joined = ops.concatenate(keys, axis=1)
    (chosen,) = select_rows([joined], [count], _tie_keys([first], stage))
    ends = np.cumsum(sizes)
    return [
        chosen[:, end - n : end] for end, n in zip(ends, sizes, strict=True)
    ]
