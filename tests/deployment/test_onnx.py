import contextlib
import pathlib
import re
import subprocess
import sys

import exports
import keras
import numpy as np
import pytest

import keras_freetickets as kft

if keras.backend.backend() != "tensorflow":
    pytest.skip("written on TensorFlow", allow_module_level=True)
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("tf2onnx")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One network in either layout, and what is said of it."""
    folder = tmp_path_factory.mktemp("onnx")
    made = {}
    for name, sparse in (("sparse", True), ("dense", False)):
        path = folder / f"{name}.onnx"
        report = kft.export(
            exports.sparse(), path, sparse=sparse, verbose=False
        )
        made[name] = str(path), report
    return made


def test_layouts(files):
    for name, (path, report) in files.items():
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=name == "dense")
        count = len(model.graph.sparse_initializer)
        # The last kernel, of 144 weights, too.
        assert count == (2 if name == "sparse" else 0)
        for one in model.graph.sparse_initializer:
            assert one.indices.data_type == onnx.TensorProto.INT64
        assert report.zeros == pytest.approx(0.9, abs=0.01)
    assert files["sparse"][1].bytes < files["dense"][1].bytes


def test_ends_have_names(files):
    model = onnx.load(files["sparse"][0])
    assert [one.name for one in model.graph.input] == ["inputs"]
    assert [one.name for one in model.graph.output] == ["outputs"]


def test_trap_a_model_that_was_never_called(tmp_path):
    fresh = kft.strip(exports.sparse())
    with pytest.raises(ValueError, match="never called"):
        fresh.export(tmp_path / "own.onnx", format="onnx", verbose=False)
    kft.export(fresh, tmp_path / "ours.onnx", verbose=False)


def test_trap_what_does_not_read_sparse_initializers(files, tmp_path):
    """Why they are made last."""
    from onnx import reference
    from onnx import version_converter
    from onnxruntime import quantization

    def evaluate(path):
        evaluator = reference.ReferenceEvaluator(path)
        return evaluator.run(None, {"inputs": exports.examples(2)})

    def convert(path):
        return version_converter.convert_version(onnx.load(path), 18)

    def quantize(path):
        target = str(tmp_path / "quantized.onnx")
        quantization.quantize_dynamic(path, target)
        model = onnx.load(target)
        assert any("Integer" in node.op_type for node in model.graph.node)

    for function in (evaluate, convert, quantize):
        function(files["dense"][0])
        with pytest.raises(Exception):  # noqa: B017  of any class
            function(files["sparse"][0])


def test_trap_openvino_does_not_read_them(files):
    openvino = pytest.importorskip("openvino")
    openvino.Core().read_model(files["dense"][0])
    with pytest.raises(RuntimeError):
        openvino.Core().read_model(files["sparse"][0])


def test_half_precision_is_cast_when_it_is_read(tmp_path):
    path = tmp_path / "model.onnx"
    report = kft.export(
        exports.ensemble(), path, dtype="float16", verbose=False
    )
    model = onnx.load(path)
    stored = [one.values.data_type for one in model.graph.sparse_initializer]
    stored += [
        one.data_type for one in model.graph.initializer if len(one.dims) > 1
    ]
    assert stored == [onnx.TensorProto.FLOAT16] * 6
    assert report.difference < 1e-3


@pytest.mark.parametrize("as_dict", [False, True])
def test_several_inputs_and_outputs(as_dict, tmp_path):
    model, path = exports.several(as_dict), tmp_path / "model.onnx"
    assert kft.export(model, path, verbose=False).difference < 1e-5
    names = [one.name for one in onnx.load(path).graph.output]
    assert names == ["output_0", "output_1"]


def test_a_kernel_is_dense_where_that_is_smaller(tmp_path):
    model = exports.dense()
    kept = np.random.default_rng(0).random((24, 48)) < 0.4
    model.layers[0].kernel.assign(model.layers[0].kernel.numpy() * kept)
    kft.export(model, tmp_path / "model.onnx", verbose=False)
    found = onnx.load(tmp_path / "model.onnx")
    assert not found.graph.sparse_initializer


def test_uncertainty_is_served_where_only_onnx_runtime_is(tmp_path):
    """The code of docs/deploy.md: a process without Keras or this package."""
    text = (pathlib.Path(__file__).parents[2] / "docs/deploy.md").read_text()
    write, serve = re.findall(
        r"```python\n([^`]*ensemble\.onnx[^`]*)```", text, flags=re.S
    )
    ensemble, x = exports.ensemble(), exports.examples(5)
    with contextlib.chdir(tmp_path):
        exec(write, {"kft": kft, "ensemble": ensemble})
    np.save(tmp_path / "x.npy", x)
    code = [
        "import sys, numpy as np",
        "x = np.load('x.npy')",
        serve,
        "np.savez('found.npz', *found)",
        "loaded = {name.partition('.')[0] for name in sys.modules}",
        "assert not loaded & {'keras', 'tensorflow', 'keras_freetickets'}",
    ]
    subprocess.run(
        [sys.executable, "-P", "-c", "\n".join(code)],
        cwd=tmp_path,
        check=True,
    )
    wanted = ensemble.predict_uncertainty(x)
    found = np.load(tmp_path / "found.npz")
    for i, name in enumerate(["probabilities", "mutual_information"]):
        np.testing.assert_allclose(found[f"arr_{i}"], wanted[name], atol=1e-5)
    members = np.swapaxes(found["arr_2"], 0, 1)
    np.testing.assert_allclose(members, ensemble.predict_members(x), atol=1e-6)
