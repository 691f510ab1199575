"""Sampling, intervals, and the parts of the variance."""

import keras
import numpy as np
import pytest

from keras_freetickets import multimodal

RANDOM = np.random.default_rng(0)


def sampler(mean, deviation, seed=0):
    """A model that returns normal numbers, whatever its input is."""
    inputs = keras.Input((2,))
    dense = keras.layers.Dense(2, kernel_initializer="zeros")
    outputs = multimodal.GaussianSample(seed=seed)(
        [
            dense(inputs),
            keras.layers.Dense(
                2,
                kernel_initializer="zeros",
                bias_initializer=keras.initializers.Constant(
                    2 * np.log(deviation)
                ),
            )(inputs),
        ]
    )
    model = keras.Model(inputs, outputs)
    dense.bias.assign(mean)
    return model


X = np.zeros((3, 2), "float32")


def test_variance_splits_into_its_parts():
    tickets = [sampler([1.0, 0.0], 0.5), sampler([3.0, 0.0], 0.5, seed=1)]
    found = multimodal.predict_images(
        tickets, [X], residual=0.04, num_samples=4000
    )
    np.testing.assert_allclose(found.mean, [[2, 0]] * 3, atol=0.05)
    np.testing.assert_allclose(found.within, 0.25, rtol=0.1)
    np.testing.assert_allclose(found.between, [[1, 0]] * 3, atol=0.06)
    expected = found.within + found.between + 0.04
    np.testing.assert_array_equal(found.variance, expected)
    # The second pixel is normal: +-1.96 deviations.
    half = 1.96 * np.sqrt(0.25 + 0.04)
    np.testing.assert_allclose(found.upper[:, 1], half, atol=0.1)
    np.testing.assert_allclose(found.lower[:, 1], -half, atol=0.1)
    alone = multimodal.predict_images(tickets[0], [X], num_samples=3)
    assert not alone.between.any()


def test_samples_differ_and_have_their_shape():
    found = multimodal.sample_images(sampler([0.0, 0.0], 1.0), [X], 7)
    assert found.shape == (7, 3, 2)
    assert len(np.unique(found)) == found.size


def test_the_residual_is_of_held_out_data():
    y = np.array([[1.0, 2.0], [-1.0, 2.0], [1.0, -2.0]])
    model = sampler([0.0, 0.0], 0.02)
    found = multimodal.residual_variance(model, [X], y, 20)
    assert found == pytest.approx(2.5, abs=0.05)
    pixels = multimodal.residual_variance([model], [X], y, 20, of_pixels=True)
    np.testing.assert_allclose(pixels, [1, 4], atol=0.05)


def test_modalities_of_different_subjects_are_refused():
    with pytest.raises(ValueError, match=r"same subjects.*\[3, 2\] subjects"):
        multimodal.check_subjects([np.zeros(3), np.zeros(2)])
    with pytest.raises(ValueError, match="row 1 is subject 'b' in modality 0"):
        multimodal.check_subjects([X, X], [["a", "b", "c"], ["a", "c", "b"]])
    with pytest.raises(ValueError, match="one entry for each subject"):
        multimodal.check_subjects([X, X], [["a"], ["a"]])
    with pytest.raises(ValueError, match="same subjects"):
        multimodal.sample_images(sampler([0.0, 0.0], 1.0), [X, X[:2]])


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"residual": -1.0}, "`residual` must be"),
        ({"residual": np.ones(5)}, r"shape of an outcome.*of shape \(5,\)"),
        ({"coverage": 1.0}, "`coverage` must be"),
        ({"num_samples": 0}, "`num_samples` must be"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        multimodal.predict_images(sampler([0.0, 0.0], 1.0), [X], **settings)
    with pytest.raises(ValueError, match="a list of tickets"):
        multimodal.predict_images([], [X])


def test_pixels_are_standardized_by_training():
    images = RANDOM.normal(2.0, 3.0, size=(50, 4, 4, 1))
    images[:, 0, 0] = 7.0
    scaler = multimodal.PixelScaler(images)
    found = scaler(images)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(found[:, 1:].std(axis=0), 1, atol=1e-5)
    assert not found[:, 0, 0].any()
    np.testing.assert_allclose(scaler.back(found), images, atol=1e-4)
    with pytest.raises(ValueError, match="at least 2 training images"):
        multimodal.PixelScaler(images[:1])
    images[3, 1, 1] = np.nan
    with pytest.raises(ValueError, match="50 images, 1 pixels not finite"):
        multimodal.PixelScaler(images)


def test_the_toy_needs_both_modalities():
    """Its factors, by linear regression: F1 is in the first image alone."""
    data = multimodal.toy_modalities(300, noise=0.0)
    flat = [one.reshape(300, -1) for one in [*data.images, data.outcome]]
    ranks = [np.linalg.matrix_rank(one, tol=1e-2) for one in flat]
    assert ranks == [4, 4, 4]
    noisy = multimodal.toy_modalities(300)
    noise = noisy.outcome.std() ** 2 - data.outcome.std() ** 2
    assert noise == pytest.approx(0.0225, rel=0.5)
    part = noisy.part(slice(0, 10))
    assert part.outcome.shape == (10, 16, 16, 1) and len(part.images) == 2


def test_halves_make_the_turned_image():
    images = RANDOM.uniform(size=(3, 6, 6, 1))
    data = multimodal.halves(images, blur=0.0)
    joined = np.concatenate(data.images, axis=2)
    np.testing.assert_allclose(joined, images, atol=1e-6)
    np.testing.assert_allclose(
        data.outcome, np.rot90(images, axes=(1, 2)), atol=1e-6
    )
    flat = multimodal.halves(np.ones((1, 8, 8, 1)), blur=1.5)
    np.testing.assert_allclose(flat.outcome, 1, atol=1e-5)
    with pytest.raises(ValueError, match="size even"):
        multimodal.halves(np.zeros((2, 5, 5, 1)))
