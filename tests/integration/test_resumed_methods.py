"""Methods with a state of their own, killed between two epochs."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft

EPOCHS = 5
RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 8)).astype("float32")
Y = RNG.integers(3, size=48)
BATCHES = [(X[i : i + 12], Y[i : i + 12]) for i in range(0, 48, 12)]
# Updates of the topology with batches 3, 6 ... of 20: in all epochs but the
# last, the average's.
GROWN = {"update_interval": 3, "drop_fraction": 0.4, "stop_step": 16, "seed": 3}


METHODS = {
    "itop": lambda: kft.callbacks.ITOP(20, "random", update_interval=3),
    "snfs": lambda: kft.callbacks.SNFS(**GROWN),
    "dst_ee": lambda: kft.callbacks.DSTEE(exploration=0.1, **GROWN),
    "granet": lambda: kft.callbacks.GraNet(0.8, 16, update_interval=3),
    "ndsnn": lambda: kft.callbacks.NDSNN(0.8, 16, update_interval=3),
    "agent": lambda: kft.callbacks.AGENT(BATCHES, **GROWN),
    "cigl": lambda: kft.callbacks.CigL(3, random_drop=0.2, **GROWN),
    "global": lambda: kft.callbacks.RigL(**GROWN, scope="global"),
}


class Kill(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


def network():
    keras.utils.set_random_seed(2)
    inputs = keras.Input((8,))
    x = layers.Dense(16, activation="relu")(inputs)
    outputs = layers.Dense(3, activation="softmax")(x)
    model = kft.sparsify(keras.Model(inputs, outputs), 0.5, seed=1)
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        "sparse_categorical_crossentropy",
    )
    return model


def trained(name, directory, killed_at=None):
    """All that a run leaves: weights, masks, what the method keeps, logs."""
    model = network()
    backup = kft.callbacks.Backup(directory)
    history = model.fit(
        X,
        Y,
        batch_size=12,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
        callbacks=[METHODS[name](), backup, Kill(killed_at)],
    )
    values = [np.array(v.value) for v in model.variables]
    return values, history.history


QUICK = ("dst_ee", "agent", "cigl")
CASES = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in METHODS
]


@pytest.mark.parametrize("name", CASES)
def test_a_killed_run_ends_as_the_whole_one(tmp_path, name):
    whole, logs = trained(name, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(name, tmp_path / "killed", killed_at=4)
    resumed, its_logs = trained(name, tmp_path / "killed")
    for one, other in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(one, other)
    assert its_logs == logs
