import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_freetickets as kft
from keras_freetickets.topology import SET
from keras_freetickets.topology import Method

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="about TensorFlow's step"
)


def network():
    dense = keras.Sequential(
        [keras.Input((10,)), layers.Dense(20), layers.Dense(3)]
    )
    model = kft.sparsify(dense, 0.7, "uniform", seed=2)
    model.compile("sgd", "mse")
    return model


def data():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(8, 10)).astype("float32")
    return tf.constant(x), tf.ones((8, 3))


def test_the_update_does_not_touch_the_host():
    """No operation of the traced step calls back into Python."""
    model = network()
    model.attach(Method(update_interval=1))
    model.optimizer.build(model.trainable_variables)
    step = tf.function(lambda x, y: model.train_step((x, y)))
    graph = step.get_concrete_function(*data()).graph.as_graph_def()
    nodes = list(graph.node)
    nodes += [n for f in graph.library.function for n in f.node_def]
    kinds = {node.op for node in nodes}
    assert "If" in kinds or "StatelessIf" in kinds
    assert not {k for k in kinds if "PyFunc" in k or "Print" in k}
    assert not {k for k in kinds if k in ("TopKV2", "Sort", "ArgSort")}


def test_own_loop():
    model = network()
    model.attach(SET(update_interval=1))

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x, y, model(x, training=True))
        model.apply_gradients(tape.gradient(loss, model.trainable_variables))

    before = [record.mask.numpy() for record in model.connections]
    step(*data())
    for old, record in zip(before, model.connections):
        mask = record.mask.numpy()
        assert (old != mask).any() and mask.sum() == old.sum()
        assert not record.kernel.numpy()[~mask].any()
