import inspect
import pathlib
import subprocess
import sys

import keras
import pytest

import keras_freetickets as kft
from keras_freetickets import topology

ROOT = pathlib.Path(__file__).parents[1]
PLACES = [
    kft,
    kft.applications,
    kft.callbacks,
    kft.datasets,
    kft.layers,
    kft.metrics,
    topology,
    topology.schedules,
]


def public():
    for place in PLACES:
        names = getattr(place, "__all__", None) or [
            name
            for name, value in vars(place).items()
            if inspect.isclass(value) and value.__module__ == place.__name__
        ]
        for name in names:
            value = getattr(place, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                yield f"{place.__name__}.{name}", value


@pytest.mark.parametrize("name, value", list(public()))
def test_documented(name, value):
    text = inspect.getdoc(value)
    assert text and len(text.splitlines()) > 2, name


@pytest.mark.parametrize(
    "value",
    [
        kft.EnsembleModel,
        kft.SparseModel,
        kft.layers.Sparse,
        kft.metrics.ExpectedCalibrationError,
        topology.Method,
        topology.RigL,
        topology.SET,
    ],
)
def test_registered(value):
    name = keras.saving.get_registered_name(value)
    assert name == f"keras_freetickets>{value.__name__}"


EXTRAS = [
    "absl.flags",
    "matplotlib",
    "sklearn",
    "tensorflow_datasets",
    "tensorflow_model_optimization",
    "tf_keras",
]


def test_extras_are_not_imported():
    """Nothing of the extras but what Keras itself brings along."""
    code = (
        f"import sys, keras; extras = {EXTRAS}; "
        "before = {n for n in extras if n in sys.modules}; "
        "import keras_freetickets; "
        "after = {n for n in extras if n in sys.modules}; "
        "assert after == before, after - before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
