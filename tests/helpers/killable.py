"""A small EDST run that can be killed, for `test_backup.py`.

As a script: one start of the command `killable.py DIRECTORY`. With
`killable.py DIRECTORY compressed` the network is compressed, and it writes what
`run` returns to `DIRECTORY/result.pickle`; with a number after it, it kills
itself after so many steps.
"""

import os
import pickle
import signal
import sys

import keras
import numpy as np
from keras import layers

import keras_freetickets as kft
from keras_freetickets import keras_adapter

EPOCHS = 5


def network(units=12, convolutions=tuple, **kwargs):
    """Dropout, augmentation and batch normalization: all that has a state.

    Args:
        units: Integer, width of the hidden layer.
        convolutions: Callable that makes further layers, which draws their
            seeds after the random seed is set.
        **kwargs: Arguments of `sparsify`.
    """
    keras.utils.set_random_seed(3)
    dense = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.RandomTranslation(0.2, 0.2, seed=1),
            layers.Conv2D(4, 3),
            *convolutions(),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dropout(0.3, seed=2),
            layers.Dense(units, activation="relu"),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model = kft.sparsify(dense, 0.7, seed=4, **kwargs)
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def run(directory, model=None, callbacks=()):
    """One start of the same command; returns everything that it made.

    Args:
        directory: Where tickets and backups go.
        model: `None` for a new one.
        callbacks: List of further callbacks.
    """
    model = network() if model is None else model
    generator = np.random.default_rng(0)
    x = generator.normal(size=(32, 6, 6, 1)).astype("float32")
    y = generator.integers(0, 3, 32)
    edst = kft.callbacks.EDST(
        exploration_epochs=1,
        refinement_epochs=2,
        num_tickets=2,
        update_interval=3,
        monitor="loss",
        directory=os.path.join(directory, "tickets"),
    )
    backup = kft.callbacks.Backup(os.path.join(directory, "backup"))
    history = model.fit(
        x,
        y,
        batch_size=8,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
        callbacks=[edst, backup, *callbacks],
    )
    tickets = [
        keras.saving.load_model(path).get_weights()
        for path in sorted(
            os.path.join(edst.directory, name) for name in edst.store.read()
        )
    ]
    values = [v.numpy() for v in model.variables + model.optimizer.variables]
    seeds = [s.numpy() for s in keras_adapter.seed_states(model)]
    return values + seeds, tickets, history.history, edst.store.read()


def _convolutions():
    """One of each kind."""
    return [
        layers.Conv2D(8, 3, strides=2, padding="same"),
        layers.SeparableConv2D(8, 3, padding="same"),
        layers.Reshape((4, 8)),
        layers.Conv1D(8, 3, padding="causal", activation="relu"),
        layers.SeparableConv1D(8, 3, padding="same"),
    ]


def compressed_network():
    """Compressed kernels of each kind, and the smallest with masks.

    Of 0.3 times their weights these have more, rounded up.
    """
    return network(
        convolutions=_convolutions,
        distribution="uniform",
        storage="compressed",
        max_compressed_density=0.303,
    )


class KillAfter(keras.callbacks.Callback):
    """SIGKILL after a number of steps."""

    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)


def main(directory, storage="mask", steps=None):
    callbacks = [KillAfter(int(steps))] if steps else []
    compressed = storage == "compressed"
    model = compressed_network() if compressed else None
    found = run(directory, model, callbacks)
    if compressed:
        with open(os.path.join(directory, "result.pickle"), "wb") as file:
            pickle.dump(found, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
