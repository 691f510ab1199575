"""Where pixels of one image lie in planes, the same from layer to layer.

All planes of one height and width share a `Grid`: zeros between rows that
suffice for every layer which reads them, so that a convolution reads what the
one before it wrote, moved by the place of a weight within its kernel.

A convolution with strides, or whose output is smaller than its input, reads
`Phases` instead: copies of every `stride`-th pixel on the grid of its output.
"""

import dataclasses
import functools

import numpy as np

from keras_freetickets.kernels.geometry import Geometry

_WIDTH = 16  # pixels of a vector


def _padded(size: int) -> int:
    return -(-size // _WIDTH) * _WIDTH


def _odd_lines(floats: int) -> int:
    """Planes at a distance of a power of two would share lines of a cache."""
    return floats if floats // _WIDTH % 2 else floats + _WIDTH


@dataclasses.dataclass(frozen=True)
class Grid:
    """Planes of a height and width.

    Attributes:
        height: Integer, rows of pixels.
        width: Integer, pixels of a row.
        gap: Integer, zeros after each row.
        reach: Integer, how far before its first and after its last pixel a
            plane is read.
        longest: Integer, vectors of a strip at most.
    """

    height: int
    width: int
    gap: int
    reach: int
    longest: int

    @property
    def columns(self) -> int:
        """From one row to the next."""
        return self.width + self.gap

    @property
    def lead(self) -> int:
        """Zeros before the first pixel of a plane, whole vectors."""
        return _padded(self.reach)

    @functools.cached_property
    def strips(self) -> tuple[int, int]:
        """How many strips cover a plane, and of how many vectors each."""
        count = _padded(self.height * self.columns) // _WIDTH
        strips = -(-count // self.longest)
        return strips, -(-count // strips)

    @property
    def covered(self) -> int:
        """Floats that all strips write."""
        return self.strips[0] * self.strips[1] * _WIDTH

    @property
    def plane(self) -> int:
        """From one plane to the next."""
        return _odd_lines(self.lead + self.covered)

    def floats(self, channels: int) -> int:
        """Floats of some planes, and what is read behind the last."""
        return channels * self.plane + self.lead + 4 * _WIDTH

    def pixels(self) -> np.ndarray:
        """int32 array `(covered,)`: -1 where a pixel is, 0 in gaps."""
        place = np.arange(self.covered)
        row, column = np.divmod(place, self.columns)
        inside = (row < self.height) & (column < self.width)
        return np.where(inside, -1, 0).astype("int32")

    def view(self, planes: np.ndarray, channels: int) -> np.ndarray:
        """The pixels `(channels, height, width)` of flat planes."""
        inner = planes[self.lead :]
        return np.lib.stride_tricks.as_strided(
            inner,
            (channels, self.height, self.width),
            (4 * self.plane, 4 * self.columns, 4),
        )


@dataclasses.dataclass(frozen=True)
class Phases:
    """Copies of an image's pixels on the grid of a window's output.

    Phase `(a, b)` holds the pixels of rows `a`, `a + stride` ... and of columns
    likewise, counted from the zeros before the image.

    Attributes:
        geometry: `Geometry` of the window.
        grid: `Grid` of its output.
    """

    geometry: Geometry
    grid: Grid

    @property
    def count(self) -> tuple[int, int]:
        """Phases of rows and columns that the window reads."""
        down, right = zip(
            self.geometry.kernel, self.geometry.strides, strict=True
        )
        return min(down), min(right)

    @property
    def rows(self) -> int:
        """Rows of a phase."""
        kernel, stride = self.geometry.kernel[0], self.geometry.strides[0]
        return self.geometry.out_height + (kernel - 1) // stride

    @property
    def width(self) -> int:
        """Pixels of a row of a phase."""
        kernel, stride = self.geometry.kernel[1], self.geometry.strides[1]
        return self.geometry.out_width + (kernel - 1) // stride

    @property
    def plane(self) -> int:
        """From one plane to the next."""
        down, right = self._moved(*(k - 1 for k in self.geometry.kernel))
        return _odd_lines(
            _padded(self.grid.covered + down * self.grid.columns + right)
        )

    def floats(self) -> int:
        """Floats of all planes, and what is written behind the last."""
        down, right = self.count
        planes = down * right * self.geometry.channels
        return planes * self.plane + 4 * _WIDTH

    def _moved(self, i, j):
        down, right = self.geometry.strides
        return i // down, j // right

    def offsets(self, kernel: tuple[int, int]) -> np.ndarray:
        """Where the plane of each input of a kernel begins, moved.

        Args:
            kernel: Pair of integers, at most the window's.
        """
        down, right = self.geometry.strides
        channels = np.arange(self.geometry.channels)
        found = []
        for i, j in np.ndindex(*kernel):
            phase = i % down * self.count[1] + j % right
            rows, columns = self._moved(i, j)
            planes = (phase * self.geometry.channels + channels) * self.plane
            found.append(planes + rows * self.grid.columns + columns)
        return np.concatenate(found)


def keeps_size(geometry: Geometry) -> bool:
    """Whether a window's output has a pixel for each of its input."""
    return geometry.strides == (1, 1) and (
        (geometry.height, geometry.width)
        == (geometry.out_height, geometry.out_width)
    )


def direct_offsets(geometry: Geometry, grid: Grid) -> np.ndarray:
    """Where the plane of each input begins, moved, on a grid."""
    planes = np.arange(geometry.channels) * grid.plane + grid.lead
    return np.concatenate(
        [
            planes + (i - geometry.top) * grid.columns + j - geometry.left
            for i, j in np.ndindex(*geometry.kernel)
        ]
    )


def grid_needs(geometry: Geometry, directly: bool) -> tuple[int, int, int]:
    """What a window asks of the grid of its output.

    Args:
        geometry: `Geometry`.
        directly: Whether it reads its input on this grid, not phases.

    Returns:
        Tuple of the gap between rows, and of how many rows and columns before
        and behind a plane are read.
    """
    height, width = geometry.kernel
    if directly:
        down = max(geometry.top, height - 1 - geometry.top)
        right = max(geometry.left, width - 1 - geometry.left)
        return right, down, right
    return (width - 1) // geometry.strides[1], 0, 0
