import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_freetickets.topology import distributions

MLP = [(784, 300), (300, 100), (100, 10)]
CNN = [(3, 3, 3, 16), (3, 3, 16, 32), (3, 3, 32, 64), (64, 10)]


@pytest.mark.parametrize(
    "shapes, density, expected",
    [
        (MLP, 0.1, [0.079568, 0.230189, 1.0]),
        (MLP, 0.2, [0.162241, 0.469362, 1.0]),
        (MLP, 0.05, [0.038484, 0.111334, 0.918507]),
        (CNN, 0.2, [1.0, 0.281731, 0.133040, 1.0]),
        (CNN, 0.1, [0.566298, 0.114675, 0.054152, 1.0]),
        (CNN, 0.5, [1.0, 0.825120, 0.389640, 1.0]),
    ],
)
def test_erk_golden_vectors(shapes, density, expected):
    densities = distributions.erdos_renyi_kernel(shapes, 1.0 - density)
    np.testing.assert_allclose(densities, expected, atol=1e-6)


def test_erdos_renyi_ignores_the_window_of_a_convolution():
    # raw = (3 + 16) / 48 and (16 + 32) / 512; sizes 432 and 4608.
    # budget 0.3 * 5040 = 1512; scale = 1512 / (171 + 432) = 2.507463.
    densities = distributions.erdos_renyi(CNN[:2], sparsity=0.7)
    np.testing.assert_allclose(
        densities, [2.507463 * 19 / 48, 2.507463 * 48 / 512], atol=1e-6
    )


def test_uniform_and_given_densities():
    assert distributions.uniform(MLP, 0.75) == [0.25] * 3
    pinned = distributions.uniform(MLP, 0.75, custom={1: 0.5})
    assert pinned == [0.25, 0.5, 0.25]


def test_given_densities_are_not_counted():
    free = distributions.erdos_renyi_kernel([MLP[0], MLP[2]], 0.9)
    pinned = distributions.erdos_renyi_kernel(MLP, 0.9, custom={1: 0.5})
    assert pinned == [free[0], 0.5, free[1]]


@given(
    shapes=st.lists(
        st.lists(st.integers(1, 40), min_size=2, max_size=4).map(tuple),
        min_size=1,
        max_size=6,
    ),
    sparsity=st.floats(0.0, 0.99),
)
def test_densities_conserve_the_budget(shapes, sparsity):
    densities = distributions.erdos_renyi_kernel(shapes, sparsity)
    sizes = [math.prod(shape) for shape in shapes]
    kept = sum(d * n for d, n in zip(densities, sizes))
    assert all(0.0 < d <= 1.0 + 1e-9 for d in densities)
    np.testing.assert_allclose(kept, (1 - sparsity) * sum(sizes), rtol=1e-6)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 2.0])
def test_sparsity_out_of_range(sparsity):
    with pytest.raises(ValueError, match=r"`sparsity` must be in \[0, 1\)"):
        distributions.uniform(MLP, sparsity)


def test_unknown_name():
    with pytest.raises(ValueError, match="`distribution` must be one of"):
        distributions.get("erq")


@pytest.mark.parametrize(
    "size, density, expected",
    [(100, 0.1, 10), (10, 0.001, 1), (1, 0.5, 1), (7, 1.0, 7), (0, 0.5, 0)],
)
def test_active_count(size, density, expected):
    assert distributions.active_count(size, density) == expected
