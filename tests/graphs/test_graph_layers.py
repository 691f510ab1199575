"""Graph convolution against matrices, in training, masks and files."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_freetickets as kft
from keras_freetickets.graphs import GraphConvolution
from keras_freetickets.graphs import graph_network
from keras_freetickets.graphs import undirected

RANDOM = np.random.default_rng(0)
GRAPH = undirected(RANDOM.integers(0, 20, (40, 2)), 20, drop_self_loops=True)
X = RANDOM.normal(size=(2, 20, 5)).astype("float32")


def test_it_is_the_product_of_matrices():
    layer = GraphConvolution(3, GRAPH, activation="relu")
    found = ops.convert_to_numpy(layer(X))
    matrix = GRAPH.propagate(np.eye(20))
    layer.bias.assign([0.5, -0.5, 0.0])
    kernel, bias = map(ops.convert_to_numpy, layer.weights)
    expected = np.maximum(matrix @ X @ kernel + bias, 0)
    found = ops.convert_to_numpy(layer(X))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert layer.compute_output_shape(X.shape) == found.shape


@pytest.mark.parametrize("shape", [(20, 5), (2, 19, 5), (None, None, 5)])
def test_wrong_inputs_are_named(shape):
    with pytest.raises(ValueError, match=r"\(batch, 20, features\)"):
        GraphConvolution(3, GRAPH).build(shape)


def test_wrong_arguments_are_named():
    with pytest.raises(TypeError, match="`graph` must be"):
        GraphConvolution(3, GRAPH.edges)
    with pytest.raises(ValueError, match="`units` must be a positive"):
        GraphConvolution(0, GRAPH)
    with pytest.raises(TypeError, match="`graph` must be"):
        graph_network(None, 5)
    with pytest.raises(ValueError, match="`dropout` must be"):
        graph_network(GRAPH, 5, dropout=1.0)


def test_save_and_load(tmp_path):
    model = graph_network(GRAPH, 5, l2=0.01)
    model.save(tmp_path / "graph.keras")
    copy = keras.saving.load_model(tmp_path / "graph.keras")
    expected = model.predict(X, verbose=0)
    np.testing.assert_allclose(copy.predict(X, verbose=0), expected, atol=1e-6)


def test_masks_are_on_the_feature_transforms_alone(tmp_path):
    y = RANDOM.integers(0, 2, (2, 20))
    tickets = []
    for seed in range(2):
        keras.utils.set_random_seed(seed)
        model = kft.sparsify(graph_network(GRAPH, 5), 0.5, seed=seed)
        shapes = [one.kernel.shape for one in model.masked_kernels]
        assert [tuple(s) for s in shapes] == [(5, 16), (16, 2)]
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss)
        weights = np.ones((2, 20), "float32")
        model.fit(
            X,
            y,
            sample_weight=weights,
            epochs=3,
            callbacks=[kft.callbacks.RigL(update_interval=1)],
            verbose=0,
        )
        for one in model.masked_kernels:
            mask = ops.convert_to_numpy(one.mask.value)
            kernel = ops.convert_to_numpy(one.kernel.value)
            assert (kernel[~mask] == 0).all() and not mask.all()
        tickets.append(model)
    ensemble = kft.EnsembleModel(tickets)
    pooled = np.mean(
        [
            ops.convert_to_numpy(ops.softmax(one.predict(X, verbose=0)))
            for one in tickets
        ],
        axis=0,
    )
    found = ensemble.predict(X, verbose=0)
    np.testing.assert_allclose(found, pooled, atol=1e-5)


def test_gradients_are_those_of_the_matrix():
    matrix = GRAPH.propagate(np.eye(20))
    layer = GraphConvolution(3, GRAPH, use_bias=False)
    dense = keras.layers.Dense(3, use_bias=False)
    models = []
    for x, last in ((X[0], layer), (matrix @ X[0], dense)):
        inputs = keras.Input(x.shape)
        model = keras.Model(inputs, last(inputs))
        model.compile(keras.optimizers.SGD(0.1), "mse")
        models.append((model, x[None]))
    dense.kernel.assign(ops.convert_to_numpy(layer.kernel))
    y = RANDOM.normal(size=(1, 20, 3)).astype("float32")
    for model, x in models:
        model.fit(x, y, epochs=5, verbose=0)
    np.testing.assert_allclose(
        ops.convert_to_numpy(layer.kernel.value),
        ops.convert_to_numpy(dense.kernel.value),
        atol=1e-5,
    )
