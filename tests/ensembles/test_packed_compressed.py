"""Packed files of compressed members hold no positions that follow."""

import keras
import numpy as np
import pytest
from packed_files import assert_same
from packed_files import contents
from packed_files import refused
from packed_files import sealed
from packed_files import ticket

import keras_freetickets as kft
from keras_freetickets.ensembles.member_stacks import MemberStacks

if keras.backend.backend() == "torch":
    pytest.skip("no compressed kernels there", allow_module_level=True)
pytest.importorskip("numba")


@pytest.fixture(scope="module")
def ensemble():
    masked = kft.EnsembleModel([ticket(seed) for seed in (1, 2, 3)])
    return kft.compress(masked, max_compressed_density=0.99)


@pytest.fixture
def file(ensemble, tmp_path):
    ensemble.save_packed(tmp_path / "ensemble.npz")
    return tmp_path / "ensemble.npz"


@pytest.fixture(scope="module")
def x():
    generator = np.random.default_rng(0)
    return generator.normal(size=(10, 6, 6, 1)).astype("float32")


def records_of(config, end):
    return [r for r in config["variables"] if r["path"].endswith(end)]


def test_every_bit_comes_back(ensemble, file, x):
    config, entries = contents(file)
    for end in ("input_pointers", "place_units"):
        found = records_of(config, end)
        assert len(found) == 1  # the other layers keep masks
        assert all(record["follows"] is True for record in found)
        assert not any("values" in record for record in found)
    assert len(entries) < len(config["variables"])
    loaded = kft.EnsembleModel.from_packed(file)
    assert_same(loaded, ensemble, x)
    predictor = kft.serving.SparsePredictor.load(file)
    np.testing.assert_allclose(
        predictor.predict(x), ensemble.predict(x, verbose=0), 1e-5, 1e-6
    )


def test_files_of_version_2_are_read(ensemble, x, tmp_path, monkeypatch):
    """They have all positions."""
    path = tmp_path / "e.npz"
    ensemble.save_packed(path)
    size = path.stat().st_size
    monkeypatch.setattr(MemberStacks, "following", lambda stacks: set())
    ensemble.save_packed(path)
    assert path.stat().st_size > 1.1 * size
    config, entries = contents(path)
    config["version"] = 2
    sealed(path, config, entries)
    assert_same(kft.EnsembleModel.from_packed(path), ensemble, x)


def unsorted(config, entries):
    columns = entries[records_of(config, "column_indices")[0]["values"]]
    columns[1, :2] = columns[1, 1::-1]


def beyond(config, entries):
    columns = entries[records_of(config, "column_indices")[0]["values"]]
    columns[0, 0] = 60_000


def no_columns(config, entries):
    record = records_of(config, "column_indices")[0]
    del record["values"]
    record["follows"] = True


def no_values(config, entries):
    record = records_of(config, "/values")[0]
    record["follows"] = True


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (unsorted, "`column_indices` must rise within each output unit"),
        (beyond, "`column_indices` must be in"),
        (no_columns, "are missing"),
        (no_values, "are missing"),
    ],
)
def test_positions_are_checked(file, tmp_path, change, match):
    config, entries = contents(file)
    change(config, entries)
    sealed(tmp_path / "e.npz", config, entries)
    refused(tmp_path / "e.npz", match)
