"""Models of tf_keras, pruned by tfmot in a process of its own, and read."""

import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_freetickets as kft
from keras_freetickets.models import tfmot_files

WRITE = """
import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"
import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras
from tf_keras import layers

tf_keras.utils.set_random_seed(0)
pruning = tfmot.sparsity.keras
dense = tf_keras.Sequential(
    [
        tf_keras.Input((8, 8, 1)),
        layers.Conv2D(8, 3, activation="relu"),
        layers.BatchNormalization(),
        layers.Flatten(),
        layers.Dense(16, activation="relu"),
    ]
)
last = layers.Dense(3, activation="softmax")
schedule = pruning.PolynomialDecay(0.5, 0.8, 0, 20, frequency=2)
model = pruning.prune_low_magnitude(dense, pruning_schedule=schedule)
model.add(last)  # as it is
model.compile("adam", "sparse_categorical_crossentropy")
x = np.random.default_rng(0).normal(size=(128, 8, 8, 1)).astype("float32")
update = pruning.UpdatePruningStep()
model.fit(x, np.arange(128) % 3, epochs=3, verbose=0, callbacks=[update])
for ending in ("h5", "keras"):
    model.save(f"wrapped.{ending}")
stripped = pruning.strip_pruning(model)
for ending in ("h5", "keras"):
    stripped.save(f"stripped.{ending}")
dense = tf_keras.Sequential([tf_keras.Input((4,)), layers.Dense(2)])
dense.save("dense.h5")
np.savez("told.npz", x=x, y=stripped.predict(x, verbose=0))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    pytest.importorskip("tensorflow_model_optimization")
    folder = tmp_path_factory.mktemp("tfmot")
    subprocess.run([sys.executable, "-c", WRITE], cwd=folder, check=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["h5", "keras"])
@pytest.mark.parametrize("kind", ["wrapped", "stripped"])
def test_files(kind, ending, files):
    found = kft.from_tfmot(files / f"{kind}.{ending}")
    model = found.model
    assert isinstance(model, kft.SparseModel)
    names = [layer.name for layer in model.layers]
    masks = [m.mask.numpy() for m in model.masked_kernels]
    assert [mask.shape for mask in masks] == [(3, 3, 1, 8), (288, 16)], names
    # At step 12 of 20: 0.8 - 0.3 * (1 - 12 / 20) ** 3.
    for mask, masked in zip(masks, model.masked_kernels, strict=True):
        assert 1 - mask.mean() == pytest.approx(0.78, abs=0.01)
        kernel = masked.kernel.numpy()
        np.testing.assert_array_equal(kernel != 0, mask)
    told = np.load(files / "told.npz")
    np.testing.assert_allclose(
        model.predict(told["x"], verbose=0), told["y"], atol=1e-6
    )
    if kind == "stripped":
        assert found.method is None and found.step is None
        return
    assert found.step == 12
    method = found.method
    assert (method.start_step, method.update_interval) == (0, 2)
    assert method.sparsities[0] == pytest.approx(0.5)
    assert method.sparsities[-1] == pytest.approx(0.8)


@pytest.mark.slow
@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="no training there"
)
def test_training_goes_on_where_it_stopped(files):
    found = kft.from_tfmot(files / "wrapped.h5")
    model = found.model
    model.compile("adam", "sparse_categorical_crossentropy")
    model.optimizer.iterations.assign(found.step)
    told = np.load(files / "told.npz")
    gmp = kft.callbacks.DropAndGrow(found.method)
    before = [masked.mask.numpy() for masked in model.masked_kernels]
    labels = np.arange(128) % 3
    model.fit(told["x"], labels, epochs=3, verbose=0, callbacks=[gmp])
    for masked, mask in zip(model.masked_kernels, before, strict=True):
        now = masked.mask.numpy()
        assert 1 - now.mean() == pytest.approx(0.8, abs=0.01)
        assert not (now & ~mask).any()  # what was pruned stays so


@pytest.mark.slow
def test_other_files(files, tmp_path):
    with pytest.raises(ValueError, match="of which weights are pruned"):
        kft.from_tfmot(files / "dense.h5")
    (tmp_path / "model.h5").write_text("no model")
    with pytest.raises(ValueError, match="must be a model of tf_keras"):
        kft.from_tfmot(tmp_path / "model.h5")


@pytest.mark.parametrize("path", ["none.h5", None, 3])
def test_no_file(path, monkeypatch):
    monkeypatch.setattr(tfmot_files.importlib.util, "find_spec", lambda _: 1)
    with pytest.raises(ValueError, match="`path` must be a file"):
        kft.from_tfmot(path)


def test_missing_packages(monkeypatch):
    def missing(name):
        raise ImportError(f"no {name}")

    monkeypatch.setattr(tfmot_files.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(tfmot_files, "import_optional", missing)
    with pytest.raises(ImportError, match="no tensorflow_model_optimization"):
        kft.from_tfmot("model.h5")
