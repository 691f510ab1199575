"""Embeddings against the product of a kernel and one-hot rows.

TensorFlow hands over the gradient of a gather as slices of rows, some of them
several times; that of the product is the same, as a matrix.
"""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_freetickets as kft
from keras_freetickets import callbacks
from keras_freetickets import topology

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 12, size=(32, 6))
LABELS = RNG.integers(0, 3, size=32)
ONE_HOT = np.eye(12, dtype="float32")[TOKENS]
START = RNG.normal(size=(12, 4)).astype("float32")


def network(embeds, optimizer="sgd"):
    keras.utils.set_random_seed(0)
    first = {"kernels": "embeddings", "layer": layers.Embedding(12, 4)}
    shape = {"shape": (6,), "dtype": "int32"}
    if not embeds:
        first = {"kernels": "kernel", "layer": layers.Dense(4, use_bias=False)}
        shape = {"shape": (6, 12)}
    inputs = keras.Input(**shape)
    sparse = kft.layers.Sparse(
        first["layer"], kernels=(first["kernels"],), sparsity=0.5
    )
    x = layers.Flatten()(sparse(inputs))
    model = kft.SparseModel(inputs, layers.Dense(3)(x))
    (record,) = model.masked_kernels
    mask = np.resize([True, False], record.mask.shape)
    record.mask.assign(mask)
    record.kernel.assign(START * mask)
    model.layers[-1].kernel.assign(np.linspace(-1, 1, 72).reshape(24, 3))
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def data(embeds):
    return (TOKENS if embeds else ONE_HOT), LABELS


def batches(embeds):
    x, y = data(embeds)
    return [(x[i : i + 8], y[i : i + 8]) for i in range(0, 32, 8)]


def fit(model, embeds, *more):
    x, y = data(embeds)
    model.fit(
        x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=more
    )
    return model


def assert_alike(one, other):
    (ours,), (theirs,) = one.masked_kernels, other.masked_kernels
    np.testing.assert_array_equal(ours.mask, theirs.mask)
    assert np.asarray(ours.mask).sum() == 24
    np.testing.assert_allclose(ours.kernel, theirs.kernel, atol=1e-6)


METHODS = {
    "rigl": topology.RigL,
    "set": topology.SET,
    "snfs": lambda interval: topology.SNFS(
        update_interval=interval, redistribution=False
    ),
    "dst_ee": lambda interval: topology.DSTEE(update_interval=interval),
    "global": lambda interval: topology.RigL(interval, scope="global"),
}


def test_a_step():
    both = [fit(network(e), e, callbacks.RigL(2)) for e in (True, False)]
    assert_alike(*both)
    mask = np.asarray(both[0].masked_kernels[0].mask)
    assert (mask != np.resize([True, False], (12, 4))).any()


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_methods(name):
    both = [
        fit(network(e), e, callbacks.DropAndGrow(METHODS[name](3)))
        for e in (True, False)
    ]
    assert_alike(*both)
    (record,) = both[0].masked_kernels
    assert not np.asarray(record.kernel)[~np.asarray(record.mask)].any()
    assert (np.asarray(record.mask) != np.resize([True, False], (12, 4))).any()


@pytest.mark.slow
def test_agent():
    both = [
        fit(
            network(e),
            e,
            callbacks.AGENT(batches(e), scale=1.0, update_interval=3),
        )
        for e in (True, False)
    ]
    assert_alike(*both)


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.Adam(0.01),
        lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2),
        lambda: keras.optimizers.SGD(0.1, global_clipnorm=0.1, momentum=0.9),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)),
    ],
    ids=["adam", "accumulated", "clipped", "scaled"],
)
def test_optimizers(optimizer):
    both = [
        fit(network(e, optimizer()), e, callbacks.RigL(2))
        for e in (True, False)
    ]
    assert_alike(*both)


def test_gradients_at_other_values():
    found = []
    for embeds in (True, False):
        model = network(embeds)
        x, y = data(embeds)
        start = ops.convert_to_tensor(START)
        (gradient,) = model.gradients_at([start], x[:8], y[:8])
        found.append(ops.convert_to_numpy(gradient))
    np.testing.assert_allclose(*found, atol=1e-6)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="a loop of TensorFlow"
)
def test_loop_of_ones_own():
    import tensorflow as tf

    ended = []
    for embeds in (True, False):
        model = network(embeds)
        model.attach(topology.RigL(2))
        for x, y in batches(embeds):
            with tf.GradientTape() as tape:
                loss = model.compute_loss(x, y, model(x, training=True))
            gradients = tape.gradient(loss, model.trainable_variables)
            assert isinstance(gradients[0], tf.IndexedSlices) == embeds
            model.apply_gradients(gradients)
        ended.append(model)
    assert_alike(*ended)
