import numpy as np
import pytest

from keras_freetickets.datasets import distortions


@pytest.mark.parametrize("sigma", [0.25, 0.4, 1.7])
def test_gaussian_against_scipy(sigma):
    from scipy.ndimage import gaussian_filter

    x = np.random.default_rng(0).normal(size=(1, 28, 28, 1)).astype("float32")
    for mode, theirs in (("edge", "nearest"), ("symmetric", "reflect")):
        matrix = distortions._gaussian_matrix(28, sigma, mode, truncate=3)
        expected = gaussian_filter(
            x[0, :, :, 0], sigma, mode=theirs, truncate=3
        )
        found = distortions._apply(matrix, x)[0, :, :, 0]
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("size, factor", [(28, 1.13), (32, 1.2), (32, 2.25)])
def test_zoom_against_scipy(size, factor):
    from scipy.ndimage import zoom

    x = np.random.default_rng(0).normal(size=(1, size, size, 1))
    crop = int(np.ceil(size / factor))
    top = (size - crop) // 2
    large = zoom(x[0, top : top + crop, top : top + crop, 0], factor, order=1)
    trim = (len(large) - size) // 2
    expected = large[trim : trim + size, trim : trim + size]
    matrix = distortions._zoom_matrix(size, factor)
    found = distortions._apply(matrix, x)[0, :, :, 0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["reflect", "symmetric"])
def test_sampling_against_scipy(mode):
    from scipy.ndimage import map_coordinates

    generator = np.random.default_rng(0)
    x = generator.normal(size=(1, 16, 16, 1))
    rows, columns = generator.uniform(-6, 22, (2, 1, 16, 16))
    theirs = {"reflect": "mirror", "symmetric": "reflect"}[mode]
    expected = map_coordinates(
        x[0, :, :, 0], [rows[0], columns[0]], order=1, mode=theirs
    )
    found = distortions._sample(x, rows, columns, mode)[0, :, :, 0]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_no_jitter_moves_nothing():
    x = np.random.default_rng(0).uniform(size=(2, 32, 32, 3))
    np.testing.assert_allclose(
        distortions._affine(x, np.zeros((2, 3, 2))), x, atol=1e-9
    )
    # All three points a pixel to the right: so is the image.
    jitter = np.tile([1.0, 0.0], (2, 3, 1))
    moved = distortions._affine(x, jitter)
    np.testing.assert_allclose(moved[:, :, 1:], x[:, :, :-1], atol=1e-9)
