import warnings

import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft


def network(seed=0, sparsity=0.5):
    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(6, 3, name="conv")(inputs)
    x = layers.Dense(5, name="hidden")(layers.Flatten()(x))
    dense = keras.Model(inputs, layers.Dense(2, name="out")(x))
    return kft.sparsify(dense, sparsity, distribution="uniform", seed=seed)


def set_mask(record, mask):
    record.mask.assign(mask)


def test_units_by_hand():
    model = network()
    conv, hidden, out = model.masked_kernels
    mask = np.zeros((3, 3, 3, 6), bool)
    mask[1, 2, 0, 4] = mask[0, 0, 0, 5] = mask[2, 2, 2, 5] = True
    set_mask(conv, mask)
    mask = np.ones((24, 5), bool)
    mask[:, 2] = False
    set_mask(hidden, mask)
    set_mask(out, np.eye(5, 2).astype(bool))
    found = kft.count_units(model)
    assert [(c.name, c.dead, c.units) for c in found] == [
        ("conv/kernel", 4, 6),
        ("hidden/kernel", 1, 5),
        ("out/kernel", 0, 2),
    ]
    assert [(c.unread, c.inputs) for c in found] == [(1, 3), (0, 24), (3, 5)]


def test_what_is_refused():
    with pytest.raises(TypeError, match="`model` must be a SparseModel"):
        kft.count_units(keras.Sequential())


def test_a_layer_without_inputs_is_told():
    model = network(sparsity=0.9)
    model.compile("sgd", "mse")
    x, y = np.ones((8, 4, 4, 3), "float32"), np.ones((8, 2), "float32")
    mask = np.zeros((24, 5), bool)
    mask[:4, 0] = True
    set_mask(model.masked_kernels[1], mask)
    callback = kft.callbacks.DropAndGrow(
        kft.topology.Method(2, drop_fraction=0.0)
    )
    told = []

    class Told(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            told.append(sum("4 of 5 units" in str(w.message) for w in caught))

    with pytest.warns(UserWarning, match="of kernel 'hidden") as caught:
        model.fit(x, y, epochs=2, verbose=0, callbacks=[callback, Told()])
    assert told == [1, 1]  # at once, and once
    model = network(sparsity=0.1)
    model.compile("sgd", "mse")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.fit(x, y, batch_size=4, verbose=0, callbacks=[callback])
