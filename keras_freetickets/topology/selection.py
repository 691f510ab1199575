"""The k best of n scores, exactly, without sorting.

A float's bits, read as an integer, rise with the float (negative ones
mirrored). So the k-th best score is the largest integer threshold that at
least k scores reach, and bisection finds it in 32 counting passes. Scores
equal to the threshold are ranked by random bits in 32 more passes.
"""

import numpy as np
from keras import ops

from keras_freetickets.topology.randomness import random_bits

_LOWEST = np.iinfo(np.int32).min
# The lowest two keys are kept for entries that must not win.
_INELIGIBLE = _LOWEST
_NOT_FINITE = _LOWEST + 1
# From the sign bit (it turns the lowest key into 0) down to the last bit.
_BITS = np.array([_LOWEST] + [1 << b for b in range(30, -1, -1)], np.int32)


def _int32(value):
    return ops.cast(value, "int32")


def sort_keys(scores, eligible=None):
    """Maps float scores to `int32` keys of the same order.

    Args:
        scores: Float tensor; read as `float32`.
        eligible: Boolean tensor of the same shape, or `None` for all.

    Returns:
        An `int32` tensor. -0.0 and 0.0 have one key, NaN and infinite scores
        rank below every finite one and ineligible entries below all.
    """
    scores = ops.cast(scores, "float32")
    zero = ops.zeros_like(scores)
    finite = ops.isfinite(scores)
    scores = ops.where(ops.equal(scores, zero), zero, scores)
    bits = ops.view(scores, dtype="int32")
    # 1.0 -> 0x3f800000; -1.0 -> 0xbf800000 -> mirrored 0xc07fffff < 0.
    mirrored = ops.bitwise_xor(bits, _int32(0x7FFFFFFF))
    keys = ops.where(ops.less(bits, 0), mirrored, bits)
    keys = ops.where(finite, keys, _int32(_NOT_FINITE))
    if eligible is None:
        return keys
    return ops.where(eligible, keys, _int32(_INELIGIBLE))


def _signed(bits):
    """Unsigned bits as `int32` of the same order."""
    flipped = ops.bitwise_xor(bits, ops.cast(0x80000000, "uint32"))
    return ops.view(flipped, dtype="int32")


def _thresholds(keys, counts):
    """The largest thresholds that at least `counts` keys of each row reach.

    Args:
        keys: List of `int32` tensors of shape `(rows, size)`.
        counts: List of `int32` tensors of shape `(rows,)`.

    Returns:
        List of `int32` tensors of shape `(rows,)`.
    """
    bits = ops.convert_to_tensor(_BITS)

    def narrow(step, thresholds):
        bit = ops.take(bits, step)
        narrowed = []
        for key, count, threshold in zip(keys, counts, thresholds):
            candidate = ops.bitwise_xor(threshold, bit)
            reached = ops.greater_equal(key, ops.expand_dims(candidate, -1))
            enough = ops.sum(_int32(reached), axis=-1) >= count
            narrowed.append(ops.where(enough, candidate, threshold))
        return tuple(narrowed)

    start = tuple(ops.full_like(count, _LOWEST) for count in counts)
    return ops.fori_loop(0, len(_BITS), narrow, start)


def select_rows(keys, counts, ties):
    """Masks of the `counts` largest keys of each row, all arrays in one loop.

    Args:
        keys: List of `int32` tensors of shape `(rows, size)`.
        counts: List of `int32` tensors of shape `(rows,)`, each within
            `[0, size]`.
        ties: List of `uint32` tensors shaped as `keys`, without equal entries
            in a row, that rank equal keys.

    Returns:
        List of boolean tensors shaped as `keys`.
    """
    thresholds = _thresholds(keys, counts)
    above = [k > t[:, None] for k, t in zip(keys, thresholds)]
    equal = [ops.equal(k, t[:, None]) for k, t in zip(keys, thresholds)]
    missing = [c - ops.sum(_int32(a), axis=-1) for c, a in zip(counts, above)]
    # Bits that are no candidates get the lowest key; where a candidate has it
    # as well, one random bit of 2^32 decides nothing.
    ranks = [
        ops.where(e, ops.maximum(_signed(t), _LOWEST + 1), _LOWEST)
        for e, t in zip(equal, ties)
    ]
    limits = _thresholds(ranks, missing)
    chosen = []
    for a, e, r, limit, m in zip(above, equal, ranks, limits, missing):
        wins = ops.logical_and(e, r >= limit[:, None])
        some = ops.expand_dims(m > 0, -1)
        chosen.append(ops.logical_or(a, ops.logical_and(wins, some)))
    return chosen


def select(scores, k, groups=None, eligible=None, ties=None):
    """Returns the mask of the k best scores.

    Args:
        scores: Float tensor, or a list of float tensors that are ranked
            together (global scope).
        k: Integer or integer tensor: how many to select, per group if there
            are groups. At most the number of eligible entries.
        groups: Integer, into how many equal runs of consecutive entries (in
            row-major order) `scores` is cut, each with its own k best. `None`
            for one. Not for lists.
        eligible: Boolean tensor (list of tensors) shaped as `scores`; entries
            that may be selected. `None` for all.
        ties: `uint32` tensor (list of tensors) shaped as `scores` that ranks
            equal scores, e.g. of `random_bits`. By default made from seed 0.

    Returns:
        A boolean tensor (list of tensors) shaped as `scores`, with exactly
        `k` true entries per group.

    Raises:
        ValueError: If `groups` does not divide the number of scores.

    Example:

    ```python
    select(ops.array([0.3, -1.0, 2.0, 0.5]), k=2)  # [F, F, T, T]
    ```
    """
    if isinstance(scores, (list, tuple)):
        if groups is not None:
            raise ValueError(
                "`groups` needs a single array of scores. "
                f"Received: groups={groups} with {len(scores)} arrays"
            )
        return _select_global(scores, k, eligible, ties)
    shape = tuple(scores.shape)
    rows = 1 if groups is None else groups
    size = int(np.prod(shape))
    if rows < 1 or size % rows:
        raise ValueError(
            "`groups` must divide the number of scores. "
            f"Received: groups={groups} for {size} scores"
        )
    if size == 0:
        return ops.zeros(shape, dtype="bool")
    if ties is None:
        ties = random_bits(shape, seed=0)
    keys = ops.reshape(sort_keys(scores, eligible), (rows, -1))
    counts = ops.broadcast_to(_int32(k), (rows,))
    (mask,) = select_rows([keys], [counts], [ops.reshape(ties, (rows, -1))])
    return ops.reshape(mask, shape)


def _select_global(scores, k, eligible, ties):
    shapes = [tuple(score.shape) for score in scores]
    sizes = [int(np.prod(shape)) for shape in shapes]

    def joined(arrays):
        if arrays is None:
            return None
        return ops.concatenate([ops.reshape(a, (-1,)) for a in arrays])

    mask = select(joined(scores), k, None, joined(eligible), joined(ties))
    ends = np.cumsum(sizes)
    return [
        ops.reshape(mask[end - size : end], shape)
        for shape, size, end in zip(shapes, sizes, ends)
    ]
