"""Selects the k largest of n scores, exactly, without sorting.

A float's bits, read as an integer, increase with the float (negative floats
are mirrored). So the k-th largest score is the largest integer threshold that
at least k scores reach. A search narrows an interval of thresholds. Each pass
counts the scores that reach four thresholds, until exactly k scores reach one
or a single threshold is left. Scores equal to it are then ranked by random
bits, with the same search.

The thresholds are guessed, first from a sample and then from the counts so
far; this takes about five passes. Bad guesses cost more passes (at most 33)
but never change the result.
"""

import functools
import math
import typing
from collections.abc import Callable

import numpy as np
from keras import backend
from keras import ops
from keras import tree

from keras_freetickets.accelerators import tensorflow_accelerators
from keras_freetickets.arguments import is_integer
from keras_freetickets.topology.randomness import bits_of
from keras_freetickets.topology.randomness import random_bits
from keras_freetickets.topology.randomness import typed
from keras_freetickets.types import Tensor

_LOWEST = np.int32(np.iinfo(np.int32).min)
_HIGHEST = np.int32(np.iinfo(np.int32).max)
# The lowest two keys are reserved for entries that must not be selected.
_INELIGIBLE = _LOWEST
_NOT_FINITE = _LOWEST + np.int32(1)
_INFINITE = 0x7F800000
_SIGN = np.uint32(0x80000000)
_SHIFTS = tuple(np.uint32(shift) for shift in (1, 2, 4, 8, 16))
# Reading the scores is the largest cost. So a pass tries four thresholds, and
# their counts within a block share the bits of one integer.
_TRIED = 4
_COUNT_BITS = 6
# XLA on CPUs splits sums of more than 32 terms and then writes the terms to
# memory, which takes twice the time.
_BLOCK = 32
_SAMPLE = 256
# Below so many entries the two selections of each of a hundred updates gain
# less than the 0.4 s that XLA takes longer to compile one than to trace it (at
# this size 0.4 ms against 1.9 on a processor).
_LEAST_COMPILED = 1 << 18
# Traces of smaller ones that stay, for models that are made one after another.
_TRACES = 64


def _int32(value: Tensor) -> Tensor:
    return ops.cast(value, "int32")


def _sum(integers: Tensor) -> Tensor:
    """Sums of rows, as `int32` even if 64 bits are enabled on JAX."""
    return _int32(ops.sum(integers, axis=-1))


def sort_keys(scores: Tensor, eligible: Tensor | None = None) -> Tensor:
    """Maps float scores to `int32` keys of the same order.

    Args:
        scores: Float tensor; read as `float32`.
        eligible: Boolean tensor of the same shape, or `None` for all.

    Returns:
        An `int32` tensor. -0.0 and 0.0 have the same key. NaN and infinite
        scores rank below all finite scores, and ineligible entries below
        those.
    """
    # Integer operations only, because float operations treat denormals as zero
    # on some backends.
    bits = ops.view(ops.cast(scores, "float32"), dtype="int32")
    size = ops.bitwise_and(bits, typed(_HIGHEST))
    keys = ops.where(bits < 0, -size, size)
    keys = ops.where(size < _INFINITE, keys, typed(_NOT_FINITE))
    if eligible is None:
        return keys
    return ops.where(eligible, keys, typed(_INELIGIBLE))


def _unsigned(integers: Tensor) -> Tensor:
    return ops.view(integers, dtype="uint32")


def _signed(bits: Tensor) -> Tensor:
    """Unsigned bits as `int32` of the same order."""
    flipped = ops.bitwise_xor(bits, typed(_SIGN))
    return ops.view(flipped, dtype="int32")


def _count(thresholds: Tensor, values: Tensor) -> Tensor:
    """Counts the values of each row that reach each threshold.

    Args:
        thresholds: `int32` tensor of shape `(4, rows)`.
        values: `int32` tensor of shape `(rows, size)`.

    Returns:
        `int32` tensor of shape `(4, rows)`.
    """
    rows, size = values.shape
    if not size:
        return ops.zeros((_TRIED, rows), dtype="int32")
    whole = size - size % _BLOCK
    thresholds = [t[:, None, None] for t in ops.unstack(thresholds, _TRIED)]

    def block_counts(block: Tensor) -> Tensor:
        packed = 0
        for i, threshold in enumerate(thresholds):
            packed += _int32(block >= threshold) * (1 << (i * _COUNT_BITS))
        return _sum(packed)

    parts = []
    if whole:
        shape = (rows, whole // _BLOCK, _BLOCK)
        parts.append(block_counts(ops.reshape(values[:, :whole], shape)))
    if size > whole:
        parts.append(block_counts(values[:, None, whole:]))
    packed = ops.concatenate(parts, axis=1)
    shifts = _COUNT_BITS * np.arange(_TRIED, dtype="int32")
    counts = ops.right_shift(packed[None], typed(shifts[:, None, None]))
    counts = ops.bitwise_and(counts, typed(np.int32((1 << _COUNT_BITS) - 1)))
    return _sum(counts)


def _split(low: Tensor, high: Tensor) -> typing.Any:
    """The integer in `(low, high]` with the most trailing zero bits."""
    below = _unsigned(ops.bitwise_xor(low, high))
    for shift in _SHIFTS:
        below = ops.bitwise_or(below, ops.right_shift(below, typed(shift)))
    # Ones in all bits below the first in which the two differ.
    below = ops.right_shift(below, typed(_SHIFTS[0]))
    kept = ops.bitwise_not(ops.view(below, dtype="int32"))
    return ops.bitwise_and(high, kept)


def _next_tried(
    low: Tensor, high: Tensor, reached: Tensor, above: Tensor, wanted: Tensor
) -> Tensor:
    """Four thresholds in `(low, high]`, or `low` if the interval is empty."""
    width = _unsigned(high - low)
    between = ops.cast(reached - above, "float32") + 1.0
    # The wanted position if values were evenly spaced, and its error for
    # random values: the standard deviation of a binomial share.
    guess = (ops.cast(reached - wanted, "float32") + 0.5) / between
    guess = ops.clip(guess, 0.0, 1.0)
    deviation = ops.sqrt(guess * (1.0 - guess) / between)
    shares = ops.stack([guess - deviation, guess + deviation])
    # Below 1, so that the rounded product is below 2^32.
    shares = ops.clip(shares, 0.0, 1.0 - 2.0**-20)
    steps = ops.cast(shares * ops.cast(width, "float32"), "uint32")
    # The threshold after `low` shows whether many values equal `low`.
    steps = ops.concatenate([steps, ops.zeros_like(steps[:1])])
    steps = ops.maximum(steps, typed(np.uint32(1)))
    steps = ops.view(ops.minimum(steps, width), dtype="int32")
    # The split determines one more leading bit, whatever the values, so there
    # are at most 32 passes. It also quickly finds values with few set bits (0,
    # values rounded to bfloat16).
    return ops.concatenate([low + steps, _split(low, high)[None]])


def _search(
    count: Callable[[Tensor], Tensor],
    wanted: Tensor,
    known: tuple[Tensor, Tensor, Tensor],
    first: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Finds the largest thresholds that at least `wanted` values reach.

    Args:
        count: Callable that maps `(4, rows)` thresholds to the counts of
            values that reach them.
        wanted: `int32` tensor of shape `(rows,)`.
        known: Tuple of `int32` tensors of shape `(rows,)`, like the result:
            thresholds that at least `wanted` values reach. They do not change
            in rows where exactly `wanted` values do.
        first: Tuple of an `int32` tensor of shape `(4, rows)`, thresholds to
            try first, and a boolean tensor, whether to try them. If not,
            thresholds are guessed.

    Returns:
        Tuple of `int32` tensors of shape `(rows,)`: the thresholds, how many
        values reach them, and how many are above them. If exactly `wanted`
        values reach the threshold, it may be lower than the largest possible
        one, and the third tensor is a lower bound.
    """
    first, is_first = first
    low, reached, above = known

    def pending(
        low: Tensor,
        high: Tensor,
        reached: Tensor,
        above: Tensor,
        is_first: Tensor,
    ) -> Tensor:
        unsettled = ops.not_equal(reached, wanted)
        return ops.any(ops.logical_and(low < high, unsettled))

    def narrow(
        low: Tensor,
        high: Tensor,
        reached: Tensor,
        above: Tensor,
        is_first: Tensor,
    ) -> tuple[Tensor, ...]:
        tried = _next_tried(low, high, reached, above, wanted)
        tried = ops.where(is_first, first, tried)
        counts = count(tried)
        enough = counts >= wanted
        low = ops.maximum(low, ops.max(ops.where(enough, tried, low), axis=0))
        high = ops.min(ops.where(enough, high, tried - 1), axis=0)
        reached = ops.min(ops.where(enough, counts, reached), axis=0)
        above = ops.max(ops.where(enough, above, counts), axis=0)
        return low, high, reached, above, ops.zeros_like(is_first)

    high = ops.full_like(low, typed(_HIGHEST))
    state = (low, high, reached, above, is_first)
    low, _, reached, above, _ = ops.while_loop(pending, narrow, state)
    return low, reached, above


def _sample(keys: list[Tensor]) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Samples keys of each row.

    Args:
        keys: List of `int32` tensors of shape `(rows, size)`.

    Returns:
        Tuple of an `int32` tensor of shape `(all rows, width)`, padded with
        the lowest key; the number of sampled keys of each row; and their share
        of the row (`float32` arrays of shape `(all rows,)`).
    """
    # All pairs of a sample are compared; there are at most as many as keys.
    sizes = [max(key.shape[1], 1) for key in keys]
    lengths = [min(math.isqrt(size), _SAMPLE) for size in sizes]
    width = max(lengths)
    samples = []
    for key, size, length in zip(keys, sizes, lengths, strict=True):
        # An odd stride visits all channels if their number is a power of 2.
        stride = (size // length - 1) | 1
        sample = key[:, : stride * length : stride]
        fill = [[0, 0], [0, width - sample.shape[1]]]
        samples.append(ops.pad(sample, fill, constant_values=_LOWEST))
    rows = [key.shape[0] for key in keys]
    of_rows = np.repeat(lengths, rows).astype("float32")
    share = of_rows / np.repeat(sizes, rows).astype("float32")
    return ops.concatenate(samples), of_rows, share


def _first_tried(keys: list[Tensor], wanted: Tensor) -> Tensor:
    """Thresholds around the `wanted` largest key of each row, from a sample.

    Args:
        keys: List of `int32` tensors of shape `(rows, size)`.
        wanted: `int32` tensor of shape `(all rows,)`.

    Returns:
        `int32` tensor of shape `(4, all rows)`.
    """
    sample, length, share = _sample(keys)
    reached = sample[:, None, :] >= sample[:, :, None]
    reached = ops.cast(ops.sum(_int32(reached), axis=-1), "float32")
    place = ops.cast(wanted, "float32") * share
    # Two standard deviations of the position in the sample, and rounding.
    chance = ops.clip(place / length, 0.0, 1.0)
    margin = 2.0 * ops.sqrt(place * (1.0 - chance)) + 1.0
    # The sample's key at a position, or the lowest key if it is too short.
    places = ops.stack([place + margin, place - margin])[:, :, None]
    sample = ops.where(reached >= places, sample, typed(_LOWEST))
    both = ops.max(sample, axis=-1)
    # The next thresholds are tried too, because many keys may equal one of
    # the two. (The highest plus 1 wraps to the lowest, which is valid too.)
    return ops.concatenate([both, both + 1])


def _compiled(function: Callable[..., typing.Any]) -> Callable[..., typing.Any]:
    """Compiles a function with XLA where that is faster.

    Without compilation each pass would write its comparisons to memory, which
    is about four times slower. On TensorFlow only calls in graphs are
    compiled, because each new shape costs half a second, and on processors
    only of large arrays. Other graphs call one that is traced once for each
    shape: to trace it takes longer than most steps do.
    On JAX eager calls are compiled too, because otherwise each call would
    compile the loop again.
    """
    if backend.backend() == "jax":
        import jax

        return jax.jit(function)
    if backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    compiled = tf.function(function, jit_compile=True, autograph=False)

    @functools.lru_cache(_TRACES)  # a `tf.function` forgets no trace itself
    def traced(shapes: tuple) -> Callable:
        return tf.function(function, autograph=False)

    def pays(shapes: tuple) -> bool:
        size = sum(map(math.prod, shapes))
        return size >= _LEAST_COMPILED or bool(tensorflow_accelerators())

    @functools.wraps(function)
    def call(*args: typing.Any) -> typing.Any:
        if tf.executing_eagerly():
            return function(*args)
        shapes = tuple(tuple(one.shape) for one in tree.flatten(args))
        return (compiled if pays(shapes) else traced(shapes))(*args)

    return call


@_compiled
def select_rows(
    keys: list[Tensor], counts: list[Tensor], ties: list[Tensor]
) -> list[Tensor]:
    """Masks of the `counts` largest keys of each row, all arrays in one loop.

    Args:
        keys: Non-empty list of `int32` tensors of shape `(rows, size)`.
        counts: List of `int32` tensors of shape `(rows,)` in `[0, size]`.
        ties: List of `uint32` tensors with the shapes of `keys` that rank
            equal keys, without equal entries in a row; or scalar keys for
            `bits_of`.

    Returns:
        List of boolean tensors with the shapes of `keys`.
    """
    rows = [key.shape[0] for key in keys]
    ends = np.cumsum(rows)
    wanted = ops.concatenate([_int32(count) for count in counts])
    sizes = np.repeat([key.shape[1] for key in keys], rows)
    sizes = typed(sizes.astype("int32"))
    first = _first_tried(keys, wanted)

    def each(joined: typing.Any) -> list[Tensor]:
        return [
            joined[..., end - n : end]
            for end, n in zip(ends, rows, strict=True)
        ]

    def is_unsettled(
        is_first: Tensor,
        low: Tensor,
        reached: Tensor,
        above: Tensor,
        *values: Tensor,
    ) -> Tensor:
        return ops.any(ops.not_equal(reached, wanted))

    def search(
        is_first: Tensor,
        low: Tensor,
        reached: Tensor,
        above: Tensor,
        *values: Tensor,
    ) -> tuple[Tensor, ...]:
        def count(tried: Tensor) -> Tensor:
            counts = [
                _count(t, value)
                for t, value in zip(each(tried), values, strict=True)
            ]
            return ops.concatenate(counts, axis=1)

        low, reached, above = _search(
            count, wanted, (low, reached, above), (first, is_first)
        )
        unsettled = ops.not_equal(reached, wanted)

        def rank(
            pending: Tensor, low: Tensor, *values: Tensor
        ) -> tuple[Tensor, ...]:
            ranked = [
                _ranked(value, limit[:, None], more[:, None], tie)
                for value, limit, more, tie in zip(
                    values, each(low), each(unsettled), ties, strict=True
                )
            ]
            low = ops.where(unsettled, typed(_LOWEST), typed(_HIGHEST))
            return ops.zeros_like(pending), low, *ranked

        # Not a conditional: a while_loop, run at most once, changes in place.
        pending = ops.logical_and(is_first, ops.any(unsettled))
        _, low, *values = ops.while_loop(
            lambda pending, *_: pending, rank, (pending, low, *values)
        )
        return ops.zeros_like(is_first), low, reached, above, *values

    # First the keys are searched. Then, where too many keys equal the limit,
    # their tie bits are searched. A loop, so that the search compiles once.
    state = (
        ops.convert_to_tensor(True),
        ops.full_like(wanted, typed(_LOWEST)),
        ops.where(wanted > 0, sizes, 0),
        ops.zeros_like(wanted),
        *keys,
    )
    _, low, _, _, *values = ops.while_loop(
        is_unsettled, search, state, maximum_iterations=2
    )
    chosen = [
        value >= limit[:, None]
        for value, limit in zip(values, each(low), strict=True)
    ]
    some = [count[:, None] > 0 for count in counts]
    return [ops.logical_and(*both) for both in zip(chosen, some, strict=True)]


def _ranked(
    values: Tensor, limit: Tensor, unsettled: Tensor, tie: Tensor
) -> Tensor:
    """The values to rank once `limit` is known: tie bits of those equal to it.

    Values above the limit, and all that reach it in a settled row, get the
    highest rank. Values below get the lowest; the smallest tie bits may equal
    that, but not all tied values are chosen.
    """
    if len(tie.shape) == 0:
        tie = bits_of(values.shape, tie)
    equal = ops.where(unsettled, _signed(tie), typed(_HIGHEST))
    rest = ops.where(ops.equal(values, limit), equal, typed(_LOWEST))
    return ops.where(values > limit, typed(_HIGHEST), rest)


def rank_in_groups(keys: Tensor, ties: Tensor) -> Tensor:
    """The rank of each entry in its row, 0 for the largest key.

    It compares all pairs of a row, so use it for short rows, as of N:M masks.

    Args:
        keys: `int32` tensor of shape `(rows, size)`.
        ties: `uint32` tensor of the same shape that ranks equal keys.

    Returns:
        `int32` tensor of shape `(rows, size)`.
    """
    ties = _signed(ties)
    higher = keys[:, None, :] > keys[:, :, None]
    equal = ops.equal(keys[:, None, :], keys[:, :, None])
    first = ties[:, None, :] > ties[:, :, None]
    beaten = ops.logical_or(higher, ops.logical_and(equal, first))
    return _sum(_int32(beaten))


def select(
    scores: typing.Any,
    k: typing.Any,
    groups: int | None = None,
    eligible: typing.Any = None,
    ties: typing.Any = None,
) -> typing.Any:
    """Returns the mask of the k largest scores.

    Args:
        scores: Float tensor, or a list of float tensors that are ranked
            together (global scope). NaN and infinite scores rank last.
        k: Integer or integer tensor, how many to select, per group if there
            are groups. It must not exceed the number of eligible entries. In a
            compiled graph this cannot be checked; if `k` is too large,
            ineligible entries are selected too.
        groups: Positive integer, the number of equal groups of consecutive
            entries (in row-major order) of `scores`, each with its own k
            largest. `None` for one group. Not supported for lists.
        eligible: Boolean tensor (list of tensors) with the shape of `scores`;
            entries that may be selected. `None` for all.
        ties: `uint32` tensor (list of tensors) with the shape of `scores` that
            ranks equal scores, for example from `random_bits`. By default made
            from seed 0; on PyTorch earlier entries win.

    Returns:
        A boolean tensor (list of tensors) with the shape of `scores` and
        exactly `k` true entries per group.

    Raises:
        ValueError: If `groups` does not divide the number of scores, shapes
            differ, or `k` is known and outside [0, eligible entries].

    Example:

    ```python
    select(ops.array([0.3, -1.0, 2.0, 0.5]), k=2)  # [F, F, T, T]
    ```
    """
    if isinstance(scores, (list, tuple)):
        if not scores or not all(hasattr(score, "shape") for score in scores):
            raise ValueError(
                "`scores` must be a tensor or a non-empty list of tensors. "
                f"Received: scores={scores}"
            )
        if groups is not None:
            raise ValueError(
                "`groups` needs a single array of scores. "
                f"Received: groups={groups} with {len(scores)} arrays"
            )
        return _select_global(list(scores), k, eligible, ties)
    shape = tuple(scores.shape)
    rows = 1 if groups is None else groups
    size = int(np.prod(shape))
    if not is_integer(rows) or rows < 1 or size % rows:
        raise ValueError(
            "`groups` must divide the number of scores. "
            f"Received: groups={groups} for {size} scores"
        )
    _check_shape("eligible", eligible, shape)
    _check_shape("ties", ties, shape)
    _check_count(k, rows, size, eligible)
    if size == 0:
        return ops.zeros(shape, dtype="bool")
    if backend.backend() == "torch":
        mask = _select_by_sorting(scores, k, rows, eligible, ties)
        return ops.convert_to_tensor(mask)
    if ties is None:
        ties = random_bits(shape, seed=0)
    keys = ops.reshape(sort_keys(scores, eligible), (rows, -1))
    counts = ops.broadcast_to(_int32(k), (rows,))
    (mask,) = select_rows([keys], [counts], [ops.reshape(ties, (rows, -1))])
    return ops.reshape(mask, shape)


def _select_by_sorting(
    scores: Tensor,
    k: typing.Any,
    rows: int,
    eligible: Tensor | None,
    ties: typing.Any,
) -> np.ndarray:
    """`select` in NumPy, for PyTorch, where Keras has no 32-bit unsigned type.

    Args:
        scores: Float tensor.
        k: Integer, or integer tensor with a value for each row.
        rows: Integer, the number of groups.
        eligible: Boolean tensor with the shape of `scores`, or `None`.
        ties: Integer tensor with the shape of `scores`, or `None`.

    Returns:
        A boolean array with the shape of `scores`.
    """
    shape = tuple(scores.shape)
    values = ops.convert_to_numpy(ops.cast(scores, "float32"))
    # Finite scores first, then others, then ineligible entries.
    rank = np.where(np.isfinite(values), 2, 1)
    if eligible is not None:
        rank = np.where(ops.convert_to_numpy(eligible), rank, 0)
    values = np.where(rank == 2, values, 0.0)
    if ties is None:
        ties = -np.arange(values.size).reshape(shape)
    else:
        ties = ops.convert_to_numpy(ties).astype("int64")
    columns = [a.reshape(rows, -1) for a in (ties, values, rank)]
    order = np.lexsort(columns, axis=-1)[:, ::-1]
    counts = np.broadcast_to(ops.convert_to_numpy(k), (rows,))[:, None]
    chosen = np.arange(order.shape[1]) < counts
    mask = np.zeros(order.shape, bool)
    np.put_along_axis(mask, order, chosen, axis=-1)
    return mask.reshape(shape)


def _check_shape(
    name: str, array: Tensor | None, shape: tuple[int, ...]
) -> None:
    if array is not None and tuple(array.shape) != shape:
        raise ValueError(
            f"`{name}` must have the shape of `scores`, {shape}. "
            f"Received: {name} of shape {tuple(array.shape)}"
        )


def _known(tensor: Tensor) -> np.ndarray | None:
    """A tensor's value as an array, or `None` while a graph is traced."""
    try:
        return ops.convert_to_numpy(tensor)
    except (TypeError, ValueError, NotImplementedError, RuntimeError):
        return None  # each backend raises another for a traced tensor


def _check_count(
    k: typing.Any, rows: int, size: int, eligible: Tensor | None
) -> None:
    value = np.asarray(k) if np.isscalar(k) else _known(k)
    if value is None:
        return
    most = size // rows
    if eligible is not None and size:
        allowed = _known(eligible)
        if allowed is not None:
            most = allowed.reshape(rows, -1).sum(axis=1).min()
    is_whole = np.issubdtype(value.dtype, np.integer)
    if not is_whole or value.min() < 0 or value.max() > most:
        raise ValueError(
            "`k` must be an integer in [0, eligible entries]; the smallest "
            f"group has {most} eligible entries. Received: k={k}"
        )


def _select_global(
    scores: list[Tensor],
    k: typing.Any,
    eligible: list[Tensor] | None,
    ties: typing.Any,
) -> list[Tensor]:
    shapes = [tuple(score.shape) for score in scores]
    sizes = [int(np.prod(shape)) for shape in shapes]

    def joined(arrays: typing.Any) -> Tensor | None:
        if arrays is None:
            return None
        return ops.concatenate([ops.reshape(a, (-1,)) for a in arrays])

    mask = select(joined(scores), k, None, joined(eligible), joined(ties))
    ends = np.cumsum(sizes)
    return [
        ops.reshape(mask[end - size : end], shape)
        for shape, size, end in zip(shapes, sizes, ends, strict=True)
    ]
