"""Histograms of numbers whose range is not known beforehand.

A metric that ranks examples would have to keep them all. Kept instead is how
many fell into each cell of a grid that is as fine near zero as floats are:
every octave `[2^k, 2^(k + 1))` is cut into equal steps. Histograms can be
added, so they serve batches, replicas and epochs alike.
"""

import numpy as np
from keras import ops

from keras_freetickets.types import Tensor


class LogGrid:
    """Cells of equal relative width, in increasing order.

    Args:
        steps: Integer, cells of an octave: the relative width of a cell is at
            most `1 / steps`.
        lowest: Integer, numbers below `2**lowest` in magnitude share the cell
            of zero.
        highest: Integer, numbers from `2**highest` on share the last cell.
        signed: Whether there are cells for negative numbers.
    """

    def __init__(
        self, steps: int, lowest: int, highest: int, signed: bool
    ) -> None:
        self.steps = steps
        self.powers = 2.0 ** np.arange(lowest, highest + 1, dtype="float32")
        self.octaves = highest - lowest
        self.signed = signed
        self.half = self.octaves * steps
        self.size = self.half * (2 if signed else 1) + 1

    def place(self, values: Tensor) -> Tensor:
        """The cell of each number, int32. NaN goes anywhere."""
        largest = np.nextafter(self.powers[-1], np.float32(0))
        magnitude = ops.minimum(ops.abs(values), largest)
        powers = ops.convert_to_tensor(self.powers[:-1])
        octave = ops.searchsorted(powers, magnitude, side="right") - 1
        start = ops.take(powers, ops.maximum(octave, 0))
        # Division by a power of two is exact, so that a cell has its edges in
        # the same places on every backend.
        step = ops.floor((magnitude / start - 1.0) * self.steps)
        cell = octave * self.steps + ops.cast(step, "int32") + 1
        cell = ops.clip(ops.where(octave < 0, 0, cell), 0, self.half)
        if self.signed:
            cell = self.half + ops.where(values < 0, -cell, cell)
        return ops.cast(cell, "int32")


def histogram(grid: LogGrid, values: Tensor, weights: Tensor) -> Tensor:
    """Sum of the weights in each cell; all NaN if a value is."""
    weights = ops.where(ops.isnan(values), float("nan"), weights)
    return ops.segment_sum(weights, grid.place(values), num_segments=grid.size)


def doubt(confidence: Tensor) -> Tensor:
    """1 - confidence, 0 where the confidence was rounded above 1."""
    lacking = 1.0 - confidence
    # Written so that NaN stays NaN.
    return ops.where(lacking < 0, 0.0, lacking)


# Of 1 - confidence, which float32 resolves down to 2^-24 near 1.
DOUBT = LogGrid(1024, -24, 0, signed=False)
