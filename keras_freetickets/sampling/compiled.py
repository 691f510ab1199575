"""Likelihoods of many sub-ensembles, compiled by numba."""

import math
from typing import Any

import numpy as np

from keras_freetickets.optional import import_optional

numba: Any = import_optional("numba")

# Products of so many factors of 1e-12 or more are far from underflow.
_ROUNDS, _LANES = 16, 64


@numba.njit(cache=True, fastmath={"contract", "reassoc", "nsz"})
def _sum_of_logs(sums, row, sign, products):
    """The sum of log(sums + sign * row), with a logarithm for 16 factors."""
    total, count = 0.0, sums.size
    for start in range(0, count, _ROUNDS * _LANES):
        products[:] = 1.0
        for at in range(start, min(start + _ROUNDS * _LANES, count), _LANES):
            for lane in range(min(_LANES, count - at)):
                products[lane] *= sums[at + lane] + sign * row[at + lane]
        for lane in range(_LANES):
            total += math.log(products[lane])
    return total


@numba.njit(cache=True)
def flipped_logs(
    states: np.ndarray, sums: np.ndarray, probabilities: np.ndarray
) -> np.ndarray:
    """Sums of the logarithms of summed probabilities, with each bit flipped.

    Args:
        states: Integer array `(states, members)`.
        sums: Array `(states, examples)`, `states @ probabilities`.
        probabilities: Array `(members, examples)` of 1e-12 or more.

    Returns:
        Array `(states, members)`. Zero where a flip leaves no member.
    """
    found = np.zeros(states.shape)
    products = np.empty(_LANES)
    for state in range(states.shape[0]):
        size = states[state].sum()
        for member in range(states.shape[1]):
            active = states[state, member]
            if size + 1 - 2 * active > 0:
                found[state, member] = _sum_of_logs(
                    sums[state],
                    probabilities[member],
                    1.0 - 2.0 * active,
                    products,
                )
    return found
