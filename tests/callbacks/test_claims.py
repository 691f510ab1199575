"""Copies of a callback that writes to a directory."""

import copy

import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft

WRITERS = {
    "edst": lambda path: kft.callbacks.EDST(
        1, 1, 1, monitor=None, update_interval=100, directory=path
    ),
    "ticket": lambda path: kft.callbacks.TicketCheckpoint(path, monitor=None),
    "backup": kft.callbacks.Backup,
}


def fit(callback):
    dense = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    model = kft.sparsify(dense, 0.5, seed=0)
    model.compile("sgd", "mse")
    x, y = np.ones((4, 4)), np.ones((4, 2))
    model.fit(x, y, epochs=2, verbose=0, callbacks=[callback])
    return model


@pytest.mark.filterwarnings("ignore:.*never updated the topology")
@pytest.mark.parametrize("kind", WRITERS)
def test_copies_do_not_share_a_directory(tmp_path, kind):
    """As of a tuner, which trains each trial with a copy of its callbacks."""
    given = WRITERS[kind](tmp_path)
    first, second = copy.deepcopy(given), copy.deepcopy([given])[0]
    fit(first)
    left = sorted(tmp_path.iterdir())
    for copied in (second, given):
        with pytest.raises(ValueError, match=r"(?s)copied for several.*/"):
            fit(copied)
    assert sorted(tmp_path.iterdir()) == left
