"""The best of many connections, exactly. Importing this imports numba.

A score's bits and the random bits that rank equal scores are one integer, an
entry. Entries of different places are different, so that there are no ties.
"""

import numpy as np

from keras_freetickets.kernels.compiled import compiled
from keras_freetickets.kernels.vectors import numba
from keras_freetickets.types import Array

uint32 = numba.uint32
uint64 = numba.uint64
_DIGIT = 11  # bits that entries are counted by
_LAST = (1 << _DIGIT) - 1


@compiled
def _mix(bits: int) -> int:
    """The hash of `topology.randomness`; numba widens products."""
    bits = uint32(bits ^ (bits >> uint32(16)))
    bits = uint32(uint64(bits) * uint64(0x7FEB352D))
    bits = uint32(bits ^ (bits >> uint32(15)))
    bits = uint32(uint64(bits) * uint64(0x846CA68B))
    return uint32(bits ^ (bits >> uint32(16)))


@compiled
def entry_of(score: int, place: int, key: int) -> int:
    """A score and the random bits of a place, as one number that ranks."""
    bits = _mix(uint32(uint32(place) ^ key))
    bits = _mix(uint32(bits ^ key))
    return (uint64(score) << uint64(32)) | uint64(bits)


@compiled
def kth_largest(entries: Array, k: int) -> int:
    """The `k`-th largest of different entries.

    Counts them by 11 bits at a time, from the first ones on, and goes on with
    those of the digit that the wanted one has.
    """
    counts = np.empty(1 << _DIGIT, np.int64)
    shift = 64 - 1 - _DIGIT  # scores have no sign
    while len(entries) > 1:
        counts[:] = 0
        for entry in entries:
            counts[(entry >> uint64(shift)) & uint64(_LAST)] += 1
        digit = _LAST
        while counts[digit] < k:
            k -= counts[digit]
            digit -= 1
        same = np.empty(counts[digit], np.uint64)
        count = 0
        for entry in entries:
            if (entry >> uint64(shift)) & uint64(_LAST) == uint64(digit):
                same[count] = entry
                count += 1
        entries = same
        shift = max(shift - _DIGIT, 0)
    return entries[0]


@compiled
def best_of(entries: Array, places: Array, count: int, wanted: int) -> int:
    """Leaves the `wanted` largest entries at the front; returns the least."""
    limit = kth_largest(entries[:count], wanted)
    left = 0
    for k in range(count):
        if entries[k] >= limit:
            entries[left], places[left] = entries[k], places[k]
            left += 1
    return limit
