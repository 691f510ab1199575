"""Ensembles of tickets, and packed files that someone changed with care."""

import hashlib
import io
import json
import zipfile

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_freetickets as kft


def network(seed, dtype="float32", middle=None):
    keras.utils.set_random_seed(seed)
    parts = [
        layers.Conv2D(4, 3, dtype=dtype),
        layers.BatchNormalization(dtype=dtype),
        layers.Flatten(),
        layers.Dense(40, activation="relu", dtype=dtype),
        layers.Dropout(0.5),
        layers.Dense(3, activation="softmax", dtype=dtype),
    ]
    if middle is not None:
        parts.insert(3, middle)
    model = keras.Sequential([keras.Input((6, 6, 1)), *parts])
    model.layers[1].moving_mean.assign(np.full(4, 0.1 * seed))
    return model


def ticket(seed, **kwargs):
    return kft.sparsify(network(seed, **kwargs), 0.8, seed=seed)


def octets(model):
    return [
        (v.dtype, ops.convert_to_numpy(v.value).tobytes())
        for v in model.weights
    ]


def assert_same(loaded, ensemble, x):
    assert isinstance(loaded, kft.EnsembleModel)
    assert octets(loaded) == octets(ensemble)
    assert loaded.get_config()["name"] == ensemble.name
    for mine, other in [
        (loaded.predict(x, verbose=0), ensemble.predict(x, verbose=0)),
        (loaded.predict_members(x), ensemble.predict_members(x)),
    ]:
        np.testing.assert_array_equal(mine, other)


def refused(path, match):
    with pytest.raises(ValueError, match=match) as caught:
        kft.EnsembleModel.from_packed(path)
    assert "`path` must be a file as `save_packed` writes it" in str(
        caught.value
    )
    assert str(path) in str(caught.value)


def contents(file):
    with np.load(file, allow_pickle=False) as archive:
        entries = {name: archive[name] for name in archive.files}
    return json.loads(entries["config"].tobytes()), entries


def sealed(path, config, entries):
    """A file that someone made with care: its checksum is right."""
    text = json.dumps(config).encode()
    entries = {**entries, "config": np.frombuffer(text, "uint8")}
    buffer = io.BytesIO()
    np.savez(buffer, **entries)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = b"?" * 64
    body = buffer.getvalue()[:-64]
    path.write_bytes(body + hashlib.sha256(body).hexdigest().encode())
