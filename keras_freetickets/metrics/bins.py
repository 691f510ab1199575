"""Bins of confidence, as calibration errors sort examples into them."""

import numpy as np
from keras import ops

from keras_freetickets.arguments import check_choice
from keras_freetickets.arguments import check_count
from keras_freetickets.types import Tensor

_BINNINGS = ("equal_width", "equal_mass", "freetickets")


def check_bins(num_bins: int, binning: str) -> None:
    """Raises unless there are bins of this number and kind."""
    check_choice("binning", binning, _BINNINGS)
    check_count("num_bins", num_bins)
    if binning == "freetickets" and num_bins < 2:
        raise ValueError(
            "`num_bins` must be 2 or more for `binning='freetickets'`, which "
            f"makes one bin less. Received: num_bins={num_bins}"
        )


def inner_edges(num_bins: int, binning: str = "equal_width") -> np.ndarray:
    """Upper edges of all bins but the last: equal ones over [0, 1]."""
    if binning == "freetickets":
        num_bins = num_bins - 1
    return np.arange(1, num_bins, dtype="float32") / np.float32(num_bins)


def mass_edges(total: Tensor, num_bins: int) -> Tensor:
    """Ends of bins of equal mass, from 0 to the total."""
    steps = ops.arange(num_bins + 1, dtype="float32") / num_bins
    return total * steps


def interpolate(edges: Tensor, mass: Tensor, values: Tensor) -> Tensor:
    """The sum of `values` up to each edge of the accumulated mass.

    A cell that an edge cuts gives as much of its value as of its mass.
    """
    ends = ops.cumsum(mass)
    cell = ops.searchsorted(ends, edges, side="left")
    cell = ops.minimum(cell, mass.shape[0] - 1)
    inside = ops.take(mass, cell)
    part = edges - (ops.take(ends, cell) - inside)
    share = ops.clip(ops.divide_no_nan(part, inside), 0.0, 1.0)
    value = ops.take(values, cell)
    return ops.take(ops.cumsum(values), cell) - (1.0 - share) * value


def bin_sums(
    confidence: np.ndarray, hit: np.ndarray, num_bins: int, binning: str
) -> tuple[np.ndarray, ...]:
    """Count, summed confidence and summed hits of each bin."""
    if binning == "equal_mass":
        return _equal_mass_sums(confidence, hit, num_bins)
    edges = inner_edges(num_bins, binning)
    # Compared with the edges in float32, as the metric does.
    rounded = confidence.astype("float32")
    place = np.searchsorted(edges, rounded, side="left")
    counted = np.ones(len(confidence), bool)
    if binning == "freetickets":
        counted = rounded <= 1

    def total(values):
        values = np.asarray(values, "float64")[counted]
        return np.bincount(
            place[counted], weights=values, minlength=len(edges) + 1
        )

    return total(np.ones(len(place))), total(confidence), total(hit)


def _equal_mass_sums(confidence, hit, num_bins):
    # Equal confidences make one step, so that the order of examples does not
    # matter; the highest comes first, as in the metric.
    _, place, count = np.unique(
        -confidence, return_inverse=True, return_counts=True
    )
    ends = np.concatenate([[0], np.cumsum(count)])
    edges = len(confidence) * np.arange(num_bins + 1) / num_bins

    def total(values):
        steps = np.bincount(
            place, weights=np.asarray(values, "float64"), minlength=len(count)
        )
        accumulated = np.concatenate([[0], np.cumsum(steps)])
        return np.diff(np.interp(edges, ends, accumulated))

    # Lowest confidence first.
    sums = np.diff(edges), total(confidence), total(hit)
    return tuple(values[::-1] for values in sums)
