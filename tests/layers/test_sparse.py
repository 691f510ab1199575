import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft
from keras_freetickets.layers import Sparse
from keras_freetickets.layers.sparse import find_kernels


@keras.saving.register_keras_serializable(package="tests")
class Gated(layers.Layer):
    """A user's own layer, with two weights to mask and one not."""

    sparse_kernels = ("w_in", "w_out")

    def build(self, input_shape):
        width = input_shape[-1]
        self.w_in = self.add_weight(shape=(width, 12), name="w_in")
        self.w_out = self.add_weight(shape=(12, width), name="w_out")
        self.scale = self.add_weight(shape=(width, width), name="scale")

    def call(self, inputs):
        hidden = keras.ops.relu(inputs @ self.w_in) @ self.w_out
        return hidden * keras.ops.sum(self.scale)


# Name -> (input shape, layer factory, number of masked kernels).
LAYERS = {
    "dense": ((6,), lambda: layers.Dense(5), 1),
    "dense_in_time": ((4, 6), lambda: layers.Dense(5), 1),
    "conv1d": ((8, 3), lambda: layers.Conv1D(4, 3), 1),
    "conv2d": ((6, 6, 3), lambda: layers.Conv2D(4, 3), 1),
    "conv3d": ((4, 4, 4, 2), lambda: layers.Conv3D(3, 2), 1),
    "conv2d_transpose": ((4, 4, 3), lambda: layers.Conv2DTranspose(4, 3), 1),
    "separable": ((6, 6, 3), lambda: layers.SeparableConv2D(8, 3), 1),
    "einsum": (
        (4, 6),
        lambda: layers.EinsumDense("abc,cd->abd", (4, 5), bias_axes="d"),
        1,
    ),
    "lstm": ((4, 6), lambda: layers.LSTM(5), 2),
    "gru": ((4, 6), lambda: layers.GRU(5), 2),
    "bidirectional": ((4, 6), lambda: layers.Bidirectional(layers.LSTM(3)), 4),
    "time_distributed": (
        (4, 6),
        lambda: layers.TimeDistributed(layers.Dense(5)),
        1,
    ),
    "own_layer": ((6,), Gated, 2),
}
ATTENTION = {
    "multi_head": (lambda: layers.MultiHeadAttention(2, 4), 4),
    "group_query": (lambda: layers.GroupQueryAttention(4, 4, 2), 4),
}


def dense_model(name):
    shape, factory, _ = LAYERS[name]
    inputs = keras.Input(shape)
    outputs = layers.Dense(3, name="head")(layers.Flatten()(factory()(inputs)))
    return keras.Model(inputs, outputs)


def attention_model(name, keyword):
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(20, 8, mask_zero=True)(inputs)
    layer = ATTENTION[name][0]()
    y = layer(query=x, value=x) if keyword else layer(x, x)
    outputs = layers.Dense(3, name="head")(layers.Flatten()(y))
    return keras.Model(inputs, outputs)


def check_round_trip(dense, x, tmp_path, masked):
    """Sparsity 0 is the dense model; 0.8 trains, saves, loads, strips."""
    same = kft.sparsify(dense, 0.0)
    expected = dense.predict(x, verbose=0)
    np.testing.assert_allclose(same.predict(x, verbose=0), expected, atol=1e-6)

    model = kft.sparsify(dense, 0.8, "uniform", seed=1)
    assert len(model.connections) == masked + 1
    model.compile("adam", "mse")
    model.fit(
        x,
        np.ones((len(x), 3)),
        batch_size=4,
        verbose=0,
        callbacks=[kft.callbacks.SET(update_interval=1)],
    )
    check_promises(model)
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    expected = model.predict(x, verbose=0)
    check_promises(loaded)
    for mine, other in zip(model.connections, loaded.connections):
        np.testing.assert_array_equal(mine.mask.numpy(), other.mask.numpy())
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)
    plain = kft.strip(loaded)
    assert not any(isinstance(layer, Sparse) for layer in plain.layers)
    assert [tuple(w.shape) for w in plain.weights] == [
        tuple(w.shape) for w in dense.weights
    ]
    np.testing.assert_allclose(plain.predict(x, verbose=0), expected, atol=1e-6)


def check_promises(model):
    for record in model.connections:
        mask = record.mask.numpy()
        assert mask.sum() == record.active == max(1, round(0.2 * mask.size))
        assert not record.kernel.numpy()[~mask].any()


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_layer(name, tmp_path):
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(8, *LAYERS[name][0]))
    check_round_trip(dense_model(name), x, tmp_path, LAYERS[name][2])


@pytest.mark.parametrize("keyword", [False, True])
@pytest.mark.parametrize("name", sorted(ATTENTION))
def test_attention(name, keyword, tmp_path):
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).integers(0, 20, size=(8, 5))
    dense = attention_model(name, keyword)
    check_round_trip(dense, x, tmp_path, ATTENTION[name][1])


def test_biases_norms_embeddings_and_depthwise_kernels_are_left_alone():
    for layer, shape in [
        (layers.BatchNormalization(), (None, 4)),
        (layers.LayerNormalization(), (None, 4)),
        (layers.Embedding(10, 4), (None, 4)),
        (layers.DepthwiseConv2D(3), (None, 6, 6, 4)),
    ]:
        layer.build(shape)
        assert find_kernels(layer) == []
    attention = layers.MultiHeadAttention(2, 4)
    attention.build((None, 3, 8), (None, 3, 8))
    assert {place.role for place in find_kernels(attention)} == {"kernel"}
    separable = layers.SeparableConv2D(8, 3)
    separable.build((None, 6, 6, 4))
    assert [p.role for p in find_kernels(separable)] == ["pointwise_kernel"]


def test_asked_for_by_name():
    layer = Sparse(
        layers.Embedding(10, 4), sparsity=0.5, kernels=["embeddings"], seed=0
    )
    layer(np.array([[1, 2]]))
    assert layer.connections[0].mask.numpy().sum() == 20


def test_one_sparsity_for_each_kernel():
    layer = Sparse(layers.LSTM(4), sparsity=[0.5, 0.75])
    layer(np.zeros((1, 2, 4), "float32"))
    counts = [record.mask.numpy().sum() for record in layer.connections]
    assert counts == [32, 16]
    with pytest.raises(ValueError, match="one value for each kernel"):
        Sparse(layers.Dense(4), sparsity=[0.5, 0.75])(np.zeros((1, 2)))


def test_magnitude_mask():
    dense = layers.Dense(2)
    dense.build((None, 3))
    dense.kernel.assign([[1.0, -6.0], [3.0, 2.0], [-5.0, 4.0]])
    layer = Sparse(dense, sparsity=0.5, mask_initializer="magnitude")
    layer.build((None, 3))
    np.testing.assert_array_equal(
        dense.kernel.numpy(), [[0, -6], [0, 0], [-5, 4]]
    )


def test_random_mask_follows_its_seed():
    masks = []
    for seed in (1, 1, 2):
        layer = Sparse(layers.Dense(20), sparsity=0.5, seed=seed)
        layer.build((None, 20))
        masks.append(layer.connections[0].mask.numpy())
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[0] != masks[2]).any()


def test_config_round_trip():
    layer = Sparse(layers.Dense(3), 0.5, ("kernel",), "magnitude", seed=7)
    layer.add_state("visits", "int32")
    again = Sparse.from_config(layer.get_config())
    assert again.name == layer.name
    assert again.get_config() == layer.get_config()


def test_state_is_saved(tmp_path):
    model = kft.SparseModel(*_two_tensors())
    layer = model.sparse_layers[0]
    layer.add_state("visits", "int32")
    layer.connections[0].state["visits"].assign(np.arange(6).reshape(3, 2))
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    visits = loaded.connections[0].state["visits"].numpy()
    np.testing.assert_array_equal(visits, np.arange(6).reshape(3, 2))


def _two_tensors():
    inputs = keras.Input((3,))
    return inputs, Sparse(layers.Dense(2), 0.5)(inputs)


@pytest.mark.parametrize("sparsity", [1.0, -0.1, [0.5, 1.2]])
def test_sparsity_out_of_range(sparsity):
    with pytest.raises(ValueError, match=r"`sparsity` must be in \[0, 1\)"):
        Sparse(layers.Dense(3), sparsity=sparsity)


def test_nothing_to_mask():
    with pytest.raises(ValueError, match="has no weight to mask"):
        Sparse(layers.ReLU(), sparsity=0.5)(np.zeros((1, 2)))


def test_unknown_initializer():
    with pytest.raises(ValueError, match="`mask_initializer` must be"):
        Sparse(layers.Dense(3), mask_initializer="best")


def test_mixed_precision():
    layer = Sparse(layers.Dense(4, dtype="mixed_float16"), 0.5)
    outputs = layer(np.ones((2, 4), "float32"))
    record = layer.connections[0]
    assert (outputs.dtype, record.mask.dtype) == ("float16", "bool")
    assert record.kernel.dtype == "float32"
