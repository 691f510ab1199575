import exports
import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft
from keras_freetickets.deployment import quantization_aware

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="trained by TensorFlow"
)


def data(count=256):
    x = exports.examples(count)
    return x, (x[:, :8].sum(axis=1) > 0).astype("int64") + (x[:, 9] > 1)


def train(model, path, **changed):
    x, y = data()
    settings = {"epochs": 1, "verbose": False, **changed}
    return kft.deployment.train_for_8_bits(model, path, x, y, **settings)


@on_tensorflow
@pytest.mark.slow
def test_a_ticket_keeps_its_zeros_and_gets_better(tmp_path):
    pytest.importorskip("tensorflow_model_optimization")
    model = exports.sparse()
    x, y = data()
    settings = {"learning_rate": 1e-2, "epochs": 8}
    report = train(model, tmp_path / "model.tflite", **settings)
    assert report.zeros > 0.9 and report.dtype == "int8"
    assert report.bytes == (tmp_path / "model.tflite").stat().st_size
    kind = kft.deployment.formats.get("litert")
    specs = kft.deployment.formats.specs_of(model)
    found = kind.read(str(tmp_path / "model.tflite"), specs).predict([x])
    before = model.predict(x, verbose=0).argmax(-1)
    after = found[0].argmax(-1)
    assert (after == y).mean() > (before == y).mean() + 0.1


@on_tensorflow
@pytest.mark.slow
def test_a_graph_with_convolutions(tmp_path):
    pytest.importorskip("tensorflow_model_optimization")
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, padding="same")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.Conv2D(8, 3, padding="same")(x)
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    outputs = layers.Dense(3, activation="softmax")(x)
    model = kft.sparsify(keras.Model(inputs, outputs), 0.5)
    images = np.random.default_rng(0).normal(size=(64, 8, 8, 1))
    report = kft.deployment.train_for_8_bits(
        model,
        tmp_path / "model.tflite",
        images.astype("float32"),
        np.arange(64) % 3,
        epochs=1,
        verbose=False,
    )
    assert report.zeros > 0.45 and report.difference < 0.2


@on_tensorflow
@pytest.mark.slow
def test_a_layer_that_keras_2_does_not_have(tmp_path):
    pytest.importorskip("tensorflow_model_optimization")
    inputs = keras.Input((24,))
    x = layers.RMSNormalization()(layers.Dense(8)(inputs))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    with pytest.raises(ValueError, match="layers that tf_keras has"):
        train(model, tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


@on_tensorflow
@pytest.mark.slow
def test_a_layer_that_tfmot_does_not_train(tmp_path):
    pytest.importorskip("tensorflow_model_optimization")
    inputs = keras.Input((24,))
    x = layers.BatchNormalization()(layers.Dense(8, "relu")(inputs))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    with pytest.raises(ValueError, match="right behind a convolution"):
        train(model, tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


def test_blueprints():
    shared = layers.Dense(4, name="shared")
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    total = layers.Add(name="add")([shared(b), shared(a)])
    parts = quantization_aware.blueprint(keras.Model([a, b], total))
    assert [part["name"] for part in parts] == [
        "b",
        "shared",
        "a",
        "shared",
        "add",
    ]
    assert [part["inputs"] for part in parts] == [[], [0], [], [2], [1, 3]]
    assert [part["is_output"] for part in parts] == [False] * 4 + [True]
    assert parts[1]["config"]["units"] == 4
    sequential = quantization_aware.blueprint(exports.dense())
    names = [part["class_name"] for part in sequential]
    assert names == ["InputLayer", "Dense", "Dense"]


def test_what_has_no_blueprint():
    for model, message in (
        (exports.several(), "a graph of layers with one output"),
        (
            kft.deployment.plain_model(exports.ensemble()),
            "must not hold a model",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            quantization_aware.blueprint(model)


@on_tensorflow
@pytest.mark.parametrize(
    "changed, message",
    [
        ({"epochs": 0}, "`epochs` must be a positive integer"),
        ({"batch_size": 1.5}, "`batch_size` must be a positive integer"),
        ({"learning_rate": 0}, "`learning_rate` must be positive"),
        ({"seed": -1}, "`seed` must be a non-negative integer"),
    ],
)
def test_wrong_arguments(changed, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(exports.sparse(), tmp_path / "model.tflite", **changed)


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="TensorFlow does"
)
def test_other_backends(tmp_path):
    with pytest.raises(ValueError, match="KERAS_BACKEND=tensorflow"):
        train(exports.sparse(), tmp_path / "model.tflite")


@on_tensorflow
def test_missing_packages(tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(f"no {name}")

    monkeypatch.setattr(quantization_aware.formats, "check_package", missing)
    with pytest.raises(ImportError, match="no tensorflow_model_optimization"):
        train(exports.sparse(), tmp_path / "model.tflite")
