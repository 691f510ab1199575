"""A strategy with one replica, as on a machine with one device."""

import contextlib

import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="tf.distribute"
)


def trained(callback, scope):
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(64, 8)).astype("float32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with scope:
        dense = keras.Sequential(
            [
                keras.Input((8,)),
                layers.Dense(16, activation="relu"),
                layers.Dense(3),
            ]
        )
        model = kft.sparsify(dense, 0.5, seed=0)
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
    batches = {"batch_size": 16, "shuffle": False, "verbose": 0}
    model.fit(x, generator.integers(0, 3, 64), callbacks=[callback], **batches)
    return model


def test_it_trains_as_without_a_strategy():
    """RigL's skipped step and the update assign where replicas talk."""
    import tensorflow as tf

    def callback():
        return kft.callbacks.RigL(update_interval=2, seed=0)

    alone = trained(callback(), contextlib.nullcontext())
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    mirrored = trained(callback(), strategy.scope())
    count = int(alone.update_state.update_count.numpy())
    assert count > 0 and mirrored.update_state.update_count.numpy() == count
    for one, other in zip(
        alone.masked_kernels, mirrored.masked_kernels, strict=True
    ):
        np.testing.assert_array_equal(one.mask.numpy(), other.mask.numpy())
        np.testing.assert_allclose(
            one.kernel.numpy(), other.kernel.numpy(), atol=1e-6
        )
