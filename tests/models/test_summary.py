import math

import keras
import numpy as np
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
    assert "left alone" in by_name["conv"].note
    assert "normalization" in by_name["norm"].note
    assert "no weights" in by_name["flat"].note
    (table,) = printed
    assert "Active / maskable weights: 360 / 1,440 (sparsity 0.7500)" in table
    assert "3,312 of 5,472 dense (ratio 0.6053)" in table


def test_dense_by_distribution_is_said():
    model = kft.sparsify(kft.applications.lenet_300_100(), 0.9)
    rows = kft.sparsity_summary(model, print_fn=False)
    last = [row for row in rows if row.layer == rows[-1].layer][0]
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


def test_subclassed_model():
    model = Own()
    model(np.ones((1, 4), "float32"))
    printed = []
    rows = kft.sparsity_summary(model, print_fn=printed.append)
    assert [(r.layer, r.active, r.total) for r in rows] == [
        ("inner", 16, 32),
        ("block", 18, 18),  # outer: 8 * 2 weights and 2 biases
    ]
    assert all(math.isnan(row.flops) for row in rows)
    assert "FLOPs: unknown" in printed[0]


def test_weights_outside_the_mask_are_told():
    model = kft.sparsify(kft.applications.lenet_300_100(), 0.9, seed=0)
    kernel = model.connections[0].kernel
    kernel.assign(np.ones(kernel.shape))
    row = kft.sparsity_summary(model, print_fn=False)[1]
    assert (
        row.note
        == f"{row.total - row.active:,} weights outside the mask"
        + (" are not zero")
    )
