"""Packed files of compressed members hold no positions that follow."""

import pathlib

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


def test_8_bits_are_those_of_masked_kernels(ensemble, x, tmp_path):
    path, masked = tmp_path / "e.npz", tmp_path / "masked.npz"
    ensemble.save_packed(path, dtype="int8")
    kft.decompress(ensemble).save_packed(masked, dtype="int8")
    config, entries = contents(path)
    (record,) = records_of(config, "/values")
    assert entries[record["values"]].dtype == np.int8
    pointers = config["variables"][record["pointers"]]
    assert pointers["path"].endswith("row_pointers")
    loaded = kft.EnsembleModel.from_packed(path)
    found = kft.decompress(loaded).arrays_by_path()
    expected = kft.EnsembleModel.from_packed(masked).arrays_by_path()
    kernels = [name for name in expected if name.endswith("/kernel")]
    assert len(kernels) == 3
    for name in kernels:
        np.testing.assert_array_equal(found[name], expected[name])
    predictor = kft.serving.SparsePredictor.load(path)
    np.testing.assert_allclose(
        predictor.predict(x), loaded.predict(x, verbose=0), 1e-5, 1e-6
    )


def test_8_bits_are_read_by_numpy_alone(ensemble, tmp_path):
    page = pathlib.Path(__file__).parents[2] / "docs" / "packed_file.md"
    code = page.read_text().split("```python\n")[1].split("```")[0]
    names = {}
    exec(code, names)
    path = tmp_path / "e.npz"
    ensemble.save_packed(path, dtype="int8")
    loaded = kft.EnsembleModel.from_packed(path).arrays_by_path()
    found = dict(names["read"](path))
    (values,) = (name for name in found if name.endswith("/values"))
    assert found[values].dtype == np.float32
    for name, array in found.items():
        np.testing.assert_array_equal(array, loaded[name])


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


def falling(config, entries):
    (record,) = records_of(config, "/values")
    pointers = config["variables"][record["pointers"]]
    entries[pointers["values"]][0, 1] = 30_000


def fewer_scales(config, entries):
    (record,) = records_of(config, "/values")
    entries[record["scales"]] = entries[record["scales"]][:, 1:]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (falling, "row pointers do not rise"),
        (fewer_scales, "scales are not of the shape"),
    ],
)
def test_scales_are_checked(ensemble, tmp_path, change, match):
    ensemble.save_packed(tmp_path / "e.npz", dtype="int8")
    config, entries = contents(tmp_path / "e.npz")
    change(config, entries)
    sealed(tmp_path / "e.npz", config, entries)
    refused(tmp_path / "e.npz", match)


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
