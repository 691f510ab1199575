"""Compiled prediction, of one example by a whole network or of a batch.

Importing this imports numba. For one example all units of a network stand in
one array, `units`: those of its input, then those of each layer, each filled
up to whole blocks, with the biases in place. A row of `table` says for a layer
where those begin that it reads, where its own begin and end, and whether it is
rectified.
"""

import functools
from collections.abc import Callable

from keras_freetickets.kernels.blocks import BLOCK
from keras_freetickets.kernels.compiled import compiled
from keras_freetickets.kernels.vectors import add
from keras_freetickets.kernels.vectors import add_products
from keras_freetickets.kernels.vectors import filled
from keras_freetickets.kernels.vectors import load
from keras_freetickets.kernels.vectors import multiply_add
from keras_freetickets.kernels.vectors import numba
from keras_freetickets.kernels.vectors import permuted
from keras_freetickets.kernels.vectors import rectified
from keras_freetickets.kernels.vectors import store
from keras_freetickets.kernels.vectors import value_at
from keras_freetickets.types import Array

int64 = numba.int64
uint64 = numba.uint64
float32 = numba.float32


@compiled
def _rectify(units: Array, begin: int, end: int) -> None:
    for i in range(begin, end, 16):
        store(units, i, rectified(load(units, i, 16)))


@compiled
def predict_rows(
    table: Array,
    values: Array,
    pointers: Array,
    columns: Array,
    units: Array,
) -> None:
    """With compressed rows, a dot product for each unit.

    Columns 4 and 5 of `table` say which of `pointers` is the layer's first,
    and how many output units it has.
    """
    for i in range(len(table)):
        source, begin, end = table[i, 0], table[i, 1], table[i, 2]
        first, count = table[i, 4], table[i, 5]
        for unit in range(count):
            # Unsigned: numba would ask of each place whether it counts from
            # the end.
            k = uint64(pointers[first + unit])
            stop = uint64(pointers[first + unit + 1])
            a = float32(0.0)
            b, c, d = a, a, a
            while k + uint64(4) <= stop:
                a += values[k] * units[uint64(source + columns[k])]
                k += uint64(1)
                b += values[k] * units[uint64(source + columns[k])]
                k += uint64(1)
                c += values[k] * units[uint64(source + columns[k])]
                k += uint64(1)
                d += values[k] * units[uint64(source + columns[k])]
                k += uint64(1)
            while k < stop:
                a += values[k] * units[uint64(source + columns[k])]
                k += uint64(1)
            units[begin + unit] += (a + b) + (c + d)
        if table[i, 3]:
            _rectify(units, begin, end)


@compiled
def predict_groups(
    table: Array,
    values: Array,
    inputs: Array,
    counts: Array,
    pointers: Array,
    groups: Array,
    rows: Array,
    lanes: Array,
    units: Array,
) -> None:
    """With `Groups`, of all layers one after the other; needs AVX-512.

    Columns 4 to 6 of `table` say which of the values, of the rows and of
    `pointers` is the layer's first, and column 7 how many blocks it has.
    """
    for i in range(len(table)):
        source, begin, end = table[i, 0], table[i, 1], table[i, 2]
        place, row = table[i, 4], uint64(table[i, 5])
        for block in range(table[i, 7]):
            low = load(units, source + 32 * block, 16)
            high = load(units, source + 32 * block + 16, 16)
            first = table[i, 6] + block
            for entry in range(pointers[first], pointers[first + 1]):
                total = filled(float32(0.0), 16)
                for _ in range(rows[uint64(entry)]):
                    count = int64(counts[row])
                    total = add_products(
                        total, values, inputs, place, count, low, high
                    )
                    place += count
                    row += uint64(1)
                at = begin + int64(groups[uint64(entry)]) * 16
                found = permuted(total, lanes, entry * 16)
                store(units, at, add(load(units, at, 16), found))
        if table[i, 3]:
            _rectify(units, begin, end)


@functools.cache
def predict_blocks(lanes: int) -> Callable[..., None]:
    """With `Blocks`, compiled for a tile of `lanes` examples."""

    def predict_tile(
        values: Array,
        inputs: Array,
        pointers: Array,
        entry_units: Array,
        counts: Array,
        bias: Array,
        relu: bool,
        x: Array,
        y: Array,
    ) -> None:
        for unit in range(len(bias)):
            store(y, unit * lanes, filled(bias[unit], lanes))
        k = 0
        for block in range(len(pointers) - 1):
            base = block * BLOCK * lanes
            for entry in range(pointers[block], pointers[block + 1]):
                at = int64(entry_units[entry]) * lanes
                total = load(y, at, lanes)
                for _ in range(counts[entry]):
                    vector = load(x, base + int64(inputs[k]) * lanes, lanes)
                    total = multiply_add(value_at(values, k), vector, total)
                    k += 1
                store(y, at, total)
        if relu:
            for unit in range(len(bias)):
                at = unit * lanes
                store(y, at, rectified(load(y, at, lanes)))

    return compiled(predict_tile)
