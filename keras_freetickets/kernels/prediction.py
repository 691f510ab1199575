"""Compiled prediction, of one example by a whole network or of a batch.

Importing this imports numba. For one example all units of a network stand in
one array, `units`: those of its input, then those of each layer, each filled
up to whole blocks, with the biases in place. A row of `table` says for a layer
where those begin that it reads, where its own begin and end, and whether it is
rectified.
"""

import functools
import typing
from collections.abc import Callable

from keras_freetickets.kernels.blocks import BLOCK
from keras_freetickets.kernels.compiled import compiled
from keras_freetickets.kernels.groups import BLOCK as INPUTS
from keras_freetickets.kernels.groups import LANE_SHIFT
from keras_freetickets.kernels.groups import MOST_ROWS
from keras_freetickets.kernels.groups import PLACE_BITS
from keras_freetickets.kernels.groups import ROWS
from keras_freetickets.kernels.vectors import add
from keras_freetickets.kernels.vectors import add_products
from keras_freetickets.kernels.vectors import filled
from keras_freetickets.kernels.vectors import load
from keras_freetickets.kernels.vectors import multiply_add
from keras_freetickets.kernels.vectors import numba
from keras_freetickets.kernels.vectors import permuted
from keras_freetickets.kernels.vectors import rectified
from keras_freetickets.kernels.vectors import shifted
from keras_freetickets.kernels.vectors import store
from keras_freetickets.kernels.vectors import value_at
from keras_freetickets.kernels.vectors import widened
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


def _entries_of(rows: int) -> Callable[..., typing.Any]:
    """Compiled for entries of so many rows, or of any number if it is 0.

    They are those up to `stop`. `at` says which of the values, of the codes,
    of the rows and of the entries comes next.
    """

    def add_entries(
        weights: typing.Any,
        units: Array,
        source: int,
        begin: int,
        at: typing.Any,
        stop: int,
    ) -> typing.Any:
        values, codes, counts, groups, entry_rows = weights
        place, code_at, row, entry = at
        low, high = load(units, source, 16), load(units, source + 16, 16)
        while entry < stop:
            height = rows if rows > 0 else int64(entry_rows[entry])
            total, tail = filled(float32(0.0), 16), filled(float32(0.0), 8)
            code = load(codes, code_at, 16)
            lanes = shifted(code, LANE_SHIFT)
            for i in range(height):
                if i > 0 and i % ROWS == 0:
                    code_at += 16
                    code = load(codes, code_at, 16)
                count = int64(counts[row])
                if 2 * i < height:
                    total = add_products(
                        total, values, place, count, code, low, high
                    )
                else:
                    tail = add_products(
                        tail, values, place, count, code, low, high
                    )
                code = shifted(code, PLACE_BITS)
                place += count
                row += uint64(1)
            code_at += 16
            if height > 1:
                total = add(total, widened(tail, 16))
            unit = begin + int64(groups[entry]) * 16
            found = permuted(total, lanes)
            store(units, unit, add(load(units, unit, 16), found))
            entry += uint64(1)
        return place, code_at, row, entry

    return compiled(add_entries)


_add_others = _entries_of(0)
_add_1, _add_2, _add_3, _add_4 = map(_entries_of, range(1, 5))
_add_5, _add_6, _add_7, _add_8 = map(_entries_of, range(5, 9))


@compiled
def predict_groups(
    table: Array,
    values: Array,
    codes: Array,
    counts: Array,
    ends: Array,
    groups: Array,
    rows: Array,
    units: Array,
) -> None:
    """With `Groups`, of all layers one after the other; needs AVX-512.

    Columns 4 to 8 of `table` say which of the values, of the codes, of the
    rows, of the entries and of the blocks is the layer's first, and column 9
    how many blocks it has.
    """
    weights = values, codes, counts, groups, rows
    for i in range(len(table)):
        begin, end = table[i, 1], table[i, 2]
        at = table[i, 4], table[i, 5], uint64(table[i, 6]), uint64(table[i, 7])
        for block in range(table[i, 9]):
            source = table[i, 0] + block * INPUTS
            first = (table[i, 8] + block) * (MOST_ROWS + 1)
            # Line by line: in a loop of numba's `literal_unroll` one function
            # takes 1.7 times as long, as its loop over rows is not unrolled.
            # A call without entries would take as long as one with three.
            stop = uint64(ends[first])
            if at[3] < stop:
                at = _add_others(weights, units, source, begin, at, stop)
            stop = uint64(ends[first + 1])
            if at[3] < stop:
                at = _add_8(weights, units, source, begin, at, stop)
            stop = uint64(ends[first + 2])
            if at[3] < stop:
                at = _add_7(weights, units, source, begin, at, stop)
            stop = uint64(ends[first + 3])
            if at[3] < stop:
                at = _add_6(weights, units, source, begin, at, stop)
            stop = uint64(ends[first + 4])
            if at[3] < stop:
                at = _add_5(weights, units, source, begin, at, stop)
            stop = uint64(ends[first + 5])
            if at[3] < stop:
                at = _add_4(weights, units, source, begin, at, stop)
            stop = uint64(ends[first + 6])
            if at[3] < stop:
                at = _add_3(weights, units, source, begin, at, stop)
            stop = uint64(ends[first + 7])
            if at[3] < stop:
                at = _add_2(weights, units, source, begin, at, stop)
            stop = uint64(ends[first + 8])
            if at[3] < stop:
                at = _add_1(weights, units, source, begin, at, stop)
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
