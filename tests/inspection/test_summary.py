import math
import pickle

import keras
import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from keras import layers

import keras_freetickets as kft


def test_rows_and_table():
    dense = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(name="flat"),
            layers.Dense(10, name="head"),
        ]
    )
    model = kft.sparsify(
        dense, lambda layer: 0.75 if layer.name == "head" else None
    )
    printed = []
    rows = kft.sparsity_summary(model, print_fn=printed.append)
    by_name = {row.layer: row for row in rows}
    assert list(by_name) == ["conv", "norm", "flat", "head"]
    head = by_name["head"]
    # 6 * 6 * 4 = 144 inputs: 1440 weights, 360 of them active.
    assert (head.kernel, head.shape) == ("kernel", (144, 10))
    assert (head.active, head.total, head.sparsity) == (360, 1440, 0.75)
    assert (head.flops, head.dense_flops, head.note) == (720, 2880, "")
    # 36 positions of a 3x3x1x4 window: 1296 multiply-accumulates.
    assert by_name["conv"].flops == 2592
    assert "by `filters` or the `sparsity`" in by_name["conv"].note
    assert "normalization" in by_name["norm"].note
    assert "no weights" in by_name["flat"].note
    (table,) = printed
    assert "Active / maskable weights: 360 / 1,440 (sparsity 0.7500)" in table
    assert "3,312 of 5,472 dense (ratio 0.6053)" in table


def test_dense_by_distribution_is_said():
    model = kft.sparsify(kft.applications.lenet_300_100(), 0.9)
    rows = kft.sparsity_summary(model, print_fn=False)
    last = next(row for row in rows if row.layer == rows[-1].layer)
    assert last.active == last.total == 1000
    assert "density 1 by the distribution" in last.note


class Block(layers.Layer):
    """A layer of a user's own that holds a sparse one and a dense one."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = kft.layers.Sparse(layers.Dense(8, name="inner"), 0.5)
        self.outer = layers.Dense(2, name="outer")

    def call(self, inputs):
        return self.outer(self.inner(inputs))


class Own(kft.SparseModel):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.block = Block(name="block")

    def call(self, inputs):
        return self.block(inputs)


def small():
    dense = keras.Sequential(
        [keras.Input((4,)), layers.Dense(8), layers.Dense(2)],
        name="net",
    )
    return kft.sparsify(dense, 0.5, "uniform")


def test_the_rule_is_as_long_as_the_longest_row():
    rows = kft.sparsity_summary(small(), print_fn=False)
    for shown in (rows, kft.sparsity_summary(dense_of_every_kind())):
        _, *table, _, _ = str(shown).splitlines()
        (rule,) = (line for line in table if set(line) == {"-"})
        assert len(rule) == max(len(line) for line in table)


def test_rows_are_a_list_that_shows_as_a_table(capsys):
    rows = kft.sparsity_summary(small())
    printed = capsys.readouterr().out
    assert printed == f"{rows}\n" and len(printed.splitlines()) == 7
    assert repr(rows) == '<Sparsity of model "net": 2 rows>'
    copy = pickle.loads(pickle.dumps(rows))
    assert copy == rows == list(rows) and str(copy) == str(rows)
    page = rows._repr_html_()
    assert "<th" in page and page.count("<tr>") == 1 + 2
    assert "Sparsity of model &quot;net&quot;" in page
    assert "Active / maskable weights: 24 / 48 (sparsity 0.5000)" in page


CELLS = [
    ("kft.sparsity_summary(model)", True, False),  # printed is shown
    ("kft.sparsity_summary(model, print_fn=False)", False, True),
    ("rows = kft.sparsity_summary(model)", True, False),
    ("rows", False, True),  # asked for once more
    ("str(rows)", False, False),
]


def test_a_notebook_shows_one_table(capsys):
    shell = InteractiveShell.instance()
    try:
        shell.push({"kft": kft, "model": small()})
        for source, printed, html in CELLS:
            shown = []
            shell.displayhook.write_format_data = (
                lambda data, metadata=None, shown=shown: shown.append(data)
            )
            shell.run_cell(source, store_history=True)
            assert ("Sparsity of" in capsys.readouterr().out) == printed
            pages = [one["text/html"] for one in shown if "text/html" in one]
            assert len(pages) == html, source
            assert not printed or not shown
    finally:
        InteractiveShell.clear_instance()


def test_subclassed_model():
    model = Own()
    model(np.ones((1, 4), "float32"))
    printed = []
    rows = kft.sparsity_summary(model, print_fn=printed.append)
    assert [(r.layer, r.active, r.total) for r in rows] == [
        ("block/inner", 16, 32),
        ("block", 18, 18),  # outer: 8 * 2 weights and 2 biases
    ]
    assert all(math.isnan(row.flops) for row in rows)
    assert rows[1].note == "left alone: not wrapped in Sparse"
    assert "FLOPs: unknown" in printed[0]


def test_weights_outside_the_mask_are_told():
    model = kft.sparsify(kft.applications.lenet_300_100(), 0.9, seed=0)
    kernel = model.masked_kernels[0].kernel
    kernel.assign(np.ones(kernel.shape))
    row = kft.sparsity_summary(model, print_fn=False)[1]
    assert (
        row.note
        == f"{row.total - row.active:,} weights outside the mask"
        + (" are not zero")
    )


def encoder(units, name):
    inputs = keras.Input((units,))
    return keras.Model(inputs, layers.Dense(8, name="h")(inputs), name=name)


def dense_of_every_kind():
    tokens = keras.Input((5,), name="tokens")
    image = keras.Input((8, 8, 3), name="image")
    words = layers.Embedding(20, 8, name="embed")(tokens)
    words = layers.Bidirectional(layers.LSTM(4, name="lstm"), name="both_ways")(
        words
    )
    x = layers.Conv2D(4, 3, name="stem")(image)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.DepthwiseConv2D(3, name="depth")(x)
    x = layers.SeparableConv2D(6, 3, name="separable")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Concatenate(name="join")(
        [encoder(6, "left")(x), encoder(8, "right")(words)]
    )
    x = layers.PReLU(name="slopes")(x)
    frozen = layers.Dense(8, name="frozen", trainable=False)
    outputs = layers.Dense(3, name="head")(frozen(x))
    return keras.Model([tokens, image], outputs)


def test_every_reason_has_its_own_words():
    model = kft.sparsify(
        dense_of_every_kind(),
        0.75,
        "uniform",
        filters=lambda layer: layer.name not in ("stem", "frozen"),
    )
    rows = kft.sparsity_summary(model, print_fn=False)
    notes = {row.layer: row.note for row in rows if not row.shape}
    expected = {
        "stem": "by `filters` or the `sparsity` of this layer",
        "norm": "normalization is not masked",
        "depth": "depthwise, masked only if `kernels` names it",
        "separable": "depthwise_kernel is masked only if `kernels` names it",
        "embed": "embeddings are masked only if `kernels` names them",
        "slopes": "no kernel by role, and no `sparse_kernels`",
    }
    expected = {name: f"left alone: {why}" for name, why in expected.items()}
    expected["frozen"] = "frozen; " + expected["stem"]
    expected["pool"] = expected["join"] = "has no weights"
    assert notes == expected
    assert len(set(expected.values())) == len(expected) - 1


def test_rows_of_nested_layers_are_told_apart():
    model = kft.sparsify(dense_of_every_kind(), 0.75, "uniform")
    rows = kft.sparsity_summary(model, print_fn=False)
    names = [(row.layer, row.kernel) for row in rows]
    assert len(set(names)) == len(names)
    assert {("left/h", "kernel"), ("right/h", "kernel")} <= set(names)
    kernels = {row.kernel for row in rows if row.layer == "both_ways"}
    assert kernels == {
        f"{way}_lstm/lstm_cell/{kernel}"
        for way in ("forward", "backward")
        for kernel in ("kernel", "recurrent_kernel")
    }


def test_flops_of_what_is_not_masked_are_counted():
    model = kft.sparsify(dense_of_every_kind(), 0.75, "uniform")
    rows = kft.sparsity_summary(model, print_fn=False)
    dense = kft.metrics.flops.forward_flops(model)
    assert sum(row.dense_flops for row in rows) == dense
    # 3x3 windows of 4 channels at 2x2 pixels; kernel (3, 3, 4, 1).
    (depthwise,) = [
        row for row in rows if row.layer == "separable" and not row.shape
    ]
    assert (depthwise.flops, depthwise.total) == (288, 36)


def test_a_shared_layer_counts_once():
    inputs = keras.Input((4,))
    shared = layers.Dense(4, name="shared")

    def half(name):
        inside = keras.Input((4,))
        return keras.Model(inside, shared(inside), name=name)

    both = layers.Add()([half("a")(inputs), half("b")(inputs)])
    model = kft.sparsify(keras.Model(inputs, both), 0.5)
    rows = kft.sparsity_summary(model, print_fn=False)
    assert [r.layer for r in rows if r.shape] == ["a/shared"]


def test_a_dense_model_is_said_to_be_one():
    printed = []
    model = kft.applications.lenet_300_100()
    rows = kft.sparsity_summary(model, print_fn=printed.append)
    notes = [row.note for row in rows]
    assert notes == ["has no weights"] + ["dense: the model is not sparse"] * 3
    assert "none, no layer is sparse" in printed[0]


@pytest.mark.parametrize(
    "model, print_fn, message",
    [
        (keras.Sequential([layers.Dense(2)]), None, "`model` must be built"),
        (keras.Sequential([keras.Input((2,))]), 5, "`print_fn` must be"),
    ],
)
def test_bad_arguments(model, print_fn, message):
    with pytest.raises(ValueError, match=message):
        kft.sparsity_summary(model, print_fn=print_fn)


class Table(layers.Layer):
    """A layer of a user's own, with a kernel that no rule knows."""

    sparse_kernels = ("table",)

    def build(self, shape):
        self.table = self.add_weight(shape=(shape[-1], 4), name="table")

    def call(self, inputs):
        return inputs @ self.table


def test_flops_that_no_rule_covers_are_named_and_left_out():
    inputs = keras.Input((8,))
    outputs = layers.Dense(10, name="head")(Table(name="own")(inputs))
    model = kft.sparsify(keras.Model(inputs, outputs), 0.75, "uniform")
    own, head = rows = kft.sparsity_summary(model, print_fn=False)
    assert (own.active, own.total) == (8, 32)
    assert math.isnan(own.flops) and math.isnan(own.dense_flops)
    assert own.note == "FLOPs unknown: no rule for this layer"
    assert (head.flops, head.dense_flops, head.note) == (20, 80, "")
    assert (
        "FLOPs: 20 of 80 dense (ratio 0.2500), without those of own, which "
        "are unknown; masks" in str(rows)
    )


def test_flops_of_a_convolutional_lstm():
    inputs = keras.Input((4, 8, 8, 2))
    lstm = layers.ConvLSTM2D(3, 3, name="film")
    model = kft.sparsify(keras.Model(inputs, lstm(inputs)), 0.5, "uniform")
    rows = kft.sparsity_summary(model, print_fn=False)
    # 4 steps at 6 x 6 pixels of 9 * 2 * 12, and of 9 * 3 * 12.
    assert [row.dense_flops for row in rows] == [62208, 93312]
    assert [row.flops for row in rows] == [31104, 46656]


def network_of_any_size():
    inputs = keras.Input((None, None, 1), name="image")
    x = layers.Conv2D(2, 3, padding="same", name="conv")(inputs)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(inputs, layers.Dense(9, name="head")(x))
    return kft.sparsify(
        model, lambda layer: {"conv": 0.5, "head": 0.0}[layer.name]
    )


def test_open_sizes_are_asked_for():
    model = network_of_any_size()
    rows = kft.sparsity_summary(model, print_fn=False)
    assert [row.layer for row in rows] == ["conv", "pool", "head"]
    assert [math.isnan(row.flops) for row in rows] == [True, False, True]
    assert str(rows).endswith(
        "FLOPs: unknown, as image leaves sizes open: pass `input_shape`"
    )
    rows = kft.sparsity_summary(model, print_fn=False, input_shape=(5, 4, 1))
    # 20 pixels of 9 * 2 weights of which 9 are left, and 2 * 9 once.
    assert [row.flops for row in rows] == [360, 0, 36]
    assert "396 of 756 dense (ratio 0.5238); masks" in str(rows)
    with pytest.raises(ValueError, match="`input_shape` must give"):
        kft.sparsity_summary(model, print_fn=False, input_shape=(5, 4))


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_quantized_layers_are_counted_and_named(mode):
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(5, name="a"), layers.Dense(2)]
    )
    model.quantize(mode, filters="a")
    rows = kft.sparsity_summary(model, print_fn=False)
    assert [row.flops for row in rows] == [80, 20]
    # 40 weights, 5 biases and scales; int4 has scales and zeros of 8 groups.
    assert rows[0].total >= 50
    assert rows[0].note == (
        "left alone: quantized, so that there is no float kernel"
    )
    assert rows[1].note == "dense: the model is not sparse"


def test_a_model_without_kernels_has_no_ratio():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.BatchNormalization()(inputs))
    rows = kft.sparsity_summary(model, print_fn=False)
    assert "FLOPs: 0 of 0 dense; masks" in str(rows)
