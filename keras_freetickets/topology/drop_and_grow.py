"""One update of the connections: a pure function from arrays to arrays."""

import dataclasses
import typing

from keras import ops

from keras_freetickets.topology.randomness import bits_of
from keras_freetickets.topology.randomness import random_keys
from keras_freetickets.topology.selection import select_rows
from keras_freetickets.topology.selection import sort_keys

# A drop fraction is a whole number of these parts, so that counts are exact
# integers: 0.3 of 10 is 3 on every backend, and float32 would lose counts
# beyond 2^24.
PARTS = 10_000


@dataclasses.dataclass
class Connections:
    """What a criterion sees of one kernel.

    All tensors but the scalars have the kernel's shape. The same names are
    the attributes.

    Args:
        kernel: Float32 tensor, zero outside the mask.
        mask: Boolean tensor, true where a connection is active.
        gradient: Float32 tensor, the dense gradient of the batch (of the mean
            over micro-batches), also where nothing is active.
        state: Dict of tensors, the method's own state per connection.
        step: Integer tensor, optimizer updates so far.
        update: Integer tensor, topology updates so far.

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


def fraction_of(count, fraction, rounding="ceil"):
    """An exact integer share of an integer.

    Args:
        count: `int32` tensor below 2^31.
        fraction: Float tensor in [0, 1]; rounded to 1/10,000.
        rounding: `"ceil"` (FreeTickets, ITOP) or `"floor"` (RigL).

    Returns:
        `int32` tensor, `ceil(fraction * count)` or `floor(...)`.
    """
    parts = ops.cast(ops.round(ops.cast(fraction, "float32") * PARTS), "int32")
    count = ops.cast(count, "int32")
    # 31,234 at 0.3: 3 * 3,000 + (1,234 * 3,000) / 10,000 = 9,000 + 370.2
    thousands, rest = count // PARTS, count % PARTS
    rest = rest * parts
    if rounding == "ceil":
        rest = rest + (PARTS - 1)
    return thousands * parts + rest // PARTS


def drop_and_grow(connections, drop_counts, grow_counts, scores, seed):
    """Drops the worst active connections, then grows the best absent ones.

    Connections dropped here may grow again at once (RigL, issue 5 of
    google-research/rigl): they are absent when growth is decided.

    Args:
        connections: List of `Connections`.
        drop_counts: List of `int32` scalars, how many to drop of each.
        grow_counts: List of `int32` scalars, how many to grow of each.
        scores: Pair of callables `(drop_score, grow_score)` of one
            `Connections`, returning a tensor of the kernel's shape.
        seed: Integer tensor; ties are broken by a hash of it, the update
            and the layer.

    Returns:
        List of pairs of boolean tensors `(kept, grown)`; the new mask is
        their union.
    """
    drop_score, grow_score = scores
    active = [ops.sum(ops.cast(c.mask, "int32")) for c in connections]
    keep_counts = [a - d for a, d in zip(active, drop_counts)]
    masks = [c.mask for c in connections]
    kept = _best(connections, drop_score, masks, keep_counts, seed, 0)
    absent = [ops.logical_not(k) for k in kept]
    grown = _best(connections, grow_score, absent, grow_counts, seed, 1)
    return list(zip(kept, grown))


def _best(connections, score, eligible, counts, seed, stage):
    def row(array):
        return ops.reshape(array, (1, -1))

    keys = [row(sort_keys(score(c), e)) for c, e in zip(connections, eligible)]
    layers = [2 * i + stage for i in range(len(connections))]
    ties = random_keys(seed, connections[0].update, layers)
    ties = [
        row(bits_of(tuple(c.kernel.shape), ties[i]))
        for i, c in enumerate(connections)
    ]
    counts = [ops.reshape(ops.cast(c, "int32"), (1,)) for c in counts]
    chosen = select_rows(keys, counts, ties)
    return [
        ops.reshape(mask, tuple(c.kernel.shape))
        for mask, c in zip(chosen, connections)
    ]
