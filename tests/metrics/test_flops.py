import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_freetickets.applications import wide_resnet
from keras_freetickets.metrics import flop_rules
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
        # 4 steps at 6 x 6 pixels of 9 * 2 * 12, and of 9 * 3 * 12.
        pytest.param(
            layers.ConvLSTM2D(3, 3, return_sequences=True),
            (4, 8, 8, 2),
            [31104, 46656],
            id="conv_lstm",
        ),
        # 4 steps at 4 x 4 pixels.
        pytest.param(
            layers.ConvLSTM2D(3, 3, strides=2, padding="same"),
            (4, 8, 8, 2),
            [13824, 20736],
            id="conv_lstm_strided",
        ),
        # 4 steps at 6 places of 3 * 2 * 12, and of 3 * 3 * 12.
        pytest.param(
            layers.ConvLSTM1D(3, 3), (4, 8, 2), [1728, 2592], id="conv_lstm_1d"
        ),
        # 10 steps of 3 * 8 and 2 * 8, then of 2 * 9 and 3 * 9.
        pytest.param(
            layers.RNN([layers.LSTMCell(2), layers.GRUCell(3)]),
            (10, 3),
            [240, 160, 180, 270],
            id="stacked_cells",
        ),
        # 5 times 10 steps.
        pytest.param(
            layers.TimeDistributed(layers.LSTM(2)),
            (5, 10, 3),
            [1200, 800],
            id="time_distributed_lstm",
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


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_quantized_layers_cost_as_before(mode):
    model = keras.Sequential([keras.Input((3, 7)), layers.Dense(5)])
    model.quantize(mode)
    (cost,) = flops.kernel_macs(model).values()
    # 3 places of 7 * 5; int4 packs the five columns into three.
    assert (cost.macs, cost.size) == (105, 35)
    assert any(cost.kernel is weight for weight in model.weights)


def test_lora_counts_as_merged():
    model = keras.Sequential([keras.Input((7,)), layers.Dense(5)])
    model.layers[0].enable_lora(2)
    assert flops.forward_flops(model) == 70
    assert flops.kernel_macs(model).notes == []


def test_embedding_that_is_also_the_head():
    tokens = keras.Input((7,), dtype="int32")
    embedding = layers.ReversibleEmbedding(20, 4)
    outputs = embedding(layers.Dense(4)(embedding(tokens)), reverse=True)
    # 7 places of 4 * 4 and of 4 * 20; the look-up is none.
    assert sorted(_macs(keras.Model(tokens, outputs))) == [112, 560]


def test_a_cell_that_a_layer_calls_itself():
    class Twice(layers.Layer):
        def __init__(self):
            super().__init__()
            self.cell = layers.GRUCell(2)

        def build(self, shape):
            self.cell.build(shape)

        def call(self, inputs):
            state = inputs[:, :2]
            for _ in range(2):
                state, _ = self.cell(inputs, [state])
            return state

    # Two calls of 3 * 6 and 2 * 6.
    assert _macs(_model(Twice(), (3,))) == [36, 24]


class Scale(layers.Layer):
    def build(self, shape):
        self.table = self.add_weight(shape=(4, 4), name="table")

    def call(self, inputs):
        return inputs @ self.table


class OwnCell(layers.Layer):
    state_size = 4

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Dense(4, name="inner")

    def build(self, shape):
        self.inner.build((None, 4))
        self.w = self.add_weight(shape=(shape[-1], 4), name="w")

    def call(self, inputs, states):
        state = inputs @ self.w + self.inner(states[0])
        return state, [state]


def test_what_no_rule_covers_is_named_and_not_counted():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(Scale(name="scale")(inputs)))
    costs = flops.kernel_macs(model)
    table, kernel = [costs[id(v)].macs for v in model.weights[:2]]
    assert math.isnan(table) and kernel == 8
    (note,) = costs.notes
    assert note.endswith("scale/table: unknown, as there is no rule for Scale")
    assert math.isnan(flops.forward_flops(model))
    model.trainable = False
    assert flops.kernel_macs(model).notes == [note]


def test_a_cell_of_ones_own_is_named():
    costs = flops.kernel_macs(_model(layers.RNN(OwnCell()), (10, 3)))
    # The Dense within too: how often a loop calls it is not seen.
    assert len(costs) == 2
    assert all(math.isnan(cost.macs) for cost in costs.values())
    assert all(note.endswith("no rule for OwnCell") for note in costs.notes)


def test_a_declared_kernel_of_rank_1_is_named():
    class Vector(layers.Layer):
        sparse_kernels = ("w",)

        def build(self, shape):
            self.w = self.add_weight(shape=(4,), name="w")

        def call(self, inputs):
            return inputs * self.w

    assert len(flops.kernel_macs(_model(Vector(), (4,))).notes) == 1


def test_what_is_never_called_is_named():
    class Reads(layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(4, name="read")

        def build(self, shape):
            self.dense.build(shape)

        def call(self, inputs):
            return inputs @ self.dense.kernel

    (note,) = flops.kernel_macs(_model(Reads(), (4,))).notes
    assert note.endswith("read: 0, as the model never calls it")


def test_weights_that_multiply_entry_by_entry_are_none():
    inputs = keras.Input((4, 6))
    x = layers.PReLU()(layers.LayerNormalization(axis=(1, 2))(inputs))
    assert flops.kernel_macs(keras.Model(inputs, x)).notes == []


def _pooled():
    """A Dense for each word, and one for the text."""
    words = keras.Input((None, 4), name="words")
    x = layers.GlobalAveragePooling1D()(layers.Dense(3)(words))
    return keras.Model(words, layers.Dense(2)(x))


@pytest.mark.parametrize("length", [1, 5, 8])
def test_the_length_is_asked_for(length):
    model = _pooled()
    assert flops.open_inputs(model) == ["words"]
    for function in (flops.kernel_macs, flops.forward_flops):
        with pytest.raises(ValueError, match=r"`input_shape` must.*'words'"):
            function(model)
    # 4 * 3 for each word and 3 * 2 once.
    found = flops.forward_flops(model, input_shape=(length, 4))
    assert found == 2 * (12 * length + 6)


def test_shapes_of_several_inputs():
    words, image = keras.Input((None, 4), name="words"), keras.Input((6,))
    pooled = layers.GlobalAveragePooling1D()(layers.Dense(3)(words))
    outputs = layers.Concatenate()([pooled, layers.Dense(2)(image)])
    model = keras.Model([words, image], outputs)
    found = flops.forward_flops(model, input_shape=[(5, 4), (6,)])
    assert found == 2 * (60 + 12)
    named = keras.Model({"words": words, "image": image}, outputs)
    shapes = {"image": (6,), "words": (5, 4)}
    assert flops.forward_flops(named, input_shape=shapes) == found


@pytest.mark.parametrize(
    "shape", [(5,), (5, 3), (None, 4), (5.0, 4), "5", [(5, 4), (5, 4)]]
)
def test_shapes_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match="`input_shape` must"):
        flops.kernel_macs(_pooled(), input_shape=shape)


def test_counting_leaves_the_model_as_it_was():
    model = _model(layers.Dense(3), (4,))
    before = model.get_weights()
    flops.kernel_macs(model)
    assert "call" not in vars(model.layers[1])
    for left, right in zip(before, model.get_weights(), strict=True):
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
    table = {id(c.kernel): d for c, d in zip(costs, densities, strict=True)}
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


def test_a_model_that_does_not_know_its_inputs():
    class Own(keras.Model):
        pass

    with pytest.raises(ValueError, match="`model` must know its inputs"):
        flops.forward_flops(Own())
    with pytest.raises(TypeError, match=r"`model` must be a keras\.Model"):
        flops.forward_flops(layers.Dense(2))


class LowRank(layers.Layer):
    """x @ down @ up, which no rule of Keras' own layers covers."""

    def build(self, input_shape):
        self.down = self.add_weight(shape=(input_shape[-1], 2), name="down")
        self.up = self.add_weight(shape=(2, 3), name="up")

    def call(self, inputs):
        return inputs @ self.down @ self.up

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 3)


@pytest.fixture
def rules(monkeypatch):
    """Rules that a test registers are gone after it."""
    monkeypatch.setattr(flop_rules, "_RULES", dict(flop_rules._RULES))


def _low_rank(layer, input_shape, output_shape):
    rows = math.prod(input_shape[:-1])
    return {"down": rows * 2 * input_shape[-1], "up": rows * 2 * 3}


def test_a_rule_for_a_layer_of_ones_own(rules):
    """5 rows of 4 * 2 and 2 * 3; also of subclasses, nested and repeated."""
    model = _model(LowRank(), (5, 4))
    assert np.isnan(_macs(model)).all()
    assert flops.register_rule(LowRank)(_low_rank) is _low_rank
    assert _macs(model) == [40, 30]
    assert flops.kernel_macs(model).notes == []

    class Narrower(LowRank):
        pass

    repeated = _model(layers.TimeDistributed(Narrower()), (7, 5, 4))
    assert _macs(repeated) == [280, 210]
    flops.register_rule(Narrower)(lambda layer, *shapes: {"down": 1, "up": 2})
    assert _macs(_model(Narrower(), (5, 4))) == [1, 2]
    assert flops.forward_flops(model, lambda kernel: 0.5) == 70.0


def test_a_second_rule_is_refused(rules):
    flops.register_rule(LowRank)(_low_rank)
    for kind, name in ((LowRank, "_low_rank"), (layers.Dense, "_dense")):
        with pytest.raises(ValueError, match=f"{kind.__name__}, .*`{name}`"):
            flops.register_rule(kind)
    for kind in (LowRank(), dict, "Dense"):
        with pytest.raises(TypeError, match="classes of Keras layers"):
            flops.register_rule(kind)


def test_a_rule_that_names_no_weight(rules):
    flops.register_rule(LowRank)(lambda layer, *shapes: {"kernel": 1})
    with pytest.raises(ValueError, match=r"name weights of LowRank.*'kernel'"):
        flops.kernel_macs(_model(LowRank(), (4,)))
