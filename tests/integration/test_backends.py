"""TensorFlow and JAX choose alike; PyTorch does all but train.

Each backend runs in a process of its own, started from one on TensorFlow.
"""

import importlib.util
import os
import pathlib

import cross_backends
import forked
import keras
import numpy as np
import pytest

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="runs all backends itself"
)
HELPERS = pathlib.Path(__file__).parents[1] / "helpers"
needs = {
    name: pytest.mark.skipif(
        importlib.util.find_spec(name) is None, reason=f"{name} is missing"
    )
    for name in ("jax", "torch")
}


def start(backend, script, *arguments):
    environment = {**os.environ, "KERAS_BACKEND": backend}
    return forked.Popen([HELPERS / script, *arguments], env=environment)


def finish(process):
    _, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Arrays by what they are, then by backend and mode."""
    folder = tmp_path_factory.mktemp("choices")
    files = {name: folder / f"{name}.npz" for name in ("tensorflow", "jax")}
    processes = [
        start(name, "choices.py", path) for name, path in files.items()
    ]
    for process in processes:
        finish(process)
    arrays = {}
    for backend, path in files.items():
        with np.load(path) as file:
            for name in file.files:
                mode, what = name.split("/", 1)
                of_modes = arrays.setdefault(what, {})
                of_modes[backend, mode] = file[name]
    return arrays


def assert_alike(found, prefix):
    """All backends and modes agree in dtype, shape and every bit."""
    names = [what for what in found if what.startswith(prefix)]
    assert names
    for what in names:
        (_, first), *others = found[what].items()
        assert {backend for backend, _ in found[what]} == {"tensorflow", "jax"}
        for mode, other in others:
            same = (other.dtype, other.shape) == (first.dtype, first.shape)
            assert same and other.tobytes() == first.tobytes(), (what, mode)


@needs["jax"]
@pytest.mark.parametrize("what", ["bits", "count", "masks"])
def test_the_same_choice_bit_for_bit(found, what):
    """One operation at a time, in a graph and under XLA."""
    assert_alike(found, what)


@needs["jax"]
@pytest.mark.parametrize("method", ["RigL", "SET", "EDST"])
def test_the_same_training_bit_for_bit(found, method):
    """Masks, kernels, slots and counters after a whole `fit`."""
    assert_alike(found, f"fit {method}")


@needs["torch"]
def test_all_but_training_on_torch(tmp_path):
    finish(start("torch", "without_training.py", tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_files_of_another_backend(backend, tmp_path):
    """Tickets, ensembles, packed files and backups."""
    pytest.importorskip(backend)
    finish(start(backend, "cross_backends.py", tmp_path))
    cross_backends.read(tmp_path)
