"""Sparse convolutions on planes of pixels. Importing this imports numba.

Images lie in planes, one for each channel, with zeros around each image, one
image after the other. Then all pixels of a batch are one vector, and an active
weight is a number times such a vector, moved by the place of the weight within
the kernel: a row of zeros or a gap between two images is computed too, and is
not read. An image's left zeros are the right ones of the row before.

With strides, planes of every other row and column lie apart, so that a moved
vector is still one.
"""

import functools
import typing

import numpy as np

from keras_freetickets.kernels.compiled import compiled
from keras_freetickets.kernels.compiled import num_blocks
from keras_freetickets.kernels.native import pointer
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
from keras_freetickets.kernels.vectors import rectified
from keras_freetickets.kernels.vectors import store
from keras_freetickets.kernels.vectors import transpose_16
from keras_freetickets.types import Array

carray = numba.carray
float32 = numba.float32
int32 = numba.int32
uint16 = numba.uint16
int64 = numba.int64
_block_units = compiled(block_units)
# Pixels of a tile, whose sums stay in registers.
_LANES = 128
# Places of sizes in `Geometry.numbers`.
_H, _W, _C, _KH, _KW, _SH, _SW, _TOP, _LEFT, _OH, _OW, _ROWS, _COLUMNS = range(
    13
)


# Of all convolutions of the process.
_POOL = new_pool()


def pool() -> int:
    """The address of the pool that bridges hand to the kernels."""
    return _POOL.ctypes.data


@compiled
def plane_floats(batch: int, sizes: Array, output: bool) -> int:
    """Floats of one plane: of whole tiles, and what a moved one reads."""
    pixels = batch * sizes[_ROWS] * sizes[_COLUMNS]
    whole = (pixels + _LANES - 1) // _LANES * _LANES
    if output:
        return whole + 16
    down = (sizes[_KH] - 1) // sizes[_SH] * sizes[_COLUMNS]
    right = (sizes[_KW] - 1) // sizes[_SW]
    return (whole + down + right + 15) // 16 * 16 + 16


@compiled
def offsets_of(sizes: Array, plane: int) -> Array:
    """Where the plane of each input of the kernel begins, moved."""
    kernel_h, kernel_w = sizes[_KH], sizes[_KW]
    channels = sizes[_C]
    offsets = np.empty(kernel_h * kernel_w * channels, np.int64)
    at = 0
    for i in range(kernel_h):
        for j in range(kernel_w):
            phase = i % sizes[_SH] * sizes[_SW] + j % sizes[_SW]
            moved = i // sizes[_SH] * sizes[_COLUMNS] + j // sizes[_SW]
            for c in range(channels):
                offsets[at] = (phase * channels + c) * plane + moved
                at += 1
    return offsets


@compiled
def _copied(
    x: Array,
    planes: Array,
    packs: bool,
    batch: int,
    sizes: Array,
    plane: int,
) -> None:
    """Copies images to planes, or planes to images."""
    height, width, channels = sizes[_H], sizes[_W], sizes[_C]
    down, right = sizes[_SH], sizes[_SW]
    columns = sizes[_COLUMNS]
    whole = width // 16 * 16 if right == 1 else 0
    whole_channels = channels // 16 * 16
    for n in range(batch):
        for r in range(height):
            row = r + sizes[_TOP]
            phase = row % down * right
            start = (n * sizes[_ROWS] + row // down) * columns
            source = (n * height + r) * width * channels
            for q in range(0, whole, 16):
                to = phase * channels * plane + start + q + sizes[_LEFT]
                for c in range(0, whole_channels, 16):
                    at = source + q * channels + c
                    there = to + c * plane
                    if packs:
                        transpose_16(x, at, channels, planes, there, plane)
                    else:
                        transpose_16(planes, there, plane, x, at, channels)
            for q in range(width):
                column = q + sizes[_LEFT]
                to = (phase + column % right) * channels * plane
                to += start + column // right
                at = source + q * channels
                first = whole_channels if q < whole else 0
                for c in range(first, channels):
                    if packs:
                        planes[to + c * plane] = x[at + c]
                    else:
                        x[at + c] = planes[to + c * plane]


@compiled
def pack_images(
    x: Array, batch: int, sizes: Array, plane: int, planes: Array
) -> None:
    """Images `(batch, height, width, channels)` to planes, with zeros."""
    planes[:] = float32(0.0)
    _copied(x, planes, True, batch, sizes, plane)


@compiled
def unpack_images(
    planes: Array, batch: int, sizes: Array, plane: int, x: Array
) -> None:
    """The opposite of `pack_images`."""
    _copied(x, planes, False, batch, sizes, plane)


@compiled
def output_sizes(sizes: Array, units: int) -> Array:
    """Sizes of the output's planes: those of the input, without zeros."""
    made = sizes.copy()
    made[_H], made[_W], made[_C] = sizes[_OH], sizes[_OW], units
    made[_SH] = made[_SW] = 1
    made[_TOP] = made[_LEFT] = 0
    return made


@compiled
def forward_planes(
    values: Array,
    pointers: Array,
    columns: Array,
    bias: Array,
    x: Array,
    y: Array,
    offsets: Array,
    pixels: int,
    plane: int,
    relu: bool,
) -> None:
    """Planes of the output, from those of the input."""
    for tile in range(0, pixels, _LANES):
        for unit in range(len(pointers) - 1):
            total = filled(bias[unit], _LANES)
            for k in range(pointers[unit], pointers[unit + 1]):
                at = offsets[int64(columns[k])] + tile
                total = multiply_add(values[k], load(x, at, _LANES), total)
            if relu:
                total = rectified(total)
            store(y, unit * plane + tile, total)


@compiled
def backward_planes(
    values: Array,
    pointers: Array,
    columns: Array,
    by_input: Array,
    units: Array,
    x: Array,
    dy: Array,
    dx: Array,
    dvalues: Array,
    offsets: Array,
    pixels: int,
    plane: int,
) -> None:
    """Gradients of the input's planes, which begin with 0, and of values."""
    outputs = len(pointers) - 1
    inputs = len(offsets)
    size = _block_units(len(values), outputs)
    blocks = num_blocks(len(values), outputs)
    dvalues[:] = float32(0.0)
    places = np.empty(outputs, np.int64)
    for tile in range(0, pixels, _LANES):
        for unit in range(outputs):
            places[unit] = pointers[unit]
        for block in range(blocks):
            first = block * size
            for i in range(inputs):
                j = by_input[block * inputs + i]
                stop = by_input[block * inputs + i + 1]
                if j == stop:
                    continue
                at = offsets[i] + tile
                vector = load(x, at, _LANES)
                total = load(dx, at, _LANES)
                while j < stop:
                    unit = first + int64(units[j])
                    k = places[unit]
                    places[unit] = k + 1
                    arriving = load(dy, unit * plane + tile, _LANES)
                    total = multiply_add(values[k], arriving, total)
                    dvalues[k] += dot(arriving, vector)
                    j += 1
                store(dx, at, total)


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
    """
    outputs = len(bias)
    plane = plane_floats(batch, sizes, False)
    count = sizes[_SH] * sizes[_SW] * sizes[_C] * plane
    lent = take(pool, count)
    planes = carray(pointer(lent), count, float32)
    pack_images(x, batch, sizes, plane, planes)
    offsets = offsets_of(sizes, plane)
    out_plane = plane_floats(batch, sizes, True)
    lent_too = take(pool, outputs * out_plane)
    made = carray(pointer(lent_too), outputs * out_plane, float32)
    pixels = batch * sizes[_ROWS] * sizes[_COLUMNS]
    forward_planes(
        *(values, pointers, columns, bias, planes, made),
        *(offsets, pixels, out_plane, relu),
    )
    unpack_images(made, batch, output_sizes(sizes, outputs), out_plane, y)
    give(pool, lent)
    give(pool, lent_too)


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
) -> None:
    """A convolution's gradients; the arrays as for `forward`."""
    outputs = len(dbias)
    plane = plane_floats(batch, sizes, False)
    count = sizes[_SH] * sizes[_SW] * sizes[_C] * plane
    lent = take(pool, count)
    planes = carray(pointer(lent), count, float32)
    pack_images(x, batch, sizes, plane, planes)
    out_plane = plane_floats(batch, sizes, True)
    lent_too = take(pool, outputs * out_plane)
    arriving = carray(pointer(lent_too), outputs * out_plane, float32)
    pack_images(dy, batch, output_sizes(sizes, outputs), out_plane, arriving)
    lent_third = take(pool, count)
    sums = carray(pointer(lent_third), count, float32)
    sums[:] = float32(0.0)
    pixels = batch * sizes[_ROWS] * sizes[_COLUMNS]
    backward_planes(
        *(values, pointers, columns, by_input, units, planes, arriving, sums),
        *(dvalues, offsets_of(sizes, plane), pixels, out_plane),
    )
    unpack_images(sums, batch, sizes, plane, dx)
    ones = filled(float32(1.0), 16)
    for unit in range(outputs):
        whole = filled(float32(0.0), 16)
        for i in range(0, out_plane, 16):
            whole = add(whole, load(arriving, unit * out_plane + i, 16))
        dbias[unit] = dot(whole, ones)
    give(pool, lent)
    give(pool, lent_too)
    give(pool, lent_third)


@compiled
def images_at(rows: int, channels: int, address: int) -> int:
    """How many images pixels are, by sizes at an address; -1 for a mismatch."""
    sizes = carray(pointer(address), 13, int32)
    pixels = int64(sizes[_H]) * int64(sizes[_W])
    if channels != sizes[_C] or pixels <= 0 or rows % pixels != 0:
        return -1
    return rows // pixels


@compiled
def made_at(address: int) -> int:
    """Pixels of an output's image, by sizes at an address."""
    sizes = carray(pointer(address), 13, int32)
    return int64(sizes[_OH]) * int64(sizes[_OW])


@functools.cache
def forward_at_addresses(columns_type: str) -> typing.Callable:
    """`forward` on addresses, compiled.

    They are of `values, pointers, columns, bias, x, y, sizes`; then come
    `relu, room, outputs, batch, pool`.
    """
    column = getattr(numba, columns_type)

    def call(v, p, c, b, x, y, s, relu, room, outputs, batch, pool):
        sizes = carray(pointer(s), 13, int32).astype(np.int64)
        pixels = batch * sizes[_H] * sizes[_W]
        made = batch * sizes[_OH] * sizes[_OW]
        forward(
            carray(pointer(v), room, float32),
            carray(pointer(p), outputs + 1, int32),
            carray(pointer(c), room, column),
            carray(pointer(b), outputs, float32),
            carray(pointer(x), pixels * sizes[_C], float32),
            carray(pointer(y), made * outputs, float32),
            sizes,
            batch,
            relu,
            pool,
        )

    return compiled(call)


@functools.cache
def backward_at_addresses(columns_type: str) -> typing.Callable:
    """`backward` on addresses, compiled: its arrays in their order.

    Then come `room, outputs, batch, pool`.
    """
    column = getattr(numba, columns_type)

    def call(v, p, c, bi, u, x, dy, dx, dv, db, s, room, outputs, batch, pool):
        sizes = carray(pointer(s), 13, int32).astype(np.int64)
        pixels = batch * sizes[_H] * sizes[_W]
        made = batch * sizes[_OH] * sizes[_OW]
        inputs = sizes[_KH] * sizes[_KW] * sizes[_C]
        blocks = num_blocks(room, outputs)
        backward(
            carray(pointer(v), room, float32),
            carray(pointer(p), outputs + 1, int32),
            carray(pointer(c), room, column),
            carray(pointer(bi), blocks * inputs + 1, int32),
            carray(pointer(u), room, uint16),
            carray(pointer(x), pixels * sizes[_C], float32),
            carray(pointer(dy), made * outputs, float32),
            carray(pointer(dx), pixels * sizes[_C], float32),
            carray(pointer(dv), room, float32),
            carray(pointer(db), outputs, float32),
            sizes,
            batch,
            pool,
        )

    return compiled(call)
