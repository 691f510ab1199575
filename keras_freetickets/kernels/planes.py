"""Planes of pixels, which convolutions compute on. Importing imports numba.

Images lie in planes, one for each channel, with zeros around each image, one
image after the other. Then all pixels of a batch are one vector, and an active
weight is a number times such a vector, moved by the place of the weight within
the kernel: a row of zeros or a gap between two images is computed too, and is
not read. An image's left zeros are the right ones of the row before.

With strides, planes of every other row and column lie apart, so that a moved
vector is still one.
"""

import numpy as np

from keras_freetickets.kernels.compiled import compiled
from keras_freetickets.kernels.vectors import numba
from keras_freetickets.kernels.vectors import transpose_16
from keras_freetickets.types import Array

float32 = numba.float32
# Pixels of a tile, whose sums stay in registers.
LANES = 128
# Places of sizes in `Geometry.numbers`.
H, W, C, KH, KW, SH, SW, TOP, LEFT, OH, OW, ROWS, COLUMNS = range(13)


@compiled
def plane_floats(batch: int, sizes: Array, output: bool) -> int:
    """Floats of one plane: of whole tiles, and what a moved one reads."""
    pixels = batch * sizes[ROWS] * sizes[COLUMNS]
    whole = (pixels + LANES - 1) // LANES * LANES
    if output:
        return whole + 16
    down = (sizes[KH] - 1) // sizes[SH] * sizes[COLUMNS]
    right = (sizes[KW] - 1) // sizes[SW]
    return (whole + down + right + 15) // 16 * 16 + 16


@compiled
def offsets_of(sizes: Array, plane: int) -> Array:
    """Where the plane of each input of the kernel begins, moved."""
    kernel_h, kernel_w = sizes[KH], sizes[KW]
    channels = sizes[C]
    offsets = np.empty(kernel_h * kernel_w * channels, np.int64)
    at = 0
    for i in range(kernel_h):
        for j in range(kernel_w):
            phase = i % sizes[SH] * sizes[SW] + j % sizes[SW]
            moved = i // sizes[SH] * sizes[COLUMNS] + j // sizes[SW]
            for c in range(channels):
                offsets[at] = (phase * channels + c) * plane + moved
                at += 1
    return offsets


@compiled
def _copied(
    x: Array,
    planes: Array,
    packs: bool,
    images: tuple,
    sizes: Array,
    plane: int,
) -> None:
    """Copies images to planes, or planes to images; `images` as for `clear`."""
    height, width, channels = sizes[H], sizes[W], sizes[C]
    down, right = sizes[SH], sizes[SW]
    columns = sizes[COLUMNS]
    whole = width // 16 * 16 if right == 1 else 0
    whole_channels = channels // 16 * 16
    for n in range(images[0], images[1]):
        for r in range(height):
            row = r + sizes[TOP]
            phase = row % down * right
            start = (n * sizes[ROWS] + row // down) * columns
            source = (n * height + r) * width * channels
            for q in range(0, whole, 16):
                to = phase * channels * plane + start + q + sizes[LEFT]
                for c in range(0, whole_channels, 16):
                    at = source + q * channels + c
                    there = to + c * plane
                    if packs:
                        transpose_16(x, at, channels, planes, there, plane)
                    else:
                        transpose_16(planes, there, plane, x, at, channels)
            for q in range(width):
                column = q + sizes[LEFT]
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
def clear(planes: Array, images: tuple, sizes: Array, plane: int) -> None:
    """Zeros in the planes of some images, with what lies behind the last.

    Args:
        planes: Flat float32 array.
        images: Tuple of the first image, the one after the last, and all.
        sizes: int64 array of `Geometry.numbers`.
        plane: Integer, from one plane to the next.
    """
    first, stop, batch = images
    pixels = sizes[ROWS] * sizes[COLUMNS]
    end = plane if stop == batch else stop * pixels
    for at in range(0, sizes[SH] * sizes[SW] * sizes[C] * plane, plane):
        planes[at + first * pixels : at + end] = float32(0.0)


@compiled
def pack_images(
    x: Array, images: tuple, sizes: Array, plane: int, planes: Array
) -> None:
    """Images `(batch, height, width, channels)` to planes, with zeros."""
    clear(planes, images, sizes, plane)
    _copied(x, planes, True, images, sizes, plane)


@compiled
def unpack_images(
    planes: Array, images: tuple, sizes: Array, plane: int, x: Array
) -> None:
    """The opposite of `pack_images`."""
    _copied(x, planes, False, images, sizes, plane)


@compiled
def output_sizes(sizes: Array, units: int) -> Array:
    """Sizes of the output's planes: those of the input, without zeros."""
    made = sizes.copy()
    made[H], made[W], made[C] = sizes[OH], sizes[OW], units
    made[SH] = made[SW] = 1
    made[TOP] = made[LEFT] = 0
    return made
