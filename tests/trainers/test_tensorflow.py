import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_freetickets as kft
from keras_freetickets import keras_adapter
from keras_freetickets.topology import Method
from keras_freetickets.trainers import tensorflow as backend

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


def traced_step(model):
    """The graph of a step of a model that Keras does not compile."""
    model.attach(kft.topology.RigL(update_interval=1))
    model.optimizer.build(model.trainable_variables)
    assert not model.jit_compile
    step = tf.function(lambda x, y: model.train_step((x, y)))
    return step.get_concrete_function(*data()).graph.as_graph_def()


def compiled_functions(graph):
    functions = graph.library.function
    return [f for f in functions if f.attr["_XlaMustCompile"].b]


def nodes_of(function, graph):
    """Operations of a function and of those that it calls."""
    named = {f.signature.name: f for f in graph.library.function}
    found = list(function.node_def)
    for node in found:
        if node.op in ("PartitionedCall", "StatefulPartitionedCall"):
            found += named[node.attr["f"].func.name].node_def
    return found


@pytest.fixture(scope="module")
def graph():
    return traced_step(network())


def test_shared_programs_read_no_variables():
    """A later model uses them when the variables of the first are gone."""
    model = network()
    callback = kft.callbacks.SET(update_interval=1)
    model.fit(*data(), verbose=0, callbacks=[callback])
    programs = [program for _, program in backend._PROGRAMS._kept]
    traced = [
        one
        for program in programs
        for one in program._list_all_concrete_functions()
    ]
    assert traced
    for one in traced:
        kinds = {tensor.dtype for tensor in one.inputs}
        assert tf.resource not in kinds and not one.variables


def test_the_update_does_not_touch_the_host(graph):
    """No operation of the traced step calls back into Python."""
    nodes = list(graph.node)
    nodes += [n for f in graph.library.function for n in f.node_def]
    kinds = {node.op for node in nodes}
    # The loop of at most one trip around the update; those of the selection
    # are in a function of their own.
    assert [n.op for n in graph.node].count("While") == 1
    assert not {k for k in kinds if "PyFunc" in k or "Print" in k}
    assert not {k for k in kinds if k in ("TopKV2", "Sort", "ArgSort")}


def test_the_update_alone_is_compiled_in_a_step_that_is_not(graph):
    """On CPUs Keras compiles no step, and we do not make it (it may be slow).

    The update is one XLA program all the same.
    """
    compiled = compiled_functions(graph)
    assert compiled
    kinds = {node.op for f in compiled for node in nodes_of(f, graph)}
    # It holds the search for the k best, but none of the layers' products.
    assert kinds & {"While", "StatelessWhile"} and "MatMul" not in kinds
    assert "MatMul" in {node.op for node in graph.node}


def test_kernels_that_keep_a_mask_beside_compressed_ones():
    """XLA would take 130 MB to compile the update of a small kernel."""
    dense = keras.Sequential(
        [keras.Input((10,)), layers.Dense(300), layers.Dense(3)]
    )
    model = kft.sparsify(dense, 0.9, storage="compressed", seed=2)
    model.compile("sgd", "mse")
    assert [one.compressed for one in model.masked_kernels] == [True, False]
    assert not compiled_functions(traced_step(model))


def test_slots_exist_before_the_first_step_is_traced():
    """Keras would build the optimizer while it traces, too late for masks."""
    model = network()
    model.compile(keras.optimizers.Adam(0.01), "mse")
    assert not model.optimizer.built
    model.fit(*data(), epochs=3, verbose=0)
    kernels = [record.kernel for record in model.masked_kernels]
    found = keras_adapter.optimizer_slots(model.optimizer, kernels)
    for record, slots in zip(model.masked_kernels, found, strict=True):
        mask = record.mask.numpy()
        assert len(slots) == 2
        for slot, _ in slots:
            assert slot.numpy()[mask].any() and not slot.numpy()[~mask].any()


def test_growth_in_attention_follows_the_gradient_of_each_kernel():
    """Two ways to walk its sublayers differ in order; the wrong one shows."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 8))
    x = layers.MultiHeadAttention(2, 4)(inputs, inputs)
    dense = keras.Model(inputs, layers.Dense(1)(x))
    model = kft.sparsify(dense, 0.6, "uniform", seed=1)
    model.compile(keras.optimizers.SGD(0.0), "mse")  # kernels stay
    generator = np.random.default_rng(0)
    x = generator.normal(size=(4, 5, 8)).astype("float32")
    y = generator.normal(size=(4, 5, 1)).astype("float32")
    kernels = [record.kernel for record in model.masked_kernels]
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
    gradients = tape.gradient(loss, [kernel.value for kernel in kernels])
    before = [record.mask.numpy() for record in model.masked_kernels]
    values = [kernel.numpy() for kernel in kernels]
    model.attach(Method(update_interval=1, drop_fraction=0.5))
    model.train_on_batch(x, y)
    assert len(kernels) == 5
    for record, mask, value, gradient in zip(
        model.masked_kernels, before, values, gradients, strict=True
    ):
        k = int(np.ceil(0.5 * mask.sum()))
        expected = mask.copy().ravel()
        size = np.where(mask, np.abs(value), np.inf).ravel()
        expected[np.argsort(size)[:k]] = False
        score = np.where(expected, -1, np.abs(gradient.numpy()).ravel())
        expected[np.argsort(-score)[:k]] = True
        np.testing.assert_array_equal(record.mask.numpy().ravel(), expected)


def test_own_loop():
    model = network()
    model.attach(Method(update_interval=1, drop_fraction=0.5))

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x, y, model(x, training=True))
        model.apply_gradients(tape.gradient(loss, model.trainable_variables))

    before = [record.mask.numpy() for record in model.masked_kernels]
    step(*data())
    for old, record in zip(before, model.masked_kernels, strict=True):
        mask = record.mask.numpy()
        assert (old != mask).any() and mask.sum() == old.sum()
        assert not record.kernel.numpy()[~mask].any()
