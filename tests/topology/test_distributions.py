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


def wide_resnet_shapes(depth=28, width=10, classes=10):
    """Kernels of a WRN in the order of the paper's table, written down anew.

    Height, width, input channels, output channels.
    """
    shapes, channels = [(3, 3, 3, 16)], 16
    for stage in (16, 32, 64):
        wide = stage * width
        for block in range((depth - 4) // 6):
            if block == 0:
                shapes.append((1, 1, channels, wide))
            shapes += [(3, 3, channels, wide), (3, 3, wide, wide)]
            channels = wide
    return [*shapes, (channels, classes)]


WIDE = {  # shape -> density, at the densities 0.2 and 0.1 of all weights
    (3, 3, 3, 16): (1, 1),
    (3, 3, 16, 160): (1, 1),
    (1, 1, 16, 160): (1, 1),
    (1, 1, 160, 320): (1, 1),
    (1, 1, 320, 640): (1, 0.9184),
    (640, 10): (1, 1),
    (3, 3, 160, 160): (0.5742, None),
    (3, 3, 160, 320): (0.4280, None),
    (3, 3, 320, 320): (0.2845, None),
    (3, 3, 320, 640): (0.2127, None),
    (3, 3, 640, 640): (0.1416, 0.0682),
}
# eps of the reference's solver, which the densities below 1 are a multiple of.
EPSILON = {0.2: 405.830015, 0.1: 195.526411}


@pytest.mark.parametrize("column, density", [(0, 0.2), (1, 0.1)])
def test_erk_of_wrn_28_10(column, density):
    shapes = wide_resnet_shapes()
    sizes = [math.prod(shape) for shape in shapes]
    assert sum(sizes) == 36_461_232
    assert set(shapes) == set(WIDE)
    densities = distributions.erdos_renyi_kernel(shapes, 1.0 - density)
    scale = EPSILON[density]
    for shape, found in zip(shapes, densities, strict=True):
        expected = min(1.0, scale * sum(shape) / math.prod(shape))
        assert found == pytest.approx(expected, abs=1e-8), shape
        if WIDE[shape][column] is not None:  # as the sheet rounds them
            assert found == pytest.approx(WIDE[shape][column], abs=5e-5), shape
    kept = sum(d * n for d, n in zip(densities, sizes, strict=True))
    assert kept == pytest.approx(density * sum(sizes), rel=1e-9)


def test_integer_counts_of_wrn_28_10():
    """ERK at density 0.2: the counts add up to the budget, but for halves."""
    shapes = wide_resnet_shapes()
    densities = distributions.erdos_renyi_kernel(shapes, 0.8)
    counts = {
        shape: distributions.active_count(math.prod(shape), density)
        for shape, density in zip(shapes, densities, strict=True)
    }
    # eps * (3 + 3 + in + out), rounded: 405.830015 * 326 = 132,300.58.
    assert counts == {
        (3, 3, 3, 16): 432,
        (3, 3, 16, 160): 23_040,
        (1, 1, 16, 160): 2_560,
        (1, 1, 160, 320): 51_200,
        (1, 1, 320, 640): 204_800,
        (640, 10): 6_400,
        (3, 3, 160, 160): 132_301,
        (3, 3, 160, 320): 197_233,
        (3, 3, 320, 320): 262_166,
        (3, 3, 320, 640): 392_032,
        (3, 3, 640, 640): 521_897,
    }
    total = sum(counts[shape] for shape in shapes)
    assert abs(total - 0.2 * 36_461_232) <= len(shapes) / 2


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
    kept = sum(d * n for d, n in zip(densities, sizes, strict=True))
    assert all(0.0 < d <= 1.0 + 1e-9 for d in densities)
    np.testing.assert_allclose(kept, (1 - sparsity) * sum(sizes), rtol=1e-6)
    # Rounded, each kernel is off by half a weight, or has the one it must.
    counts = [
        distributions.active_count(n, d)
        for n, d in zip(sizes, densities, strict=True)
    ]
    for count, size, density in zip(counts, sizes, densities, strict=True):
        assert 1 <= count <= size
        assert count == 1 or abs(count - density * size) <= 0.5 + 1e-6


RULES = [
    distributions.uniform,
    distributions.erdos_renyi,
    distributions.erdos_renyi_kernel,
]


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 2.0, math.nan, "0.8", None])
@pytest.mark.parametrize("rule", RULES)
def test_sparsity_out_of_range(rule, sparsity):
    with pytest.raises(ValueError, match=r"`sparsity` must be in \[0, 1\)"):
        rule(MLP, sparsity)


@pytest.mark.parametrize("shapes", [[()], [5], [(0, 3)], [(2, 0.5)], ["ab"]])
@pytest.mark.parametrize("rule", RULES)
def test_bad_shapes(rule, shapes):
    with pytest.raises(ValueError, match="`shapes` must be a list of"):
        rule(shapes, 0.5)


@pytest.mark.parametrize(
    "custom", [{3: 0.5}, {"fc": 0.5}, {0: 0.0}, {0: 1.5}, {0: "x"}]
)
@pytest.mark.parametrize("rule", RULES)
def test_bad_given_densities(rule, custom):
    with pytest.raises(ValueError, match="`custom` must map positions"):
        rule(MLP, 0.5, custom=custom)


@pytest.mark.parametrize("name", ["erq", 5, ["erk"]])
def test_unknown_name(name):
    with pytest.raises(ValueError, match="`distribution` must be one of"):
        distributions.get(name)


@pytest.mark.parametrize(
    "size, density", [(-1, 0.5), (10, -0.1), (10, 1.1), (10, math.nan)]
)
def test_active_count_out_of_range(size, density):
    with pytest.raises(ValueError, match=r"`density` must be in \[0, 1\]"):
        distributions.active_count(size, density)


@pytest.mark.parametrize(
    "size, density, expected",
    [(100, 0.1, 10), (10, 0.001, 1), (1, 0.5, 1), (7, 1.0, 7), (0, 0.5, 0)],
)
def test_active_count(size, density, expected):
    assert distributions.active_count(size, density) == expected
