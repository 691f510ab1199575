"""Layers of latents: divergences, noise, dropped modalities, the ramp."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_freetickets.multimodal import DropModalities
from keras_freetickets.multimodal import GaussianSample
from keras_freetickets.multimodal import KLDivergence
from keras_freetickets.multimodal import KLRamp
from keras_freetickets.multimodal import gaussian_divergence

RANDOM = np.random.default_rng(0)


def test_the_divergence_of_the_prior_is_zero():
    zeros = np.zeros((2, 3), "float32")
    assert not ops.convert_to_numpy(gaussian_divergence(zeros, zeros)).any()
    ones = zeros + 1
    found = gaussian_divergence(ones, zeros + 2 * np.log(0.5), ones, 0.5)
    np.testing.assert_allclose(ops.convert_to_numpy(found), 0, atol=1e-6)


@pytest.mark.parametrize("prior", [(0.0, 1.0), (0.7, 0.5)])
def test_the_divergence_is_that_of_samples(prior):
    mean = np.array([[0.5, -1.0, 2.0]], "float32")
    log_variance = np.array([[-1.0, 0.5, 0.0]], "float32")
    deviation = np.exp(log_variance / 2)
    x = mean + deviation * RANDOM.normal(size=(1_000_000, 3))

    def log_density(at, scale):
        return -np.log(scale) - 0.5 * ((x - at) / scale) ** 2

    expected = (log_density(mean, deviation) - log_density(*prior)).mean(0)
    found = gaussian_divergence(mean, log_variance, *prior)
    assert float(found[0]) == pytest.approx(expected.sum(), rel=0.01)


def test_samples_have_their_mean_and_deviation():
    mean = np.tile([[1.0, -2.0]], (20000, 1)).astype("float32")
    spread = np.tile([[0.0, -20.0]], (20000, 1)).astype("float32")
    found = ops.convert_to_numpy(GaussianSample(seed=1)([mean, spread]))
    np.testing.assert_allclose(found.mean(0), [1, -2], atol=0.03)
    # -20 is clipped to -8.
    np.testing.assert_allclose(found.std(0), [1, np.exp(-4)], rtol=0.03)
    still = GaussianSample(noise=0.0)([mean, spread])
    np.testing.assert_array_equal(ops.convert_to_numpy(still), mean)


def test_the_divergence_is_a_loss():
    layer = KLDivergence(beta=0.5)
    passed = np.full((4, 2), 7.0, "float32")
    found = layer([passed, np.ones((4, 3)), np.zeros((4, 3))])
    np.testing.assert_array_equal(ops.convert_to_numpy(found), passed)
    assert float(layer.losses[0]) == pytest.approx(0.5 * 1.5)
    copy = KLDivergence.from_config(layer.get_config())
    assert copy.initial_beta == 0.5


def test_dropped_modalities_leave_one():
    layer = DropModalities(0.6, seed=0)
    presence = np.ones((4000, 3), "float32")
    presence[:1000, 0] = 0
    kept = ops.convert_to_numpy(layer(presence, training=True))
    assert set(np.unique(kept)) == {0, 1} and (kept <= presence).all()
    assert kept.sum(axis=1).min() == 1
    # 0.4, or all three of 0.6^3.
    assert kept[1000:].mean() == pytest.approx(0.4 + 0.6**3, abs=0.03)
    same = layer(presence, training=False)
    np.testing.assert_array_equal(ops.convert_to_numpy(same), presence)


def test_the_ramp():
    inputs = keras.Input((2,))
    x = KLDivergence(beta=9.0)([inputs, inputs, inputs])
    model = keras.Model(inputs, x)
    model.compile("sgd", "mse")
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(
            float(model.layers[-1].beta.value)
        )
    )
    x = np.zeros((2, 2))
    model.fit(x, x, epochs=4, callbacks=[KLRamp(0.5, 2), watch], verbose=0)
    assert seen == [0.0, 0.25, 0.5, 0.5]
    plain = keras.Sequential([inputs, keras.layers.Dense(1)])
    plain.compile("sgd", "mse")
    with pytest.raises(ValueError, match="KLRamp needs"):
        plain.fit(x, x[:, :1], callbacks=[KLRamp()], verbose=0)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: GaussianSample(-1.0), "`noise` must be"),
        (lambda: KLDivergence(-1.0), "`beta` must be"),
        (lambda: KLDivergence(1.0, 0.0), "`prior_deviation` must be"),
        (lambda: DropModalities(1.0), "`rate` must be"),
        (lambda: KLRamp(0.1, 0), "`epochs` must be"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
