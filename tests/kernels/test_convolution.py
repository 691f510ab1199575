"""Compiled convolutions on NumPy arrays: any number of threads, same bits.

Values against Keras' and sums in float64: `tests/layers/`.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from keras_freetickets import kernels
from keras_freetickets.kernels import convolution
from keras_freetickets.kernels import threads
from keras_freetickets.kernels.geometry import Geometry
from tests.helpers.kernel_threads import shared_out


def output_and_gradients(batch, shape, kernel, strides, padding, units, seed):
    """Of random images and weights, half of which are active."""
    geometry = Geometry.of(shape, kernel, strides, padding)
    rng = np.random.default_rng(seed)
    mask = rng.random((kernel[0] * kernel[1] * shape[-1], units)) < 0.5
    weights = rng.standard_normal(mask.shape).astype("float32") * mask
    values, structure = kernels.compress(weights, mask)
    bias = rng.standard_normal(units).astype("float32")
    x = rng.standard_normal((batch, *shape)).astype("float32").reshape(-1)
    made = (batch, geometry.out_height, geometry.out_width, units)
    dy = rng.standard_normal(made).astype("float32").reshape(-1)
    y, dx, dvalues, dbias = map(np.empty_like, (dy, x, values, bias))
    sizes = np.array(geometry.numbers(), "int64")
    ends = (
        np.uint64(convolution.pool_of_process()),
        np.uint64(threads.address()),
    )
    convolution.forward(
        *(values, *structure.positions[:2], bias, x, y, sizes, batch, True),
        *ends,
    )
    convolution.backward(
        *(values, *structure.positions, x, dy, dx, dvalues, dbias),
        *(sizes, batch, *ends),
    )
    return y, dx, dvalues, dbias


@given(
    st.tuples(
        st.integers(1, 5),
        st.tuples(st.integers(4, 9), st.integers(4, 20), st.integers(1, 20)),
        st.tuples(st.integers(1, 4), st.integers(1, 4)),
        st.tuples(st.integers(1, 2), st.integers(1, 2)),
        st.sampled_from(["same", "valid"]),
        st.integers(1, 40),
        st.integers(0, 99),
    )
)
@settings(max_examples=40, deadline=None)
def test_bits_are_those_of_one_thread(case):
    found = []
    for count in (1, 2, 3):
        with shared_out(count):
            found.append(output_and_gradients(*case))
    for several in found[1:]:
        for one, other in zip(found[0], several, strict=True):
            np.testing.assert_array_equal(one, other)
