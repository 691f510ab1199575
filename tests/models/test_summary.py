import keras
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
