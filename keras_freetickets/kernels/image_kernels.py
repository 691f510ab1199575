"""Compiled layers on the planes of one image. Importing this imports numba.

Planes lie as `image_layout` says. An active weight is a number times a strip of
a plane, moved by the weight's place within the kernel; the sums of a strip stay
in registers over all weights of an output channel. What lies in gaps between
rows is computed too, and written as zero.
"""

import functools
from collections.abc import Callable

from keras_freetickets.kernels.compiled import compiled
from keras_freetickets.kernels.strips import WIDTH
from keras_freetickets.kernels.strips import add_loaded
from keras_freetickets.kernels.strips import add_product
from keras_freetickets.kernels.strips import filled_strip
from keras_freetickets.kernels.strips import kept_strip
from keras_freetickets.kernels.strips import load_every
from keras_freetickets.kernels.strips import most_loaded
from keras_freetickets.kernels.strips import rectified_strip
from keras_freetickets.kernels.strips import scaled_strip
from keras_freetickets.kernels.strips import store_strip
from keras_freetickets.kernels.strips import times_loaded
from keras_freetickets.kernels.vectors import add
from keras_freetickets.kernels.vectors import dot
from keras_freetickets.kernels.vectors import filled
from keras_freetickets.kernels.vectors import load
from keras_freetickets.kernels.vectors import numba
from keras_freetickets.kernels.vectors import store
from keras_freetickets.types import Array

float32 = numba.float32
int64 = numba.int64
uint64 = numba.uint64


@compiled
def pack_image(
    x: Array,
    factor: Array,
    offset: Array,
    height: int,
    width: int,
    lead: int,
    columns: int,
    plane: int,
    planes: Array,
) -> None:
    """An image `(height, width, channels)`, scaled, to planes."""
    channels = len(factor)
    for r in range(height):
        for q in range(width):
            at = (r * width + q) * channels
            to = lead + r * columns + q
            for c in range(channels):
                pixel = x[uint64(at + c)] * factor[c] + offset[c]
                planes[uint64(to + c * plane)] = pixel


@compiled
def _fill(planes: Array, begin: int, end: int, value: float) -> None:
    for i in range(begin, end):
        planes[uint64(i)] = value


@compiled
def split(
    x: Array,
    source: Array,
    window: Array,
    target: Array,
    fill: float,
    phases: Array,
) -> None:
    """Planes to phases.

    Whole vectors are copied, from left to right and row by row: what one
    writes too much, the next row or plane writes again.

    Args:
        x: Flat float32 array of planes.
        source: int64 array: channels, height, width, lead, columns, plane.
        window: int64 array: strides, zeros above and on the left.
        target: int64 array: phases of rows and of columns, rows, width,
            columns, plane.
        fill: What stands beyond the image.
        phases: Flat float32 array, which it fills.
    """
    channels, height, width = source[0], source[1], source[2]
    lead, columns, plane = source[3], source[4], source[5]
    down, right, top, left = window[0], window[1], window[2], window[3]
    row_phases, column_phases, rows = target[0], target[1], target[2]
    wide, out_columns, out_plane = target[3], target[4], target[5]
    to = 0
    for a in range(row_phases):
        for b in range(column_phases):
            # Columns c of which `c * right + b - left` is within the image.
            begin = min(wide, max(0, (left - b + right - 1) // right))
            end = max(begin, min(wide, (width - 1 + left - b) // right + 1))
            for c in range(channels):
                for r in range(rows):
                    row = to + r * out_columns
                    from_row = r * down + a - top
                    if from_row < 0 or from_row >= height:
                        _fill(phases, row, row + wide, fill)
                        continue
                    at = lead + c * plane + from_row * columns
                    at += begin * right + b - left
                    for q in range(0, end - begin, WIDTH):
                        there = row + begin + q
                        if right == 1:
                            store(phases, there, load_every(x, at + q, 1))
                        elif right == 2:
                            store(phases, there, load_every(x, at + 2 * q, 2))
                        else:
                            for i in range(min(WIDTH, end - begin - q)):
                                pixel = x[uint64(at + right * (q + i))]
                                phases[uint64(there + i)] = pixel
                    _fill(phases, row, row + begin, fill)
                    _fill(phases, row + end, row + wide, fill)
                to += out_plane


@functools.cache
def convolution(count: int) -> Callable[..., None]:
    """A convolution, compiled for strips of `count` vectors.

    Args of what it returns:
        values: float32 array `(active,)`.
        offsets: int32 array `(active,)`, where a weight reads for the first
            pixel.
        pointers: int32 or int64 array `(outputs + 1,)`.
        units: float32 array `(3, outputs)`: bias, factor, offset.
        grid: int64 array of the output's lead, plane, strips.
        flags: Boolean array: whether `residual` is added, the sum rectified,
            `y` written, and then factor and offset applied, that rectified,
            and written to `scaled`.
        pixels: int32 array as `Grid.pixels`.
        x: Flat float32 array of planes or phases.
        residual: Flat float32 array of planes.
        y: Likewise.
        scaled: Likewise.
    """

    def convolve(
        values: Array,
        offsets: Array,
        pointers: Array,
        units: Array,
        grid: Array,
        flags: Array,
        pixels: Array,
        x: Array,
        residual: Array,
        y: Array,
        scaled: Array,
    ) -> None:
        lead, plane, strips = grid[0], grid[1], grid[2]
        adds, rectifies, keeps = flags[0], flags[1], flags[2]
        scales, rectifies_scaled = flags[3], flags[4]
        for strip in range(strips):
            at = strip * WIDTH * count
            for unit in range(units.shape[1]):
                total = filled_strip(units[0, unit], count)
                for i in range(pointers[unit], pointers[unit + 1]):
                    k = uint64(i)
                    place = at + int64(offsets[k])
                    total = add_product(total, values[k], x, place)
                to = unit * plane + lead + at
                if adds:
                    total = add_loaded(total, residual, to)
                if rectifies:
                    total = rectified_strip(total)
                if keeps:
                    store_strip(y, to, kept_strip(total, pixels, at))
                if scales:
                    factor, offset = units[1, unit], units[2, unit]
                    total = scaled_strip(total, factor, offset)
                    if rectifies_scaled:
                        total = rectified_strip(total)
                    store_strip(scaled, to, kept_strip(total, pixels, at))

    return compiled(convolve)


@functools.cache
def pooling(count: int, is_max: bool) -> Callable[..., None]:
    """Pooling of phases, compiled for strips of `count` vectors.

    Args of what it returns:
        offsets: int64 array, where each pixel of a window lies in the first
            plane.
        grid: int64 array of the output's channels, lead, plane, strips, and
            of the phases' plane.
        shares: float32 array of a plane's size: 1 / pixels of a window.
        pixels: int32 array as `Grid.pixels`.
        x: Flat float32 array of phases.
        y: Flat float32 array of planes.
    """

    def pool(
        offsets: Array,
        grid: Array,
        shares: Array,
        pixels: Array,
        x: Array,
        y: Array,
    ) -> None:
        channels, lead, plane = grid[0], grid[1], grid[2]
        strips, from_plane = grid[3], grid[4]
        for channel in range(channels):
            for strip in range(strips):
                at = strip * WIDTH * count
                source = channel * from_plane + at
                if is_max:
                    total = filled_strip(float32(-float("inf")), count)
                    for i in range(len(offsets)):
                        total = most_loaded(total, x, source + offsets[i])
                else:
                    total = filled_strip(float32(0.0), count)
                    for i in range(len(offsets)):
                        total = add_loaded(total, x, source + offsets[i])
                    total = times_loaded(total, shares, at)
                to = channel * plane + lead + at
                store_strip(y, to, kept_strip(total, pixels, at))

    return compiled(pool)


@compiled
def average_planes(
    x: Array, lead: int, plane: int, covered: int, pixels: int, y: Array
) -> None:
    """The mean of each plane's pixels, as its gaps are zero."""
    ones = filled(float32(1.0), WIDTH)
    for channel in range(len(y)):
        total = filled(float32(0.0), WIDTH)
        for i in range(0, covered, WIDTH):
            total = add(total, load(x, channel * plane + lead + i, WIDTH))
        y[channel] = dot(total, ones) / float32(pixels)
