"""Files that one backend writes and another reads, for `test_backends.py`.

As a script: `cross_backends.py DIRECTORY` writes them.
"""

import os
import sys
import warnings

import keras
import numpy as np
from keras import layers

import keras_freetickets as kft

X = np.random.default_rng(0).normal(size=(8, 6, 6, 1)).astype("float32")
Y = np.arange(8) % 3


def network(seed):
    """With layers that hold seeds and counts, in integers of the backend."""
    keras.utils.set_random_seed(seed)
    normalization = layers.Normalization()
    normalization.adapt(X)
    dense = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.RandomFlip(seed=5),
            normalization,
            layers.Conv2D(4, 3, activation="relu"),
            layers.Dropout(0.2),
            layers.Flatten(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model = kft.sparsify(dense, 0.5, seed=seed)
    model.compile(
        keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy"
    )
    return model


def write(directory):
    def at(name):
        return os.path.join(directory, name)

    model = network(0)
    if keras.backend.backend() != "torch":
        fit(model, at("backup"), epochs=1)
    model.save(at("model.keras"))
    ensemble = kft.EnsembleModel([model, network(1)])
    ensemble.save(at("ensemble.keras"))
    ensemble.save_packed(at("ensemble.npz"))
    kft.calibration.calibrate(ensemble, X, Y).save(at("calibrated.keras"))
    np.savez(
        at("expected.npz"),
        model=model.predict(X, verbose=0),
        members=ensemble.predict_members(X),
    )


def fit(model, directory, epochs):
    backup = kft.callbacks.Backup(directory)
    model.fit(X, Y, verbose=0, epochs=epochs, callbacks=[backup])
    return backup


def read(directory):
    """Checks what another backend wrote."""

    def at(name):
        return os.path.join(directory, name)

    expected = np.load(at("expected.npz"))
    model = keras.saving.load_model(at("model.keras"))
    found = model.predict(X, verbose=0)
    np.testing.assert_allclose(found, expected["model"], atol=1e-5)
    for ensemble in (
        keras.saving.load_model(at("ensemble.keras")),
        kft.EnsembleModel.from_packed(at("ensemble.npz")),
    ):
        members = ensemble.predict_members(X)
        np.testing.assert_allclose(members, expected["members"], atol=1e-5)
        ensemble.evaluate(X, Y, verbose=0)
    keras.saving.load_model(at("calibrated.keras")).evaluate(X, Y, verbose=0)
    if os.path.exists(at("backup")):
        model = network(3)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            backup = fit(model, at("backup"), epochs=1)
        assert any("was written on the backend" in str(w.message) for w in said)
        assert backup.history["epoch"] == [0]  # no epoch was left to do
        found = model.predict(X, verbose=0)
        np.testing.assert_allclose(found, expected["model"], atol=1e-5)


if __name__ == "__main__":
    write(sys.argv[1])
