"""An update of the topology of one compressed kernel. Importing imports numba.

Drops the weakest weights and grows absent ones, where the gradient is large or
at random, as `topology.Method` does for masks: the same scores, counts, ties
and hashes, so the same connections. No array of the kernel's size is made: the
dense gradient is there for a block of output units at a time, and of it only
the best entries so far are kept.
"""

import typing

import numpy as np

from keras_freetickets.kernels.compiled import compiled
from keras_freetickets.kernels.compiled import num_blocks
from keras_freetickets.kernels.dense_gradient import gradient_block
from keras_freetickets.kernels.ranking import best_of
from keras_freetickets.kernels.ranking import entry_of
from keras_freetickets.kernels.ranking import kth_largest
from keras_freetickets.kernels.structure import block_units
from keras_freetickets.kernels.update_settings import BORN
from keras_freetickets.kernels.update_settings import DROP
from keras_freetickets.kernels.update_settings import GROWTH
from keras_freetickets.kernels.update_settings import SPARE
from keras_freetickets.kernels.vectors import numba
from keras_freetickets.kernels.vectors import pointer
from keras_freetickets.types import Array

carray = numba.carray
float32 = numba.float32
int32 = numba.int32
int64 = numba.int64
uint16 = numba.uint16
uint32 = numba.uint32
uint64 = numba.uint64
_block_units = compiled(block_units)

# Places in the array of `UpdateSettings`.
_PARTS_AT, _ROUNDING_AT, _DROP_KEY, _GROWTH_KEY = 0, 1, 2, 3
_DROP, _GROWTH, _KEEPS_REGROWN = 4, 5, 6
_AT_RANDOM, _BY_SIGN = DROP["random"], DROP["signed_magnitude"]
_BY_GRADIENT = GROWTH["gradient"]
_PARTS = 10_000
_INFINITE = 0x7F800000
_SIZE = 0x7FFFFFFF  # all bits of a float but its sign
_BLOCK = 1 << 17  # floats of the gradient, within a second cache


@compiled
def _share(count: int, parts: int, rounding: int) -> int:
    """`topology.kernel_view.fraction_of`."""
    return (count * parts + rounding) // _PARTS


@compiled
def _keep(
    values: Array,
    places: Array,
    settings: Array,
    half: int,
    kept: Array,
) -> int:
    """Marks the weights of one half that are not dropped.

    Args:
        values: float32 array of the active weights.
        places: int64 array, their places in the kernel.
        settings: int32 array of `UpdateSettings`.
        half: 0 for those that are not negative, 1 for negative ones, 2 for
            all.
        kept: Boolean array to mark them in.

    Returns:
        How many are dropped.
    """
    key = uint32(settings[_DROP_KEY])
    at_random = settings[_DROP] == _AT_RANDOM
    bits = values.view(np.int32)
    entries = np.empty(len(values), np.uint64)
    count = 0
    for k in range(len(values)):
        negative = values[k] < float32(0.0)
        if half == 2 or negative == (half == 1):
            size = int64(bits[k] & _SIZE)
            score = size + 1 if size < _INFINITE else int64(0)
            if at_random:
                score = int64(0)
            entries[count] = entry_of(score, places[k], key)
            count += 1
    dropped = _share(
        count, int64(settings[_PARTS_AT]), int64(settings[_ROUNDING_AT])
    )
    if count == dropped:
        return dropped
    limit = kth_largest(entries[:count], count - dropped)
    count = 0
    for k in range(len(values)):
        negative = values[k] < float32(0.0)
        if half == 2 or negative == (half == 1):
            kept[k] = entries[count] >= limit
            count += 1
    return dropped


@compiled
def _grow(
    x: Array,
    dy: Array,
    batch: int,
    pointers: Array,
    columns: Array,
    kept: Array,
    inputs: int,
    settings: Array,
    wanted: int,
) -> tuple:
    """The absent connections with the best scores.

    Returns:
        Tuple of their places in the kernel, an int32 array of shape
        `(wanted,)`, and whether all gradients are finite.
    """
    outputs = len(pointers) - 1
    key = uint32(settings[_GROWTH_KEY])
    by_gradient = settings[_GROWTH] == _BY_GRADIENT
    room = 2 * wanted + 64
    entries = np.empty(room, np.uint64)
    places = np.empty(room, np.int32)
    count = 0
    limit = uint64(0)  # the least entry that may still be among the best
    lowest = int32(0)  # its score
    finite = True
    block = max(4, min(64, _BLOCK // inputs // 4 * 4))
    total = np.zeros(block * inputs, np.float32)
    scores = total.view(np.int32)
    for begin in range(0, outputs, block):
        end = min(begin + block, outputs)
        if by_gradient:
            gradient_block(x, dy, batch, inputs, outputs, begin, end, total)
        for unit in range(begin, end):
            row = scores[(unit - begin) * inputs : (unit - begin + 1) * inputs]
            largest = int32(0)
            for i in range(inputs):
                score = int32(row[i] & _SIZE) if by_gradient else int32(0)
                row[i] = score
                largest = max(largest, score)
            finite = finite and largest < _INFINITE
            if wanted == 0:
                continue
            for k in range(pointers[unit], pointers[unit + 1]):
                if kept[k]:
                    row[int64(columns[k])] = int32(-1)
            for i in range(inputs):
                if row[i] >= lowest:
                    place = i * outputs + unit
                    entry = entry_of(int64(row[i]), place, key)
                    if entry >= limit:
                        entries[count], places[count] = entry, place
                        count += 1
                        if count == room:
                            limit = best_of(entries, places, count, wanted)
                            lowest = int32(limit >> uint64(32))
                            count = wanted
    if count > wanted:
        best_of(entries, places, count, wanted)
    return places[:wanted].copy(), finite


@compiled
def _by_unit(places: Array, inputs: int, outputs: int) -> tuple:
    """Places sorted by output unit, then input: `(pointers, columns)`."""
    ends = np.zeros(inputs + 1, np.int64)
    for place in places:
        ends[place // outputs + 1] += 1
    ends = np.cumsum(ends)
    by_input = np.empty(len(places), np.int32)
    for place in places:
        i = place // outputs
        by_input[ends[i]] = place
        ends[i] += 1
    pointers = np.zeros(outputs + 1, np.int64)
    for place in places:
        pointers[place % outputs + 1] += 1
    pointers = np.cumsum(pointers)
    following = pointers.copy()
    columns = np.empty(len(places), np.int32)
    for place in by_input:
        unit = place % outputs
        columns[following[unit]] = place // outputs
        following[unit] += 1
    return pointers, columns


@compiled
def _merged(
    pointers: Array,
    columns: Array,
    kept: Array,
    grown_pointers: Array,
    grown: Array,
    keeps_regrown: bool,
    new_pointers: Array,
    new_columns: Array,
    source: Array,
) -> int:
    """Puts kept and grown weights in order; returns how many are new."""
    born = 0
    count = 0
    new_pointers[0] = 0
    for unit in range(len(pointers) - 1):
        k, stop = int64(pointers[unit]), int64(pointers[unit + 1])
        g, last = grown_pointers[unit], grown_pointers[unit + 1]
        while k < stop or g < last:
            is_old = k < stop and (
                g == last or int64(columns[k]) <= int64(grown[g])
            )
            if not is_old:
                new_columns[count], source[count] = grown[g], BORN
                born += 1
                count += 1
                g += 1
                continue
            if kept[k]:
                new_columns[count], source[count] = columns[k], k
                count += 1
            elif g < last and int64(columns[k]) == int64(grown[g]):
                new_columns[count] = columns[k]
                source[count] = k if keeps_regrown else BORN
                count += 1
                g += 1
            k += 1
        new_pointers[unit + 1] = count
    for k in range(count, len(source)):
        new_columns[k], source[k] = 0, SPARE
    return born


@compiled
def _positions_by_input(
    pointers: Array,
    columns: Array,
    inputs: int,
    by_input: Array,
    units: Array,
) -> None:
    """`CompressedStructure.by_input`, with room for more weights."""
    outputs = len(pointers) - 1
    size = _block_units(len(columns), outputs)
    by_input[:] = 0
    for unit in range(outputs):
        first = unit // size * inputs
        for k in range(pointers[unit], pointers[unit + 1]):
            by_input[first + int64(columns[k]) + 1] += 1
    for i in range(1, len(by_input)):
        by_input[i] += by_input[i - 1]
    following = by_input.copy()
    units[:] = 0
    for unit in range(outputs):
        first = unit // size * inputs
        for k in range(pointers[unit], pointers[unit + 1]):
            at = first + int64(columns[k])
            units[following[at]] = unit % size
            following[at] += 1


@compiled
def update(
    values: Array,
    pointers: Array,
    columns: Array,
    x: Array,
    dy: Array,
    settings: Array,
    new_pointers: Array,
    new_columns: Array,
    by_input: Array,
    units: Array,
    source: Array,
    report: Array,
    batch: int,
    inputs: int,
) -> None:
    """Drops and grows; the arrays from `new_pointers` on are filled.

    Args:
        values: float32 array `(room,)`.
        pointers: int32 array `(outputs + 1,)`, positions as of
            `structure.Positions`.
        columns: Integer array `(room,)`.
        x: Flat float32 array of `(batch, inputs)`, the input of the product.
        dy: Flat float32 array of `(batch, outputs)`, the gradient of its
            output.
        settings: int32 array of `UpdateSettings`.
        new_pointers: As `pointers`.
        new_columns: As `columns`.
        by_input: int32 array, as `structure.Positions.input_pointers`.
        units: uint16 array `(room,)`.
        source: int32 array `(room,)`: the place in `values` that each value
            comes from, `BORN` or `SPARE`.
        report: int32 array: how many connections are new, how many there
            are, and whether all gradients are finite.
        batch: Integer.
        inputs: Integer.
    """
    outputs = len(pointers) - 1
    active = int64(pointers[outputs])
    places = np.empty(active, np.int64)
    for unit in range(outputs):
        for k in range(pointers[unit], pointers[unit + 1]):
            places[k] = int64(columns[k]) * outputs + unit
    kept = np.zeros(active, np.bool_)
    weights = values[:active]
    if settings[_DROP] == _BY_SIGN:
        dropped = _keep(weights, places, settings, 0, kept)
        dropped += _keep(weights, places, settings, 1, kept)
    else:
        dropped = _keep(weights, places, settings, 2, kept)
    grown, finite = _grow(
        x, dy, batch, pointers, columns, kept, inputs, settings, dropped
    )
    starts, grown = _by_unit(grown, inputs, outputs)
    born = _merged(
        pointers,
        columns,
        kept,
        starts,
        grown,
        settings[_KEEPS_REGROWN] != 0,
        new_pointers,
        new_columns,
        source,
    )
    _positions_by_input(new_pointers, new_columns, inputs, by_input, units)
    report[0], report[1] = born, new_pointers[outputs]
    report[2] = 1 if finite else 0


@compiled
def update_at(
    column: typing.Any,
    v: int,
    p: int,
    c: int,
    x: int,
    dy: int,
    s: int,
    np_: int,
    nc: int,
    bi: int,
    u: int,
    so: int,
    r: int,
    room: int,
    outputs: int,
    batch: int,
    inputs: int,
) -> None:
    """`update` on addresses, in its order.

    `column` is numba's type of column indices.
    """
    blocks = num_blocks(room, outputs)
    update(
        carray(pointer(v), room, float32),
        carray(pointer(p), outputs + 1, int32),
        carray(pointer(c), room, column),
        carray(pointer(x), batch * inputs, float32),
        carray(pointer(dy), batch * outputs, float32),
        carray(pointer(s), 7, int32),
        carray(pointer(np_), outputs + 1, int32),
        carray(pointer(nc), room, column),
        carray(pointer(bi), blocks * inputs + 1, int32),
        carray(pointer(u), room, uint16),
        carray(pointer(so), room, int32),
        carray(pointer(r), 3, int32),
        batch,
        inputs,
    )
