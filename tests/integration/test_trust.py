"""The Python of docs/trust.md, run as it stands, and its figures."""

import pathlib
import re

import keras
import numpy as np
import pytest

import keras_freetickets as kft

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "trust.md"

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="pipelines of TensorFlow"
)


def _network(shape=(6,), activation="softmax"):
    return keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Flatten(),
            keras.layers.Dense(3, activation=activation),
        ]
    )


def test_trust(tmp_path, monkeypatch):
    import tensorflow as tf

    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    generator = np.random.default_rng(0)
    names = {"model": _network()}
    members = [names["model"], _network(), _network()]
    names["ensemble"] = kft.EnsembleModel(members)
    for part in ("val", "test", "train"):
        names[f"x_{part}"] = generator.normal(size=(60, 6)).astype("float32")
        names[f"y_{part}"] = generator.integers(3, size=60)
    names["strange"] = 5 * names["x_test"]
    names["images"] = generator.integers(
        256, size=(8, 28, 28, 1), dtype="uint8"
    )
    names["labels"] = generator.integers(3, size=8)
    names["pixels"] = (names["images"] / 255).astype("float32")
    names["image_model"] = _network((28, 28, 1), "linear")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    names["image_model"].compile(loss=loss)
    names["batches"] = tf.data.Dataset.from_tensor_slices(
        (names["images"], names["labels"])
    ).batch(4)
    text = PAGE.read_text()
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(block, names)
    assert (tmp_path / "run" / "calibrated.keras").exists()
    assert names["foggy"].shape == (8, 28, 28, 1)
    chances = names["chances"]
    error = kft.metrics.expected_calibration_error([1, 0, 1], chances)
    assert error == pytest.approx(0.3)
    assert float(names["brier"].result()) == pytest.approx(2 / 3)
    loss = kft.metrics.NegativeLogLikelihoodLoss(ignore_class=255)
    found = float(loss(names["tags"], names["tokens"]))
    assert found == pytest.approx(np.log(3), rel=1e-5)
    metrics, (p, y) = kft.metrics, (names["p"], names["y"])
    assert metrics.expected_calibration_error(y, p) == pytest.approx(
        0, abs=1e-6
    )
    np.testing.assert_allclose(
        metrics.calibration_errors_by_label(y, p), [0.1, 0.9], atol=1e-6
    )


def test_an_unknown_set_through_the_pipelines(tmp_path):
    """The digits as known, their corruption as shifted, end to end."""
    data = kft.datasets.load("optdigits", data_dir=str(tmp_path))
    with pytest.raises(ValueError, match="size of 16 or more"):
        kft.datasets.corrupt_dataset(data.test, "fog", 1, like=data)
    large = kft.datasets.load(
        "optdigits", data_dir=str(tmp_path), image_size=(28, 28)
    )
    model = kft.applications.small_cnn((28, 28, 1), classes=10)
    model.compile(
        loss="sparse_categorical_crossentropy",
        metrics=[kft.metrics.Accuracy(), kft.metrics.Brier()],
    )
    noisy = kft.datasets.corrupt_dataset(
        large.test, "gaussian_noise", 5, like=large
    )
    logs = model.evaluate(noisy, verbose=0, return_dict=True)
    assert 0 <= logs["accuracy"] <= 1 and 0 < logs["brier"] < 2
    difference = np.concatenate(
        [a - b for (a, _), (b, _) in zip(large.test, noisy, strict=True)]
    )
    # 0.1 of noise, less what is cut off at black and white.
    pixels = np.abs(difference * large.std).mean()
    assert 0.02 < pixels < 0.08
