"""Sparse convolutions of batches, on `planes`. Importing this imports numba.

A call is shared out among threads so that each sum is one thread's, in the
order of one thread: forward by tiles of pixels; backward by channels of the
input, since all places of a kernel add to the gradient of their channel; copies
by images.
"""

import typing

import numpy as np

from keras_freetickets.kernels.addresses import address_of
from keras_freetickets.kernels.addresses import name_address
from keras_freetickets.kernels.compiled import compiled
from keras_freetickets.kernels.compiled import num_blocks
from keras_freetickets.kernels.fork_join import parts_of
from keras_freetickets.kernels.fork_join import run_parts
from keras_freetickets.kernels.fork_join import threads_of_process
from keras_freetickets.kernels.planes import COLUMNS
from keras_freetickets.kernels.planes import KH
from keras_freetickets.kernels.planes import KW
from keras_freetickets.kernels.planes import LANES
from keras_freetickets.kernels.planes import OH
from keras_freetickets.kernels.planes import OW
from keras_freetickets.kernels.planes import ROWS
from keras_freetickets.kernels.planes import SH
from keras_freetickets.kernels.planes import SW
from keras_freetickets.kernels.planes import C
from keras_freetickets.kernels.planes import H
from keras_freetickets.kernels.planes import W
from keras_freetickets.kernels.planes import clear
from keras_freetickets.kernels.planes import offsets_of
from keras_freetickets.kernels.planes import output_sizes
from keras_freetickets.kernels.planes import pack_images
from keras_freetickets.kernels.planes import plane_floats
from keras_freetickets.kernels.planes import unpack_images
from keras_freetickets.kernels.scratch import give
from keras_freetickets.kernels.scratch import new_pool
from keras_freetickets.kernels.scratch import take
from keras_freetickets.kernels.structure import block_units
from keras_freetickets.kernels.vectors import add
from keras_freetickets.kernels.vectors import dot
from keras_freetickets.kernels.vectors import filled
from keras_freetickets.kernels.vectors import load
from keras_freetickets.kernels.vectors import multiply_add
from keras_freetickets.kernels.vectors import numba
from keras_freetickets.kernels.vectors import pointer
from keras_freetickets.kernels.vectors import rectified
from keras_freetickets.kernels.vectors import store
from keras_freetickets.types import Array

carray = numba.carray
float32 = numba.float32
int32 = numba.int32
uint16 = numba.uint16
int64 = numba.int64
_block_units = compiled(block_units)

# Of all convolutions of the process.
_POOL = new_pool()
name_address("keras_freetickets_pool", _POOL.ctypes.data)


@compiled
def pool_of_process() -> int:
    """The address of the pool that convolutions of a process share."""
    return address_of("keras_freetickets_pool")


@compiled
def _share(count: int, part: int, parts: int) -> tuple:
    """The first of a part of some things, the one after its last, and all."""
    return count * part // parts, count * (part + 1) // parts, count


@compiled
def forward_part(part: int, parts: int, arguments: tuple) -> None:
    """Some pixels of the output's planes, from those of the input."""
    values, pointers, columns, bias, x, y = arguments[:6]
    offsets, pixels, plane, relu = arguments[6:]
    first, stop, _ = _share((pixels + LANES - 1) // LANES, part, parts)
    for tile in range(first * LANES, stop * LANES, LANES):
        for unit in range(len(pointers) - 1):
            total = filled(bias[unit], LANES)
            for k in range(pointers[unit], pointers[unit + 1]):
                at = offsets[int64(columns[k])] + tile
                total = multiply_add(values[k], load(x, at, LANES), total)
            if relu:
                total = rectified(total)
            store(y, unit * plane + tile, total)


@compiled
def _starts(
    pointers: Array, columns: Array, channels: int, windows: int, channel: int
) -> Array:
    """Where weights of each unit begin at a channel, place by place.

    Returns:
        int32 array `(windows, outputs)`: for each place within the kernel, the
        first weight of a unit whose input is that channel there, or a later
        one.
    """
    outputs = len(pointers) - 1
    starts = np.empty((windows, outputs), np.int32)
    for unit in range(outputs):
        k, stop = pointers[unit], pointers[unit + 1]
        for window in range(windows):
            first = window * channels + channel
            while k < stop and int64(columns[k]) < first:
                k += 1
            starts[window, unit] = k
    return starts


@compiled
def backward_part(part: int, parts: int, arguments: tuple) -> None:
    """Gradients of some channels' planes, which begin with 0, and weights."""
    values, pointers, columns, by_input, units = arguments[:5]
    x, dy, dx, dvalues, offsets, channels, pixels, plane = arguments[5:]
    outputs, inputs = len(pointers) - 1, len(offsets)
    windows = inputs // channels
    begin, end, _ = _share(channels, part, parts)
    starts = _starts(pointers, columns, channels, windows, begin)
    size = _block_units(len(values), outputs)
    places = np.empty(outputs, np.int64)
    for tile in range(0, pixels, LANES):
        for block in range(num_blocks(len(values), outputs)):
            first = block * size
            for window in range(windows):
                for unit in range(first, min(first + size, outputs)):
                    places[unit] = starts[window, unit]
                here = window * channels
                for i in range(here + begin, here + end):
                    j = by_input[block * inputs + i]
                    stop = by_input[block * inputs + i + 1]
                    if j == stop:
                        continue
                    at = offsets[i] + tile
                    vector = load(x, at, LANES)
                    total = load(dx, at, LANES)
                    while j < stop:
                        unit = first + int64(units[j])
                        k = places[unit]
                        places[unit] = k + 1
                        arriving = load(dy, unit * plane + tile, LANES)
                        total = multiply_add(values[k], arriving, total)
                        dvalues[k] += dot(arriving, vector)
                        j += 1
                    store(dx, at, total)


@compiled
def _pack_part(part: int, parts: int, arguments: tuple) -> None:
    x, batch, sizes, plane, planes = arguments
    pack_images(x, _share(batch, part, parts), sizes, plane, planes)


@compiled
def _unpack_part(part: int, parts: int, arguments: tuple) -> None:
    planes, batch, sizes, plane, x = arguments
    unpack_images(planes, _share(batch, part, parts), sizes, plane, x)


@compiled
def forward(
    values: Array,
    pointers: Array,
    columns: Array,
    bias: Array,
    x: Array,
    y: Array,
    sizes: Array,
    batch: int,
    relu: bool,
    pool: int,
    threads: int,
) -> None:
    """A convolution's output.

    Args:
        values: float32 array `(room,)`.
        pointers: As `structure.Positions.row_pointers`.
        columns: As `structure.Positions.column_indices`.
        bias: float32 array `(outputs,)`.
        x: Flat float32 array of `(batch, height, width, channels)`.
        y: Flat float32 array of `(batch, out_height, out_width, outputs)`,
            which it fills.
        sizes: int64 array of `Geometry.numbers`.
        batch: Integer.
        relu: Whether negative outputs become 0.
        pool: As for `scratch.take`.
        threads: Integer, the address of `threads.settings`.
    """
    outputs = len(bias)
    pixels = batch * sizes[ROWS] * sizes[COLUMNS]
    parts = parts_of(len(values) * pixels, threads)
    plane = plane_floats(batch, sizes, False)
    count = sizes[SH] * sizes[SW] * sizes[C] * plane
    lent = take(pool, count)
    planes = carray(pointer(lent), count, float32)
    run_parts(_pack_part, parts, (x, batch, sizes, plane, planes))
    out_plane = plane_floats(batch, sizes, True)
    lent_too = take(pool, outputs * out_plane)
    made = carray(pointer(lent_too), outputs * out_plane, float32)
    offsets = offsets_of(sizes, plane)
    weights = (values, pointers, columns, bias)
    arguments = (*weights, planes, made, offsets, pixels, out_plane, relu)
    run_parts(forward_part, parts, arguments)
    to = output_sizes(sizes, outputs)
    run_parts(_unpack_part, parts, (made, batch, to, out_plane, y))
    give(pool, lent)
    give(pool, lent_too)


@compiled
def _begin_part(part: int, parts: int, arguments: tuple) -> None:
    """Packs some images, and clears their gradients and some weights'."""
    x, sizes, plane, planes, sums, batch, dvalues = arguments
    images = _share(batch, part, parts)
    pack_images(x, images, sizes, plane, planes)
    clear(sums, images, sizes, plane)
    first, stop, _ = _share(len(dvalues), part, parts)
    dvalues[first:stop] = float32(0.0)


@compiled
def _bias_part(part: int, parts: int, arguments: tuple) -> None:
    """Gradients of some units' biases, from planes."""
    arriving, plane, dbias = arguments
    ones = filled(float32(1.0), 16)
    first, stop, _ = _share(len(dbias), part, parts)
    for unit in range(first, stop):
        whole = filled(float32(0.0), 16)
        for i in range(0, plane, 16):
            whole = add(whole, load(arriving, unit * plane + i, 16))
        dbias[unit] = dot(whole, ones)


@compiled
def backward(
    values: Array,
    pointers: Array,
    columns: Array,
    by_input: Array,
    units: Array,
    x: Array,
    dy: Array,
    dx: Array,
    dvalues: Array,
    dbias: Array,
    sizes: Array,
    batch: int,
    pool: int,
    threads: int,
) -> None:
    """A convolution's gradients; the arguments as for `forward`."""
    outputs = len(dbias)
    pixels = batch * sizes[ROWS] * sizes[COLUMNS]
    parts = parts_of(2 * len(values) * pixels, threads)
    plane = plane_floats(batch, sizes, False)
    count = sizes[SH] * sizes[SW] * sizes[C] * plane
    lent = take(pool, count)
    planes = carray(pointer(lent), count, float32)
    lent_too = take(pool, count)
    sums = carray(pointer(lent_too), count, float32)
    begun = (x, sizes, plane, planes, sums, batch, dvalues)
    run_parts(_begin_part, parts, begun)
    out_plane = plane_floats(batch, sizes, True)
    lent_third = take(pool, outputs * out_plane)
    arriving = carray(pointer(lent_third), outputs * out_plane, float32)
    to = output_sizes(sizes, outputs)
    run_parts(_pack_part, parts, (dy, batch, to, out_plane, arriving))
    run_parts(_bias_part, parts, (arriving, out_plane, dbias))
    offsets = offsets_of(sizes, plane)
    where = (values, pointers, columns, by_input, units)
    numbers = (offsets, sizes[C], pixels, out_plane)
    arguments = (*where, planes, arriving, sums, dvalues, *numbers)
    run_parts(backward_part, parts, arguments)
    run_parts(_unpack_part, parts, (sums, batch, sizes, plane, dx))
    give(pool, lent)
    give(pool, lent_too)
    give(pool, lent_third)


@compiled
def images_at(rows: int, channels: int, address: int) -> int:
    """How many images pixels are, by sizes at an address; -1 for a mismatch."""
    sizes = carray(pointer(address), 13, int32)
    pixels = int64(sizes[H]) * int64(sizes[W])
    if channels != sizes[C] or pixels <= 0 or rows % pixels != 0:
        return -1
    return rows // pixels


@compiled
def made_at(address: int) -> int:
    """Pixels of an output's image, by sizes at an address."""
    sizes = carray(pointer(address), 13, int32)
    return int64(sizes[OH]) * int64(sizes[OW])


@compiled
def forward_at(
    column: typing.Any,
    v: int,
    p: int,
    c: int,
    b: int,
    x: int,
    y: int,
    s: int,
    relu: bool,
    room: int,
    outputs: int,
    batch: int,
) -> None:
    """`forward` on addresses.

    They are of `values, pointers, columns, bias, x, y, sizes`; `column` is
    numba's type of column indices.
    """
    sizes = carray(pointer(s), 13, int32).astype(np.int64)
    pixels = batch * sizes[H] * sizes[W]
    made = batch * sizes[OH] * sizes[OW]
    forward(
        carray(pointer(v), room, float32),
        carray(pointer(p), outputs + 1, int32),
        carray(pointer(c), room, column),
        carray(pointer(b), outputs, float32),
        carray(pointer(x), pixels * sizes[C], float32),
        carray(pointer(y), made * outputs, float32),
        sizes,
        batch,
        relu,
        pool_of_process(),
        threads_of_process(),
    )


@compiled
def backward_at(
    column: typing.Any,
    v: int,
    p: int,
    c: int,
    bi: int,
    u: int,
    x: int,
    dy: int,
    dx: int,
    dv: int,
    db: int,
    s: int,
    room: int,
    outputs: int,
    batch: int,
) -> None:
    """`backward` on addresses, in its order; `column` as for `forward_at`."""
    sizes = carray(pointer(s), 13, int32).astype(np.int64)
    pixels = batch * sizes[H] * sizes[W]
    made = batch * sizes[OH] * sizes[OW]
    inputs = sizes[KH] * sizes[KW] * sizes[C]
    blocks = num_blocks(room, outputs)
    backward(
        carray(pointer(v), room, float32),
        carray(pointer(p), outputs + 1, int32),
        carray(pointer(c), room, column),
        carray(pointer(bi), blocks * inputs + 1, int32),
        carray(pointer(u), room, uint16),
        carray(pointer(x), pixels * sizes[C], float32),
        carray(pointer(dy), made * outputs, float32),
        carray(pointer(dx), pixels * sizes[C], float32),
        carray(pointer(dv), room, float32),
        carray(pointer(db), outputs, float32),
        sizes,
        batch,
        pool_of_process(),
        threads_of_process(),
    )
