import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import ops

from keras_freetickets.metrics.grid import DOUBT
from keras_freetickets.metrics.grid import LogGrid
from keras_freetickets.metrics.grid import histogram

GRID = LogGrid(steps=4, lowest=-2, highest=2, signed=True)
FLOATS = st.floats(-5, 5, width=32)


def _place(grid, values):
    values = ops.convert_to_tensor(np.array(values, "float32"))
    return ops.convert_to_numpy(grid.place(values)).tolist()


def test_by_hand():
    # Octaves [1/4, 1/2), [1/2, 1), [1, 2), [2, 4), four cells each; 16 + 1 is
    # the first above zero.
    assert GRID.size == 33
    assert _place(GRID, [0, 0.2, -0.2]) == [16, 16, 16]
    assert _place(GRID, [0.25, 0.3, 0.3125, 0.49]) == [17, 17, 18, 20]
    assert _place(GRID, [0.5, 1.0, 2.0, 3.9]) == [21, 25, 29, 32]
    assert _place(GRID, [4.0, 1e30, np.inf]) == [32, 32, 32]
    assert _place(GRID, [-0.25, -3.9, -np.inf]) == [15, 0, 0]


def test_doubt_tells_apart_what_float32_does():
    confidence = np.array([1, 1 - 2.0**-24, 1 - 2.0**-23, 0.5, 0.0], "float32")
    cells = _place(DOUBT, np.float32(1) - confidence)
    assert cells[0] == 0 and cells[1] == 1
    assert cells == sorted(set(cells))
    assert cells[-1] == DOUBT.size - 1


@settings(max_examples=50, deadline=None)
@given(FLOATS, FLOATS)
def test_order_is_kept(a, b):
    low, high = _place(GRID, sorted([a, b]))
    assert low <= high


@settings(max_examples=50, deadline=None)
@given(st.floats(0.25, 3.0, width=32))
def test_a_cell_is_at_most_a_quarter_of_its_numbers(value):
    here, there = _place(GRID, [value, 1.2501 * value])
    assert there > here


def test_histogram_adds_weights():
    values = ops.convert_to_tensor(np.array([0.3, 0.3, -1], "float32"))
    weights = ops.convert_to_tensor(np.array([2, 3, 4], "float32"))
    cells = ops.convert_to_numpy(histogram(GRID, values, weights))
    assert cells[17] == 5 and cells[7] == 4 and cells.sum() == 9


def test_nan_is_not_hidden():
    values = ops.convert_to_tensor(np.array([0.3, np.nan], "float32"))
    cells = histogram(GRID, values, ops.ones_like(values))
    assert np.isnan(ops.convert_to_numpy(cells).sum())


@pytest.mark.parametrize("kind", ["float16", "float32"])
def test_edges_are_exact(kind):
    """Each power of two begins its octave."""
    powers = 2.0 ** np.arange(-2, 2)
    assert _place(GRID, powers.astype(kind)) == [17, 21, 25, 29]
