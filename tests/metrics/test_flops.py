import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_freetickets.applications import wide_resnet
from keras_freetickets.metrics import flops


def _macs(model):
    """MACs of each kernel, by the order of the model's weights."""
    costs = flops.kernel_macs(model)
    return [costs[id(v)].macs for v in model.weights if id(v) in costs]


def _model(layer, shape):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layer(inputs))


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        pytest.param(layers.Dense(5), (7,), [35], id="dense"),
        pytest.param(layers.Dense(5), (3, 7), [105], id="dense_rank_3"),
        # 9 * 4 * 8 at 4 x 4 pixels.
        pytest.param(
            layers.Conv2D(8, 3, 2, "same"), (8, 8, 4), [4608], id="strided"
        ),
        # 9 * 4 * 8 at 6 x 6 pixels.
        pytest.param(layers.Conv2D(8, 3), (8, 8, 4), [10368], id="valid"),
        # 9 * 2 * 8 at 6 x 6 pixels.
        pytest.param(
            layers.Conv2D(8, 3, groups=2), (8, 8, 4), [5184], id="groups"
        ),
        pytest.param(layers.Conv1D(5, 3), (10, 2), [240], id="conv_1d"),
        pytest.param(layers.Conv3D(2, 2), (3, 3, 3, 1), [128], id="conv_3d"),
        # 9 * 8 * 4 at 8 x 8 pixels of the input.
        pytest.param(
            layers.Conv2DTranspose(8, 3, 2, "same"),
            (8, 8, 4),
            [18432],
            id="transposed",
        ),
        # 9 * 4 * 2 at 6 x 6 pixels.
        pytest.param(
            layers.DepthwiseConv2D(3, depth_multiplier=2),
            (8, 8, 4),
            [2592],
            id="depthwise",
        ),
        # 9 * 4 and 4 * 8 at 6 x 6 pixels.
        pytest.param(
            layers.SeparableConv2D(8, 3),
            (8, 8, 4),
            [1296, 1152],
            id="separable",
        ),
        # b t c, c h k: 5 times 6 * 2 * 3.
        pytest.param(
            layers.EinsumDense("btc,chk->bthk", (None, 2, 3), bias_axes="hk"),
            (5, 6),
            [180],
            id="einsum",
        ),
        pytest.param(
            layers.EinsumDense("...x,xy->...y", 3), (4, 5, 6), [360], id="dots"
        ),
        # 10 steps of 3 * 4 * 2 and 2 * 4 * 2.
        pytest.param(layers.LSTM(2), (10, 3), [240, 160], id="lstm"),
        pytest.param(layers.GRU(2), (10, 3), [180, 120], id="gru"),
        pytest.param(layers.SimpleRNN(2), (10, 3), [60, 40], id="simple_rnn"),
        pytest.param(
            layers.Bidirectional(layers.LSTM(2)),
            (10, 3),
            [240, 160, 240, 160],
            id="bidirectional",
        ),
        pytest.param(
            layers.TimeDistributed(layers.Conv2D(8, 3)),
            (5, 8, 8, 4),
            [51840],
            id="time_distributed",
        ),
    ],
)
def test_macs_by_hand(layer, shape, expected):
    model = _model(layer, shape)
    assert _macs(model) == expected
    assert flops.kernel_macs(model).notes == []


@pytest.mark.parametrize("kind", ["multi_head", "group_query"])
def test_attention_counts_its_projections(kind):
    query, value = keras.Input((5, 8)), keras.Input((7, 8))
    if kind == "multi_head":
        attention = layers.MultiHeadAttention(2, 3)
    else:
        attention = layers.GroupQueryAttention(3, 2, 2)
    model = keras.Model([query, value], attention(query, value))
    # Query and output see 5 places, key and value 7; kernels 8 x 2 x 3.
    assert sorted(_macs(model)) == [240, 240, 336, 336]
    assert flops.kernel_macs(model).notes == []


def test_shared_layer_counts_every_call():
    inputs = keras.Input((4,))
    shared = layers.Dense(4)
    model = keras.Model(inputs, shared(shared(inputs)))
    assert _macs(model) == [32]


def test_layer_used_outside_the_model_counts_its_calls_inside():
    inputs = keras.Input((4,))
    shared = layers.Dense(4)
    hidden = shared(inputs)
    shared(hidden)
    assert _macs(keras.Model(inputs, hidden)) == [16]


def test_nested_models():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(6)])
    inputs = keras.Input((4,))
    x = layers.Concatenate()([inner(inputs), inner(inputs)])
    model = keras.Model({"x": inputs}, layers.Dense(2)(x))
    assert _macs(model) == [48, 24]


def test_wrapper_and_layer_made_of_layers():
    class Twice(layers.Wrapper):
        def call(self, inputs):
            return self.layer(inputs)

    class Block(layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(4)

        def build(self, shape):
            self.dense.build(shape)

        def call(self, inputs):
            return self.dense(inputs)

        def compute_output_shape(self, shape):
            return shape

    inputs = keras.Input((4,))
    model = keras.Model(inputs, Block()(Twice(layers.Dense(4))(inputs)))
    assert _macs(model) == [16, 16]


def test_notes_name_what_is_not_counted():
    class Scale(layers.Layer):
        def build(self, shape):
            self.table = self.add_weight(shape=(4, 4), name="table")

        def call(self, inputs):
            return inputs @ self.table

    notes = flops.kernel_macs(_model(Scale(), (4,))).notes
    assert len(notes) == 1 and "table: no rule" in notes[0]
    notes = flops.kernel_macs(_model(layers.LSTM(2), (None, 3))).notes
    assert len(notes) == 1 and "unknown sizes" in notes[0]


def test_counting_leaves_the_model_as_it_was():
    model = _model(layers.Dense(3), (4,))
    before = model.get_weights()
    flops.kernel_macs(model)
    assert "call" not in vars(model.layers[1])
    for left, right in zip(before, model.get_weights()):
        np.testing.assert_array_equal(left, right)


def test_model_without_inputs_is_refused():
    with pytest.raises(ValueError, match="`model` must know its inputs"):
        flops.kernel_macs(keras.Sequential([layers.Dense(2)]))


def _erk(shapes, density):
    """Densities of Erdos-Renyi-Kernel, independently of the package."""
    sizes = np.array([math.prod(shape) for shape in shapes], float)
    raw = np.array([sum(shape) for shape in shapes]) / sizes
    dense = np.zeros(len(shapes), bool)
    while True:
        rhs = density * sizes[~dense].sum() - (1 - density) * sizes[dense].sum()
        scale = rhs / (raw * sizes)[~dense].sum()
        if scale * raw[~dense].max() <= 1:
            return np.where(dense, 1.0, scale * raw)
        dense |= raw == raw[~dense].max()


@pytest.mark.parametrize(("density", "ratio"), [(0.2, 0.3396), (0.1, 0.1686)])
def test_ratio_of_wrn_28_10_with_erk(density, ratio):
    model = wide_resnet(28, 10)
    costs = list(flops.kernel_macs(model).values())
    assert sum(cost.macs for cost in costs) == 5_243_328_768
    densities = _erk([tuple(c.kernel.shape) for c in costs], density)
    table = {id(c.kernel): d for c, d in zip(costs, densities)}
    sparse = flops.forward_flops(model, lambda kernel: table[id(kernel)])
    dense = flops.forward_flops(model)
    assert dense == 2 * 5_243_328_768
    assert sparse / dense == pytest.approx(ratio, abs=5e-5)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow's profiler"
)
def test_dense_model_by_the_profiler_of_tensorflow():
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(inputs)
    x = layers.Conv2D(16, 3, 2, padding="valid", use_bias=False)(x)
    outputs = layers.Dense(10, use_bias=False)(layers.Flatten()(x))
    model = keras.Model(inputs, outputs)
    function = tf.function(model, jit_compile=False).get_concrete_function(
        tf.TensorSpec((1, 12, 12, 3))
    )
    options = (
        tf.compat.v1.profiler.ProfileOptionBuilder(
            tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
        )
        .with_empty_output()
        .build()
    )
    profile = tf.compat.v1.profiler.profile(function.graph, options=options)
    assert flops.forward_flops(model) == profile.total_float_ops


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("dense", 30.0),
        ("static", 6.0),
        ("set", 6.0),
        ("snfs", 14.0),
        # (3 * 2 * 3 + 2 * 2 + 10) / 4
        ("rigl", 8.0),
    ],
)
def test_training_flops(method, expected):
    assert flops.training_flops_per_sample(10.0, 2.0, method, 3) == expected


def test_bad_training_arguments_are_refused():
    with pytest.raises(ValueError, match="`method` must be one of"):
        flops.training_flops_per_sample(1.0, 1.0, "magic")
    with pytest.raises(ValueError, match="`update_interval` must be"):
        flops.training_flops_per_sample(1.0, 1.0, "rigl")
    with pytest.raises(ValueError, match="`update_interval` must be"):
        flops.training_flops_per_sample(1.0, 1.0, "rigl", "100")
    with pytest.raises(ValueError, match="`model` must know its inputs"):
        flops.forward_flops("model")
