"""Prediction in processes that have no Keras."""

import os
import subprocess
import sys

import keras
import numpy as np

import keras_freetickets as kft

BLOCKED = """
import importlib.abc
import sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ("keras", "tensorflow", "jax", "torch"):
            raise ModuleNotFoundError("blocked: " + name, name=name)

sys.meta_path.insert(0, Blocked())
"""


def run(program, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        # Of the backends JAX is imported in the shortest time.
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "KERAS_BACKEND": "jax",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_predicts_without_keras(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((20,)),
            keras.layers.Dense(30, "gelu"),
            keras.layers.Dense(4),
        ]
    )
    members = [kft.sparsify(model, sparsity=0.8, seed=i) for i in range(2)]
    ensemble = kft.EnsembleModel(members, from_logits=True)
    ensemble.save_packed(tmp_path / "ensemble.npz", "float16")
    x = np.random.default_rng(0).standard_normal((5, 20)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    run(
        BLOCKED
        + """
import numpy as np
import keras_freetickets.serving
folder = sys.argv[1]
predictor = keras_freetickets.serving.SparsePredictor.load(
    folder + "/ensemble.npz"
)
x = np.load(folder + "/x.npy")
np.save(folder + "/y.npy", predictor.predict(x))
assert not {"keras", "tensorflow", "jax"} & set(sys.modules)
""",
        tmp_path,
    )
    ensemble = kft.EnsembleModel.from_packed(tmp_path / "ensemble.npz")
    expected = ensemble.predict(x, verbose=0)
    found = np.load(tmp_path / "y.npy")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_numba_is_imported_late():
    run(
        "import sys; import keras_freetickets as kft; kft.serving;"
        "assert not {'keras', 'numba'} & set(sys.modules)"
    )


STUB = """
import sys, types
{before}
assert "keras_freetickets.api" not in sys.modules
{then}
assert "keras_freetickets.api" in sys.modules
import keras
found = keras.saving.get_registered_object("keras_freetickets>Sparse")
assert found is keras_freetickets.layers.Sparse
assert keras.__spec__.loader is keras.__loader__
assert type(keras.__loader__).__module__ != "keras_freetickets.loading"
import keras_freetickets.loading
assert keras_freetickets.loading._finder not in sys.meta_path
"""


def test_classes_are_registered_with_keras():
    """Also where nothing of the package is used after its import."""
    run(
        STUB.format(
            before="import keras_freetickets, importlib.util;"
            "importlib.util.find_spec('keras')",
            then="import keras",
        )
    )


def test_a_part_imports_all():
    run(
        STUB.format(
            before="import keras_freetickets.serving",
            then="from keras_freetickets.topology import criteria;"
            "import keras_freetickets.topology.criteria as c;"
            "assert c is criteria",
        )
    )


def test_a_name_imports_all():
    run(
        STUB.format(
            before="import keras_freetickets",
            then="from keras_freetickets import *;"
            "assert EnsembleModel is keras_freetickets.EnsembleModel",
        )
    )


def test_names():
    assert "EnsembleModel" in dir(kft)
    assert not hasattr(kft, "nothing")
    assert kft.models.SparseModel is kft.SparseModel
