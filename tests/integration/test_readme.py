"""The snippet of the README, run as it stands but for the epochs."""

import pathlib
import re

import keras
import numpy as np
import tensorflow as tf
from keras import layers

ROOT = pathlib.Path(__file__).parents[2]
SHORTER = {
    "exploration_epochs=150": "exploration_epochs=2",
    "refinement_epochs=100": "refinement_epochs=2",
    "loss=...": "loss='sparse_categorical_crossentropy'",
}


def build_dense_model():
    return keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(16, activation="relu"),
            layers.Dense(3, activation="softmax"),
        ]
    )


def test_snippet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "README.md").read_text()
    code = re.search(r"```python\n(import keras\n.*?)```", page, re.S).group(1)
    for given, shorter in SHORTER.items():
        assert code.count(given) == 1
        code = code.replace(given, shorter)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(64, 8)).astype("float32")
    y = generator.integers(0, 3, 64)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    names = {"build_dense_model": build_dense_model}
    names.update(train=data, val=data, test=data)
    exec(code, names)
    assert names["ensemble"].num_members == 3
    assert (tmp_path / "run" / "saved_model" / "saved_model.pb").exists()
    probabilities = names["ensemble"].predict(x, verbose=0)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-6)
