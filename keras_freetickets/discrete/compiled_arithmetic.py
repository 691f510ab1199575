"""Sums, logarithms and exponentials of many examples, compiled by numba."""

import math
from typing import Any

import numpy as np

from keras_freetickets.optional import import_optional

numba = import_optional("numba")
ir = import_optional("llvmlite.ir")
extending = import_optional("numba.extending")

CONTRACT = {"contract"}
# Sums may be reordered, to have one for each lane of a vector.
REORDERED = {"contract", "reassoc", "nsz"}
_LARGEST_EXPONENT = 600.0  # far from the 709 where exp overflows
_BLOCK = 512  # factors below 2 whose product is finite


def _bitcast(kind, result):
    @extending.intrinsic
    def cast(typing_context, value):
        def emit(context, builder, signature, arguments):
            return builder.bitcast(arguments[0], kind)

        return result(value), emit

    return cast


_as_float: Any = _bitcast(ir.DoubleType(), numba.float64)
_as_bits: Any = _bitcast(ir.IntType(64), numba.uint64)


@numba.njit(cache=True, fastmath=CONTRACT, inline="always")
def _exp(x):
    """exp(x) within 2e-15 for |x| <= 600, in operations that vectorize."""
    whole = math.floor(x * 1.4426950408889634 + 0.5)
    # ln 2 in two parts, so that the difference is exact.
    r = x - whole * 6.93147180369123816490e-01
    r = r - whole * 1.90821492927058770002e-10
    # The series of exp at |r| <= ln(2) / 2: the next term is 4e-18.
    p = 1.0 / 6227020800.0
    p = p * r + 1.0 / 479001600.0
    p = p * r + 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    power = np.uint64(np.int64(np.int32(whole)) + np.int64(1023))
    return p * _as_float(power << np.uint64(52))


@numba.njit(cache=True, fastmath=REORDERED)
def sum_of_logs(values: Any) -> float:
    """The sum of the logarithms of positive numbers, with few logarithms."""
    mantissa = np.uint64(0x000FFFFFFFFFFFFF)
    one = np.uint64(0x3FF0000000000000)
    total, exponents = 0.0, np.uint64(0)
    for start in range(0, values.size, _BLOCK):
        product = 1.0
        for i in range(start, min(start + _BLOCK, values.size)):
            bits = _as_bits(values[i])
            exponents += bits >> np.uint64(52)
            product *= _as_float((bits & mantissa) | one)
        total += math.log(product)
    biased = np.int64(exponents) - 1023 * np.int64(values.size)
    return total + 0.6931471805599453 * biased


@numba.njit(cache=True, fastmath=CONTRACT)
def add_row(
    target: Any, at: int, factor: float, source: Any, start: int, count: int
) -> None:
    """Adds a factor times a row of one flat array to a row of another."""
    for i in range(count):
        target[at + i] += factor * source[start + i]


@numba.njit(cache=True, fastmath=CONTRACT)
def add_exps(row: Any, logits: Any, at: int, shifts: Any) -> bool:
    """Adds exp(logits - shifts); returns whether that stayed in range."""
    outside = np.int64(0)
    for i in range(shifts.size):
        x = logits[at + i] - shifts[i]
        outside |= np.int64(abs(x) > _LARGEST_EXPONENT)
        row[i] += _exp(x)
    return outside == 0
