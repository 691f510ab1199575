"""The milliseconds in `sparsity_summary`; how many is not judged here."""

import keras
import pytest
from keras import layers

import keras_freetickets as kft
from keras_freetickets.inspection import layer_times


def words():
    """Integers, nested layers, a cell that runs in a loop, an open size."""
    inputs = keras.Input((None,), dtype="int32")
    x = layers.Embedding(20, 8)(inputs)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    outputs = layers.Dense(3)(layers.LSTM(5, name="lstm")(x))
    return kft.sparsify(keras.Model(inputs, outputs), 0.5)


def test_each_layer_is_measured_once():
    model = words()
    settings = {"print_fn": False, "input_shape": (6,), "batch_size": 2}
    rows = kft.sparsity_summary(model, **settings)
    measured = [row for row in rows if row.milliseconds is not None]
    names = [row.layer for row in measured]
    assert len(names) == len(set(names)) == len({row.layer for row in rows})
    assert all(row.milliseconds > 0 for row in measured)
    # Four kernels, one time.
    assert sum(row.layer == "attention" for row in rows) == 4
    assert not any("call" in vars(layer) for layer in model.layers)
    assert model.predict_on_batch(keras.ops.zeros((1, 4))).shape == (1, 3)


@pytest.mark.parametrize("storage", ["mask", "compressed"])
def test_the_time_is_the_median_of_the_calls(storage, monkeypatch):
    clock = [0.0]
    taken = iter([9.0, *[0.003, 0.005, 0.004] * 5] * 2)

    def ready(*_):
        def run():
            clock[0] += next(taken)

        return run

    monkeypatch.setattr(layer_times, "_SECONDS", 10.0)
    monkeypatch.setattr(layer_times, "_ready", ready)
    monkeypatch.setattr(layer_times.time, "perf_counter", lambda: clock[0])
    stack = [layers.Dense(8, activation="relu"), layers.Dense(3)]
    dense = keras.Sequential([keras.Input((20,)), *stack])
    settings = {"storage": storage, "max_compressed_density": 0.5}
    if storage == "mask":
        del settings["max_compressed_density"]
    model = kft.sparsify(dense, 0.5, "uniform", **settings)
    rows = kft.sparsity_summary(model, print_fn=False, batch_size=1)
    # The first call, of 9 seconds, compiles.
    assert [row.milliseconds for row in rows] == pytest.approx([4.0, 4.0])
    first, line, *_ = str(rows).splitlines()[1:]
    assert "ms" in first.split() and set(line) == {"-"}
    assert "  4.000" in str(rows) and "4.000</td>" in rows._repr_html_()


def test_nothing_is_measured_by_default():
    rows = kft.sparsity_summary(words(), print_fn=False)
    assert all(row.milliseconds is None for row in rows)
    assert "ms" not in str(rows).splitlines()[1].split()


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, True])
def test_wrong_batch_sizes(batch_size):
    with pytest.raises((ValueError, TypeError), match="`batch_size` must"):
        kft.sparsity_summary(words(), False, (6,), batch_size)


def test_open_sizes_must_be_given():
    with pytest.raises(ValueError, match="`input_shape` must"):
        kft.sparsity_summary(words(), print_fn=False, batch_size=2)
