import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft


def network(frozen=False):
    inputs = keras.Input((4,))
    x = layers.Dense(6)(inputs)
    x = layers.BatchNormalization(name="first", trainable=not frozen)(x)
    x = layers.Dropout(0.5)(layers.Activation("relu")(x))
    return keras.Model(inputs, layers.Dense(2)(x))


def test_means_and_variances_of_the_data():
    model = network()
    x = np.random.default_rng(0).normal(3, 2, size=(96, 4)).astype("float32")
    before = [np.array(w) for w in model.trainable_weights]
    assert kft.reestimate_batch_normalization(model, x, batch_size=32) == 1
    hidden = x @ before[0] + before[1]
    norm = model.get_layer("first")
    np.testing.assert_allclose(
        np.asarray(norm.moving_mean), hidden.mean(axis=0), rtol=1e-4
    )
    # The mean over batches of the variances within them.
    within = hidden.reshape(3, 32, 6).var(axis=1).mean(axis=0)
    np.testing.assert_allclose(
        np.asarray(norm.moving_variance), within, rtol=1e-4
    )
    assert norm.momentum == 0.99
    for old, weight in zip(before, model.trainable_weights, strict=True):
        np.testing.assert_array_equal(old, np.asarray(weight))


def test_batches_count_by_their_size():
    model = network()
    x = np.random.default_rng(0).normal(size=(50, 4)).astype("float32")
    x[40:] += 5
    kft.reestimate_batch_normalization(model, [x[:40], (x[40:], None)])
    hidden = x @ np.asarray(model.layers[1].kernel)
    norm = model.get_layer("first")
    np.testing.assert_allclose(
        np.asarray(norm.moving_mean), hidden.mean(axis=0), rtol=1e-4, atol=1e-5
    )


def test_frozen_layers_and_none():
    model = network(frozen=True)
    x = np.ones((4, 4), "float32")
    assert kft.reestimate_batch_normalization(model, x) == 0
    assert not np.asarray(model.get_layer("first").moving_mean).any()


def test_no_data():
    with pytest.raises(ValueError, match="`data` must have a batch"):
        kft.reestimate_batch_normalization(network(), [])
