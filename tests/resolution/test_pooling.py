"""Pooled kernels and halved images, by hand and by finite differences."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_freetickets.resolution import downsample
from keras_freetickets.resolution import pool_kernel
from keras_freetickets.resolution import pooled_size
from keras_freetickets.trainers import get_backend


def pooled(kernel, gain="average"):
    kernel = np.asarray(kernel, "float32")
    if kernel.ndim == 2:
        kernel = kernel[..., None, None]
    return ops.convert_to_numpy(pool_kernel(kernel, gain))


def gradient(function, value):
    _, (found,) = get_backend().value_and_gradients(
        lambda values: function(values[0]), [ops.convert_to_tensor(value)]
    )
    return ops.convert_to_numpy(found)


@pytest.mark.parametrize("size, left", [(1, 1), (3, 2), (5, 3)])
def test_ones_stay_ones(size, left):
    found = pooled(np.ones((size, size)))
    assert pooled_size(size) == left
    np.testing.assert_array_equal(found, np.ones((left, left, 1, 1)))


def test_windows_by_hand():
    three = np.arange(9.0).reshape(3, 3)
    np.testing.assert_allclose(pooled(three)[..., 0, 0], [[2, 3], [5, 6]])
    five = np.arange(25.0).reshape(5, 5)
    np.testing.assert_allclose(
        pooled(five)[..., 0, 0], [[6, 7, 8], [11, 12, 13], [16, 17, 18]]
    )
    # A zero in front: the first windows hold it, and one tap of the seven.
    seven = np.ones((7, 7))
    one_axis = np.array([0.5, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(
        pooled(seven)[..., 0, 0], np.outer(one_axis, one_axis)
    )
    np.testing.assert_allclose(pooled(np.ones((1, 3)))[..., 0, 0], [[1, 1]])
    np.testing.assert_allclose(
        pooled([[1.0, 3.0, 5.0, 9.0]])[..., 0, 0], [[2.0, 7.0]]
    )


@pytest.mark.parametrize("size", [2, 3, 4, 5, 7])
def test_gains(size):
    kernel = np.random.default_rng(0).normal(0, 0.1, (size, size, 3, 4))
    mean, area, exact = (
        pooled(kernel, gain) for gain in ("average", "area", "exact")
    )
    ratio = size**2 / pooled_size(size) ** 2
    np.testing.assert_allclose(area, mean * ratio, rtol=1e-6)
    sums = kernel.sum((0, 1))
    np.testing.assert_allclose(exact.sum((0, 1)), sums, atol=1e-6)
    np.testing.assert_allclose(
        exact - mean,
        np.broadcast_to((exact - mean)[:1, :1], mean.shape),
        atol=1e-6,
    )


def test_a_single_tap_is_left_alone():
    kernel = np.random.default_rng(0).normal(size=(1, 1, 3, 4))
    for gain in ("average", "area", "exact"):
        np.testing.assert_array_equal(
            pooled(kernel, gain), kernel.astype("float32")
        )


def test_one_reduced_tap_reaches_four_taps():
    one = np.zeros((2, 2, 1, 1), "float32")
    one[0, 0] = 1.0
    found = gradient(
        lambda k: ops.sum(pool_kernel(k, "average") * one),
        np.zeros((3, 3, 1, 1), "float32"),
    )
    expected = [[0.25, 0.25, 0], [0.25, 0.25, 0], [0, 0, 0]]
    np.testing.assert_array_equal(found[..., 0, 0], expected)
    # All reduced taps: corner, edge and centre as 1 to 2 to 4.
    found = gradient(
        lambda k: ops.sum(pool_kernel(k, "average")),
        np.zeros((3, 3, 1, 1), "float32"),
    )
    expected = [[0.25, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 0.25]]
    np.testing.assert_array_equal(found[..., 0, 0], expected)


@pytest.mark.parametrize("gain", ["average", "area", "exact"])
@pytest.mark.parametrize("size", [3, 5, 7])
def test_gradients_by_finite_differences(gain, size):
    generator = np.random.default_rng(0)
    kernel = generator.normal(size=(size, size, 2, 2)).astype("float32")
    left = pooled_size(size)
    weights = generator.normal(size=(left, left, 2, 2)).astype("float32")

    def loss(k):
        return ops.sum(weights * ops.square(pool_kernel(k, gain)))

    found = gradient(loss, kernel)
    for place in [(0, 0, 0, 0), (1, 1, 1, 0), (size - 1, 1, 0, 1)]:
        step = np.zeros_like(kernel)
        step[place] = 1e-2
        up, down = (float(loss(kernel + sign * step)) for sign in (1, -1))
        expected = (up - down) / 2e-2
        assert found[place] == pytest.approx(expected, rel=2e-3, abs=2e-3)


def test_images_are_halved():
    images = np.arange(16.0, dtype="float32").reshape(1, 4, 4, 1)
    found = ops.convert_to_numpy(downsample(images))
    np.testing.assert_allclose(found[0, ..., 0], [[2.5, 4.5], [10.5, 12.5]])
    odd = ops.convert_to_numpy(downsample(np.ones((2, 5, 7, 3), "float32")))
    np.testing.assert_array_equal(odd, np.ones((2, 3, 4, 3)))
    pixels = downsample(np.full((1, 2, 2, 1), 255, "uint8"))
    assert float(ops.max(pixels)) == 255.0
    assert keras.backend.standardize_dtype(pixels.dtype) == "float32"


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"`gain` must be one of .*gain='two'"):
        pool_kernel(np.ones((3, 3, 1, 1)), "two")
    with pytest.raises(ValueError, match=r"`kernel` must be .*\(3, 3\)"):
        pool_kernel(np.ones((3, 3)))
    with pytest.raises(ValueError, match=r"`images` must be one .*\(8, 8\)"):
        downsample(np.ones((8, 8)))
    with pytest.raises(ValueError, match=r"`images` must be one .*list"):
        downsample([np.ones((1, 8, 8, 1))])
