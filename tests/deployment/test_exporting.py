import json
import os
import pathlib

import exports
import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft
from keras_freetickets.deployment import comparison
from keras_freetickets.deployment import formats

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="converted by TensorFlow"
)


def installed(name, dtype="float32"):
    """Skips where a package of the format is not installed."""
    try:
        formats.get(name).check_installed(dtype)
    except ImportError as error:
        pytest.skip(str(error))


def run(kind, name, dtype, folder, **settings):
    installed(name, dtype)
    model = exports.shared(kind)
    data = exports.examples() if dtype == "int8" else None
    path = folder / exports.FORMATS[name]
    report = kft.export(
        model,
        path,
        dtype=dtype,
        representative_data=data,
        verbose=False,
        **settings,
    )
    assert report.format == name and report.dtype == dtype
    assert report.path == str(path) and path.exists()
    assert report.bytes == sum(
        one.stat().st_size for one in folder.rglob("*") if one.is_file()
    )
    assert report.relative_difference < comparison.LIMITS[dtype]
    # Zeros are exact, and 8 bits add some.
    assert report.zeros > 0.9
    return report


@on_tensorflow
@pytest.mark.parametrize("name, dtype", exports.CELLS)
def test_an_ensemble_in_each_format(name, dtype, tmp_path):
    run("ensemble", name, dtype, tmp_path)


@pytest.mark.slow
@on_tensorflow
@pytest.mark.parametrize("name, dtype", exports.CELLS)
@pytest.mark.parametrize("kind", sorted(set(exports.KINDS) - {"ensemble"}))
def test_each_kind_in_each_format(kind, name, dtype, tmp_path):
    run(kind, name, dtype, tmp_path)


@pytest.mark.slow
@on_tensorflow
@pytest.mark.parametrize("name, dtype", exports.CELLS)
@pytest.mark.parametrize("kind", ["images", "words"])
def test_other_networks_in_each_format(kind, name, dtype, tmp_path):
    installed(name, dtype)
    model, x = getattr(exports, kind)()
    report = kft.export(
        model,
        tmp_path / exports.FORMATS[name],
        dtype=dtype,
        representative_data=x,
        verbose=False,
    )
    assert report.difference < (0.2 if "int8" in dtype else 1e-2)


@pytest.mark.parametrize("kind", sorted(set(exports.KINDS) - {"ensemble"}))
def test_each_kind_for_keras(kind, tmp_path):
    run(kind, "keras", "float32", tmp_path)


@pytest.mark.parametrize("name, dtype", sorted(exports.NOT_WRITTEN))
def test_what_a_format_does_not_have(name, dtype, tmp_path):
    with pytest.raises(ValueError, match=r"`dtype` must be one of .*int8'$"):
        kft.export(
            exports.sparse(), tmp_path / exports.FORMATS[name], dtype=dtype
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="what JAX does not convert"
)
@pytest.mark.parametrize("name", ["litert", "onnx", "openvino"])
def test_what_jax_does_not_convert(name, tmp_path):
    path = tmp_path / exports.FORMATS[name]
    with pytest.raises(ValueError, match="`backend` must be 'tensorflow'"):
        kft.export(exports.sparse(), path)


@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="what JAX converts"
)
@pytest.mark.parametrize("dtype", ["float32", "int8_dynamic"])
def test_saved_models_of_jax(dtype, tmp_path):
    run("ensemble", "saved_model", dtype, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="other backends"
)
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8_dynamic"])
@pytest.mark.parametrize("name", ["keras", "saved_model"])
@pytest.mark.parametrize("kind", sorted(exports.KINDS))
def test_each_kind_on_other_backends(kind, name, dtype, tmp_path):
    backend = keras.backend.backend()
    if backend not in formats.get(name).backends:
        pytest.skip("not written on this backend")
    if (name, dtype) == ("saved_model", "float16"):
        with pytest.raises(ValueError, match="pass `backend='tensorflow'`"):
            run(kind, name, dtype, tmp_path)
        assert listed(tmp_path) == set()
    else:
        run(kind, name, dtype, tmp_path)


@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="a process on TensorFlow"
)
@pytest.mark.parametrize(
    "name, dtype",
    [
        cell if cell == ("litert", "int8") else pytest.param(*cell, marks=slow)
        for slow in [pytest.mark.slow]
        for cell in exports.CELLS
    ],
)
def test_from_jax_in_a_process_on_tensorflow(name, dtype, tmp_path):
    run("ensemble", name, dtype, tmp_path, backend="tensorflow")


def test_the_report_is_printed(tmp_path, capsys):
    report = kft.export(exports.ensemble(), tmp_path / "model.keras")
    printed = capsys.readouterr().out
    assert str(report) in printed
    for text in (f"{report.bytes:,}", f"{report.dense_bytes:,}", "random"):
        assert text in printed
    again = kft.deployment.ExportReport.from_json(report.to_json())
    assert again == report
    assert json.loads(report.to_json())["format"] == "keras"


def test_the_dense_network_is_one_and_dense(tmp_path):
    dense = exports.dense()
    dense.save(tmp_path / "dense.keras")
    size = (tmp_path / "dense.keras").stat().st_size
    for kind in ("sparse", "ensemble", "calibrated"):
        path = tmp_path / f"{kind}.keras"
        report = kft.export(exports.KINDS[kind](), path, verbose=False)
        assert report.dense_bytes == pytest.approx(size, rel=0.15)


def write(path, **changed):
    settings = {"dtype": "float32", "verbose": False, **changed}
    return kft.export(exports.sparse(), path, **settings)


def listed(folder):
    return {str(one.relative_to(folder)) for one in folder.rglob("*")}


def test_what_is_at_the_path_stays(tmp_path):
    path = tmp_path / "model.keras"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match=r"`path` must be free"):
        write(path)
    assert path.read_text() == "mine" and listed(tmp_path) == {"model.keras"}
    write(path, overwrite=True)
    assert keras.models.load_model(path).count_params() == 1347


def test_a_folder_that_is_no_export_is_not_overwritten(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("mine")
    with pytest.raises(ValueError, match="an earlier export"):
        write(tmp_path / "thesis", format="saved_model", overwrite=True)
    assert (tmp_path / "thesis" / "chapter").exists()


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("model.keras", {"format": "tflite"}, r"`format` must be one of \["),
        ("model.pb", {}, "`format` must be given for a path"),
        ("model.onnx", {"format": "litert"}, r"`path` must end with one of"),
        ("model", {"format": "onnx"}, r"`path` must end with one of"),
        ("model.keras.zip", {"format": "keras"}, "`path` must end with one"),
        ("model.keras", {"dtype": "int4"}, "`dtype` must be one of"),
        ("model.keras", {"check": "yes"}, "`check` must be True, False or"),
        ("model.keras", {"check": 0.0}, "`check` must be True, False or"),
        ("model.keras", {"sparse": 1}, "`sparse` must be True or False"),
        ("model.keras", {"backend": "jax"}, "`backend` must be one of"),
        (
            "model.keras",
            {"representative_data": np.zeros((8, 23), "float32")},
            r"`representative_data` must hold .*\(None, 24\).*\(8, 23\)",
        ),
        (
            "model.keras",
            {"representative_data": np.zeros((0, 24), "float32")},
            "`representative_data` must hold one example or more",
        ),
        (
            "model.keras",
            {"representative_data": [np.zeros((8, 24), "float32")] * 2},
            "`representative_data` must hold one example or more for each",
        ),
    ],
)
def test_wrong_arguments(name, settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / name, **settings)
    assert listed(tmp_path) == set()


@on_tensorflow
def test_int8_asks_for_representative_data(tmp_path):
    message = r"`representative_data` must be given .*data=None$"
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "model.tflite", dtype="int8")
    assert listed(tmp_path) == set()


@pytest.mark.parametrize("path", ["", None, 3])
def test_no_path(path):
    with pytest.raises(ValueError, match="`path` must be a path to write"):
        write(path)


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="a directory that can be written"):
        write(tmp_path / "file" / "model.keras")
    assert listed(tmp_path) == {"file"}


def test_no_model(tmp_path):
    with pytest.raises(TypeError, match=r"`model` must be a keras.Model"):
        kft.export("model.keras", tmp_path / "model.keras")
    unbuilt = keras.Sequential([layers.Dense(3)])
    with pytest.raises(ValueError, match="`model` must be built"):
        kft.export(unbuilt, tmp_path / "model.keras")


@pytest.mark.parametrize("name", sorted(exports.FORMATS))
def test_a_weight_that_half_precision_cannot_hold(name, tmp_path):
    installed(name, "float16")
    if keras.backend.backend() not in formats.get(name).backends:
        pytest.skip("not written on this backend")
    model = exports.dense()
    model.layers[0].bias.assign(np.full(48, 1e5))
    with pytest.raises(ValueError, match=r"must not be 'float16'.*100000\.0$"):
        kft.export(model, tmp_path / exports.FORMATS[name], dtype="float16")
    assert listed(tmp_path) == set()


def broken(monkeypatch, **changes):
    """Lets the format "keras" write or read something wrong."""
    kind = formats.get("keras")
    for name, function in changes.items():
        before = getattr(kind, name)
        monkeypatch.setattr(
            kind, name, lambda *a, f=function, b=before: f(b, *a)
        )


def test_a_file_that_predicts_something_else_is_not_left(tmp_path, monkeypatch):
    def write_other(before, job, path):
        job.model.layers[-1].bias.assign([0.0, 3.0, -3.0])
        return before(job, path)

    broken(monkeypatch, write=write_other)
    with pytest.raises(RuntimeError, match=r"predicts something else"):
        write(tmp_path / "model.keras")
    assert listed(tmp_path) == set()
    write(tmp_path / "unchecked.keras", check=False)
    assert write(tmp_path / "lenient.keras", check=1e3).difference > 0.1


def test_a_file_that_lost_zeros_is_not_left(tmp_path, monkeypatch):
    def write_dense(before, job, path):
        kernel = job.model.layers[-2].kernel
        kernel.assign(kernel.numpy() + 1e-9)
        return before(job, path)

    broken(monkeypatch, write=write_dense)
    with pytest.raises(RuntimeError, match=r"zeros were lost"):
        write(tmp_path / "model.keras")
    assert listed(tmp_path) == set()


def test_a_file_that_does_not_load_is_not_left(tmp_path, monkeypatch):
    def write_half(before, job, path):
        note = before(job, path)
        os.truncate(path, os.path.getsize(path) // 2)
        return note

    broken(monkeypatch, write=write_half)
    with pytest.raises(RuntimeError, match="its runtime cannot run it"):
        write(tmp_path / "model.keras")
    assert listed(tmp_path) == set()


def test_a_directory_for_a_file_that_failed_is_not_left(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="`representative_data` must hold"):
        write(
            tmp_path / "deep" / "model.tflite",
            representative_data=exports.examples()[:, :5],
        )
    assert not list(tmp_path.iterdir())

    def fail(before, job, path):
        raise KeyError("no such operation")

    broken(monkeypatch, write=fail)
    with pytest.raises(RuntimeError, match="converter of the format 'keras'"):
        write(tmp_path / "deep" / "deeper" / "model.keras")
    assert not list(tmp_path.iterdir())


def test_a_converter_that_fails_is_named(tmp_path, monkeypatch):
    def fail(before, job, path):
        pathlib.Path(path).write_text("half")
        raise KeyError("no such operation")

    broken(monkeypatch, write=fail)
    with pytest.raises(RuntimeError, match="converter of the format 'keras'"):
        write(tmp_path / "model.keras")
    assert listed(tmp_path) == set()


@pytest.mark.parametrize("name", sorted(set(exports.FORMATS) - {"keras"}))
def test_a_missing_package_is_named(name, tmp_path, monkeypatch):
    kind = formats.get(name)
    extra = {"saved_model": "tensorflow", "litert": "tensorflow"}.get(
        name, name
    )

    def missing(package):
        raise ImportError(f"pip install 'keras_freetickets[{extra}]'")

    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(formats.optional, "import_optional", missing)
    monkeypatch.setattr(kind, "backends", (keras.backend.backend(),))
    with pytest.raises(ImportError, match=rf"keras_freetickets\[{extra}\]"):
        write(tmp_path / exports.FORMATS[name])
    assert listed(tmp_path) == set()
