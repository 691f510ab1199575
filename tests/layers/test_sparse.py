import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft
from keras_freetickets.layers import Sparse
from keras_freetickets.layers.kernels import find_kernels
from keras_freetickets.topology.mask_initializers import random_mask


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


def test_depthwise_is_what_a_convolution_does():
    for layer, shape, masked in [
        (layers.Conv2D(4, 3, groups=4), (None, 6, 6, 4), False),
        (layers.Conv1D(8, 3, groups=4), (None, 6, 4), False),
        (layers.Conv2D(4, 3, groups=2), (None, 6, 6, 4), True),
        (layers.Conv2D(4, 3), (None, 6, 6, 1), True),
        (layers.DepthwiseConv1D(3), (None, 6, 4), False),
        # Of one channel it is an ordinary convolution with 8 filters.
        (layers.DepthwiseConv2D(3, depth_multiplier=8), (None, 6, 6, 1), True),
    ]:
        layer.build(shape)
        assert [p.role for p in find_kernels(layer)] == ["kernel"] * masked


def test_sparse_kernels_of_an_object_are_saved():
    inner = layers.DepthwiseConv2D(3)
    inner.sparse_kernels = ("kernel",)
    layer = Sparse(inner, 0.5, seed=0)
    layer(np.ones((1, 6, 6, 4), "float32"))
    again = Sparse.from_config(layer.get_config())
    again(np.ones((1, 6, 6, 4), "float32"))
    np.testing.assert_array_equal(
        again.masked_kernels[0].mask, layer.masked_kernels[0].mask
    )
    inner = layers.DepthwiseConv2D(3)
    inner.sparse_kernels = ("pointwise_kernel",)
    with pytest.raises(ValueError, match=r"Received: kernels=\('pointwise_k"):
        Sparse(inner, 0.5)(np.ones((1, 6, 6, 4), "float32"))


def test_asked_for_by_name():
    layer = Sparse(
        layers.Embedding(10, 4), sparsity=0.5, kernels=["embeddings"], seed=0
    )
    layer(np.array([[1, 2]]))
    assert layer.masked_kernels[0].mask.numpy().sum() == 20


def test_one_sparsity_for_each_kernel():
    layer = Sparse(layers.LSTM(4), sparsity=[0.5, 0.75])
    layer(np.zeros((1, 2, 4), "float32"))
    counts = [record.mask.numpy().sum() for record in layer.masked_kernels]
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
        masks.append(layer.masked_kernels[0].mask.numpy())
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[0] != masks[2]).any()


@pytest.mark.parametrize("size", [0, 1, 200, 40_000])
def test_random_mask_is_numpys_permutation(size):
    """Masks of a seed stay the same, whatever integers count the places."""
    count, kernel = size // 3, np.zeros((2, size // 2), "float32")
    first = np.random.default_rng(3).permutation(kernel.size)[:count]
    mask = random_mask(kernel, count, np.random.default_rng(3))
    assert mask.shape == kernel.shape
    assert set(np.flatnonzero(mask)) == set(first)


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
    layer.masked_kernels[0].state["visits"].assign(np.arange(6).reshape(3, 2))
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    visits = loaded.masked_kernels[0].state["visits"].numpy()
    np.testing.assert_array_equal(visits, np.arange(6).reshape(3, 2))


def _two_tensors():
    inputs = keras.Input((3,))
    return inputs, Sparse(layers.Dense(2), 0.5)(inputs)


@pytest.mark.parametrize(
    "sparsity", [1.0, -0.1, [0.5, 1.2], "x", ["x"], True, float("nan")]
)
def test_sparsity_out_of_range(sparsity):
    with pytest.raises(ValueError, match=r"`sparsity` must be in \[0, 1\)"):
        Sparse(layers.Dense(3), sparsity=sparsity)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"layer": "dense"}, "`layer` must be a Keras layer"),
        ({"layer": layers.Dense}, "`layer` must be a Keras layer"),
        ({"kernels": "kernel"}, "`kernels` must be a tuple of names"),
        ({"kernels": 5}, "`kernels` must be a tuple of names"),
        ({"seed": "x"}, "`seed` must be a non-negative integer"),
        ({"seed": -1}, "`seed` must be a non-negative integer"),
        ({"state": ["visits"]}, "`state` must be a dict"),
        ({"mask_initializer": []}, "`mask_initializer` must be"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Sparse(**{"layer": layers.Dense(3), **arguments})


def test_state_of_an_unknown_dtype_is_refused_at_once():
    layer = Sparse(layers.Dense(3), 0.5)
    with pytest.raises(ValueError, match="Invalid dtype: float33"):
        layer.add_state("visits", "float33")
    assert layer.state == {}


def test_kernels_of_nested_layers_are_told_apart():
    lstm = layers.LSTM(4, name="lstm")
    layer = layers.Bidirectional(lstm, name="both_ways")
    layer.build((None, 5, 3))
    assert [place.name for place in find_kernels(layer)] == [
        "forward_lstm/lstm_cell/kernel",
        "forward_lstm/lstm_cell/recurrent_kernel",
        "backward_lstm/lstm_cell/kernel",
        "backward_lstm/lstm_cell/recurrent_kernel",
    ]


def test_nothing_to_mask():
    with pytest.raises(ValueError, match="has no weight to mask"):
        Sparse(layers.ReLU(), sparsity=0.5)(np.zeros((1, 2)))


def test_unknown_initializer():
    with pytest.raises(ValueError, match="`mask_initializer` must be"):
        Sparse(layers.Dense(3), mask_initializer="best")


def test_mixed_precision():
    layer = Sparse(layers.Dense(4, dtype="mixed_float16"), 0.5)
    outputs = layer(np.ones((2, 4), "float32"))
    record = layer.masked_kernels[0]
    assert (outputs.dtype, record.mask.dtype) == ("float16", "bool")
    assert record.kernel.dtype == "float32"


def test_a_wrapper_that_is_not_trainable_freezes_the_layer():
    layer = Sparse(layers.Dense(3), 0.5, trainable=False)
    layer.build((None, 4))
    assert not layer.trainable_variables and not layer.layer.trainable
    again = Sparse.from_config(layer.get_config())
    again.build((None, 4))
    assert not again.trainable_variables
    frozen = layers.Dense(3, trainable=False)
    assert not Sparse(frozen, 0.5).trainable


def test_quantize_of_the_wrapper_is_that_of_the_layer():
    layer = Sparse(layers.Dense(3), 0.5)
    layer.build((None, 4))
    with pytest.raises(ValueError, match=r"is sparse.*Received: mode='int8'"):
        layer.quantize("int8")
    layer.quantize("float8")
    assert layer.layer.quantization_mode == "float8"
    assert layer.masked_kernels[0].kernel is layer.layer.kernel
