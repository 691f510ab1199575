import exports
import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft
from keras_freetickets.deployment import formats
from keras_freetickets.deployment import litert

if keras.backend.backend() != "tensorflow":
    pytest.skip("Keras converts TensorFlow's models", allow_module_level=True)


def job(model, dtype):
    samples = [exports.examples()] if dtype == "int8" else []
    return formats.Job(model, formats.specs_of(model), dtype, True, samples)


def runtimes():
    """The class of each runtime that is installed."""
    import tensorflow as tf

    yield "tensorflow", tf.lite.Interpreter
    kind, name = litert.interpreter()
    if "ai-edge" in name:
        yield "ai_edge_litert", kind


def run(content, kind, x):
    runner = kind(model_content=content)
    found = runner.get_signature_runner("serving_default")(inputs=x)
    return next(iter(found.values()))


def is_sparse(content):
    return any(one.sparsity is not None for one, _ in litert._tensors(content))


@pytest.mark.parametrize("dtype", exports.DTYPES)
def test_which_layout_is_written(dtype, tmp_path):
    report = kft.export(
        exports.sparse(),
        tmp_path / "model.tflite",
        dtype=dtype,
        representative_data=exports.examples(),
        verbose=False,
    )
    content = (tmp_path / "model.tflite").read_bytes()
    assert is_sparse(content) == (dtype in ("float32", "float16"))
    assert bool(report.note) == dtype.startswith("int8")
    assert report.bytes == len(content)
    if is_sparse(content):
        assert report.bytes < report.dense_bytes


def test_dense_on_request(tmp_path):
    path = tmp_path / "model.tflite"
    report = kft.export(exports.sparse(), path, sparse=False, verbose=False)
    assert not is_sparse(path.read_bytes()) and not report.note
    assert report.bytes == pytest.approx(report.dense_bytes, rel=0.01)


def test_an_archive_of_8_bits(tmp_path):
    import zipfile

    model = exports.sparse()
    kft.export(
        model, tmp_path / "a.tflite", dtype="int8_dynamic", verbose=False
    )
    report = kft.export(
        model, tmp_path / "b.tflite.zip", dtype="int8_dynamic", verbose=False
    )
    assert report.bytes == (tmp_path / "b.tflite.zip").stat().st_size
    with zipfile.ZipFile(tmp_path / "b.tflite.zip") as archive:
        (name,) = archive.namelist()
        content = archive.read(name)
    assert name == "b.tflite"
    assert content == (tmp_path / "a.tflite").read_bytes()
    assert {one.name for one in tmp_path.iterdir()} == {
        "a.tflite",
        "b.tflite.zip",
    }


@pytest.mark.parametrize("dtype", ["int8_dynamic", "int8"])
def test_trap_8_bits_in_the_sparse_layout(dtype):
    """Why they are not written so."""
    model, x = kft.strip(exports.sparse()), exports.examples(4)
    content = litert._converted(job(model, dtype), sparse=True)
    assert is_sparse(content)
    for name, kind in runtimes():
        if (dtype, name) == ("int8", "tensorflow"):
            found = run(content, kind, x)
            assert np.abs(found - model.predict(x, verbose=0)).max() < 0.1
            continue
        with pytest.raises(RuntimeError, match="failed to"):
            run(content, kind, x)


def with_blocks(length):
    """A dense model of which kernels are zero in blocks along the inputs."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(32, activation="relu"),
            layers.Dense(32, activation="relu"),
            layers.Dense(3),
        ]
    )
    generator = np.random.default_rng(0)
    for layer in model.layers[:2]:
        inputs, units = layer.kernel.shape
        kept = generator.random((inputs // length, units)) < 0.2
        kernel = layer.kernel.numpy() * np.repeat(kept, length, axis=0)
        layer.kernel.assign(kernel)
    x = generator.normal(size=(16, 64)).astype("float32")
    return model, x


@pytest.mark.parametrize(
    "length, dtype", [(4, "float16"), (16, "int8_dynamic")]
)
def test_trap_blocks_are_computed_wrongly_in_silence(length, dtype, tmp_path):
    model, x = with_blocks(length)
    expected = model.predict(x, verbose=0)
    content = litert._converted(job(model, dtype), sparse=True)
    for _, kind in runtimes():
        found = run(content, kind, x)
        # NaN, or something that has little to do with the model.
        assert not np.abs(found - expected).max() < 0.3 * expected.std()
    path = tmp_path / "model.tflite"
    report = kft.export(
        model, path, dtype=dtype, representative_data=x, verbose=False
    )
    assert report.relative_difference < 0.05
    assert "like other values" in report.note
    assert not is_sparse(path.read_bytes())


def test_trap_inputs_beyond_the_last_block_are_lost(tmp_path):
    """In float32, of a kernel that is not even pruned in blocks."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((7,)), layers.Dense(5)])
    kernel = np.zeros((7, 5), "float32")
    kernel[:4, :2] = kernel[4, 4] = 1.0
    model.layers[0].kernel.assign(kernel)
    x = np.eye(7, dtype="float32")
    content = litert._converted(job(model, "float32"), sparse=True)
    for _, kind in runtimes():
        found = run(content, kind, x)
        assert (found[:4] == kernel[:4]).all() and found[4, 4] == 0
    path = tmp_path / "model.tflite"
    report = kft.export(model, path, verbose=False)
    assert report.difference == 0 and "misreads" in report.note


def test_blocks_in_single_precision(tmp_path):
    model, x = with_blocks(4)
    path = tmp_path / "model.tflite"
    report = kft.export(model, path, representative_data=x, verbose=False)
    assert is_sparse(path.read_bytes()) and not report.note


@pytest.mark.parametrize("as_dict", [False, True])
def test_several_inputs_and_outputs(as_dict, tmp_path):
    model, path = exports.several(as_dict), tmp_path / "model.tflite"
    assert kft.export(model, path, verbose=False).difference < 1e-5


def test_the_runtime_is_that_which_is_installed(monkeypatch):
    def missing(name):
        raise ImportError(name)

    _, name = litert.interpreter()
    import_optional = litert.import_optional
    monkeypatch.setattr(
        litert,
        "import_optional",
        lambda one: missing(one) if "edge" in one else import_optional(one),
    )
    assert "ai-edge" in name or name == litert.interpreter()[1]
    assert litert.interpreter()[1].startswith("tensorflow.lite")


def test_uncertainty_has_names(tmp_path):
    graph = kft.deployment.with_uncertainty(exports.ensemble())
    report = kft.export(graph, tmp_path / "model.tflite", verbose=False)
    assert report.difference < 1e-5
