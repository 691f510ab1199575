import io
import subprocess
import sys
import zipfile

import exports
import h5py
import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft

LOAD = """
import sys
import keras
import numpy as np

model = keras.models.load_model("model.keras")
assert "keras_freetickets" not in sys.modules
np.save("found.npy", model.predict(np.load("x.npy"), verbose=0))
"""


@pytest.mark.parametrize(
    "kind", ["stripped", pytest.param("ensemble", marks=pytest.mark.slow)]
)
def test_it_loads_where_only_keras_is(kind, tmp_path):
    model, x = exports.KINDS[kind](), exports.examples(5)
    kft.export(model, tmp_path / "model.keras", verbose=False)
    np.save(tmp_path / "x.npy", x)
    subprocess.run([sys.executable, "-c", LOAD], cwd=tmp_path, check=True)
    found = np.load(tmp_path / "found.npy")
    np.testing.assert_allclose(found, model.predict(x, verbose=0), atol=1e-6)


def test_plain_files_name_no_class_of_this_package(tmp_path):
    for kind in ("sparse", "stripped", "ensemble"):
        path = tmp_path / f"{kind}.keras"
        kft.export(exports.KINDS[kind](), path, verbose=False)
        with zipfile.ZipFile(path) as archive:
            assert b"keras_freetickets" not in archive.read("config.json")


def datasets(path):
    """Shape, dtype and compression of each array in a file."""
    found = []

    def note(_, item):
        if isinstance(item, h5py.Dataset):
            found.append((item.shape, item.dtype.name, item.compression))

    with zipfile.ZipFile(path) as archive:
        content = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(content) as file:
        file.visititems(note)
    return found


def test_zeros_take_little_space(tmp_path):
    keras.utils.set_random_seed(0)
    wide = keras.Sequential([keras.Input((300,)), layers.Dense(200)])
    model = kft.strip(kft.sparsify(wide, 0.9))
    sizes = {}
    for sparse in (True, False):
        path = tmp_path / f"{sparse}.keras"
        report = kft.export(model, path, sparse=sparse, verbose=False)
        sizes[sparse] = report.bytes
        compression = {
            kind for shape, _, kind in datasets(path) if len(shape) > 1
        }
        assert compression == ({"gzip"} if sparse else {None})
    assert sizes[True] < 0.2 * sizes[False]


def test_half_precision_is_that_of_the_file(tmp_path):
    path, model = tmp_path / "model.keras", exports.sparse()
    kft.export(model, path, dtype="float16", verbose=False)
    assert {dtype for _, dtype, _ in datasets(path)} == {"float16"}
    again = keras.models.load_model(path)
    for weight, own in zip(
        again.weights, kft.strip(model).weights, strict=True
    ):
        assert weight.dtype == "float32"
        rounded = np.asarray(own).astype("float16").astype("float32")
        np.testing.assert_array_equal(np.asarray(weight), rounded)


def test_every_bit_comes_back(tmp_path):
    model = exports.ensemble()
    kft.export(model, tmp_path / "model.keras", verbose=False)
    again = keras.models.load_model(tmp_path / "model.keras")
    plain = kft.deployment.plain_model(model)
    for weight, own in zip(again.weights, plain.weights, strict=True):
        np.testing.assert_array_equal(weight, own)


@pytest.mark.parametrize("sparse", [True, False])
def test_an_optimizer_is_left_behind(sparse, tmp_path):
    model = exports.dense()
    kft.export(model, tmp_path / "a.keras", sparse=sparse, verbose=False)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(exports.examples(8), np.arange(8) % 3, verbose=0)
    report = kft.export(
        model, tmp_path / "b.keras", sparse=sparse, verbose=False
    )
    sizes = [(tmp_path / f"{name}.keras").stat().st_size for name in "ab"]
    # Adam's slots would make it three times as large.
    assert sizes[1] < 1.2 * sizes[0]
    if not sparse:
        assert report.dense_bytes == pytest.approx(sizes[1], rel=0.05)
    again = keras.models.load_model(tmp_path / "b.keras")
    assert not again.compiled and model.compiled


def test_layers_with_a_state(tmp_path):
    """Seeds and the statistics of batch normalization."""
    inputs = keras.Input((6,))
    x = layers.BatchNormalization()(layers.Dense(20)(inputs))
    outputs = layers.Dense(3)(layers.Dropout(0.5)(x))
    model = kft.sparsify(keras.Model(inputs, outputs), 0.5)
    model.compile("sgd", "mse")
    model.fit(np.ones((8, 6)), np.ones((8, 3)), verbose=0)
    kft.export(model, tmp_path / "model.keras", verbose=False)
    again = keras.models.load_model(tmp_path / "model.keras")
    for weight, own in zip(
        again.weights, kft.strip(model).weights, strict=True
    ):
        np.testing.assert_array_equal(weight, own)
