"""Gradients of all weights of some output units. Importing imports numba."""

from keras_freetickets.kernels.compiled import compiled
from keras_freetickets.kernels.vectors import filled
from keras_freetickets.kernels.vectors import load
from keras_freetickets.kernels.vectors import multiply_add
from keras_freetickets.kernels.vectors import numba
from keras_freetickets.kernels.vectors import store
from keras_freetickets.types import Array

float32 = numba.float32


@compiled
def _gradient_tile(
    x: Array,
    dy: Array,
    batch: int,
    inputs: int,
    outputs: int,
    unit: int,
    i: int,
    total: Array,
    at: int,
) -> None:
    """Gradients of 4 output units and 64 inputs, sums in registers."""
    zero = filled(float32(0.0), 32)
    a0, a1, b0, b1 = zero, zero, zero, zero
    c0, c1, d0, d1 = zero, zero, zero, zero
    for b in range(batch):
        left = load(x, b * inputs + i, 32)
        right = load(x, b * inputs + i + 32, 32)
        k = b * outputs + unit
        one, two, three, four = dy[k], dy[k + 1], dy[k + 2], dy[k + 3]
        a0 = multiply_add(one, left, a0)
        a1 = multiply_add(one, right, a1)
        b0 = multiply_add(two, left, b0)
        b1 = multiply_add(two, right, b1)
        c0 = multiply_add(three, left, c0)
        c1 = multiply_add(three, right, c1)
        d0 = multiply_add(four, left, d0)
        d1 = multiply_add(four, right, d1)
    store(total, at, a0)
    store(total, at + 32, a1)
    store(total, at + inputs, b0)
    store(total, at + inputs + 32, b1)
    store(total, at + 2 * inputs, c0)
    store(total, at + 2 * inputs + 32, c1)
    store(total, at + 3 * inputs, d0)
    store(total, at + 3 * inputs + 32, d1)


@compiled
def gradient_block(
    x: Array,
    dy: Array,
    batch: int,
    inputs: int,
    outputs: int,
    begin: int,
    end: int,
    total: Array,
) -> None:
    """Gradients of all weights of some output units.

    Args:
        x: Flat float32 array of `(batch, inputs)`.
        dy: Flat float32 array of `(batch, outputs)`.
        batch: Integer.
        inputs: Integer.
        outputs: Integer.
        begin: Integer, the first output unit.
        end: Integer, the one after the last.
        total: Flat float32 array of `(end - begin, inputs)`, which it fills.
    """
    whole_units = begin + (end - begin) // 4 * 4
    whole_inputs = inputs // 64 * 64
    for i in range(0, whole_inputs, 64):
        for unit in range(begin, whole_units, 4):
            at = (unit - begin) * inputs + i
            _gradient_tile(x, dy, batch, inputs, outputs, unit, i, total, at)
    for unit in range(begin, end):
        first = whole_inputs if unit < whole_units else 0
        row = total[(unit - begin) * inputs : (unit - begin + 1) * inputs]
        row[first:] = float32(0.0)
        for b in range(batch):
            factor = dy[b * outputs + unit]
            example = x[b * inputs : (b + 1) * inputs]
            for i in range(first, inputs):
                row[i] += factor * example[i]
