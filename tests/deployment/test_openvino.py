import exports
import keras
import numpy as np
import pytest

import keras_freetickets as kft

if keras.backend.backend() != "tensorflow":
    pytest.skip("written on TensorFlow", allow_module_level=True)
openvino = pytest.importorskip("openvino")


def constants(path):
    """Types of the constants with more than one value."""
    model = openvino.Core().read_model(path)
    return [
        node.get_element_type().get_type_name()
        for node in model.get_ops()
        if node.get_type_name() == "Constant" and np.prod(node.shape) > 99
    ]


def test_trap_masks_of_ensembles(tmp_path):
    """Keras' own export of an ensemble keeps them."""
    ensemble = exports.ensemble()
    ensemble.export(str(tmp_path / "own.xml"), format="openvino")
    kft.export(ensemble, tmp_path / "ours.xml", verbose=False)
    assert constants(tmp_path / "ours.xml") == ["f32"] * 6
    own = (tmp_path / "own.bin").stat().st_size
    assert (tmp_path / "ours.bin").stat().st_size <= own


def test_trap_models_that_keras_quantized(tmp_path):
    """They convert, load and predict wrongly: the check says so."""
    model = kft.strip(exports.sparse())
    model.quantize("int8")
    with pytest.raises(RuntimeError, match="predicts something else"):
        kft.export(model, tmp_path / "model.xml")
    assert not list(tmp_path.iterdir())


def test_half_precision(tmp_path):
    report = kft.export(
        exports.sparse(), tmp_path / "a.xml", dtype="float16", verbose=False
    )
    assert constants(tmp_path / "a.xml") == ["f16"] * 2
    sizes = [one.stat().st_size for one in tmp_path.iterdir()]
    assert report.bytes == sum(sizes) and len(sizes) == 2


def test_either_file_is_kept(tmp_path):
    (tmp_path / "model.bin").write_text("mine")
    with pytest.raises(FileExistsError, match=r"there is .*model\.bin"):
        kft.export(exports.sparse(), tmp_path / "model.xml")
    assert (tmp_path / "model.bin").read_text() == "mine"
    for _ in range(2):  # the second over the first
        kft.export(
            exports.sparse(),
            tmp_path / "model.xml",
            overwrite=True,
            verbose=False,
        )


@pytest.mark.parametrize("as_dict", [False, True])
def test_several_inputs_and_outputs(as_dict, tmp_path):
    model, path = exports.several(as_dict), tmp_path / "model.xml"
    assert kft.export(model, path, verbose=False).difference < 1e-5


def test_uncertainty_has_names(tmp_path):
    graph = kft.deployment.with_uncertainty(exports.ensemble())
    report = kft.export(graph, tmp_path / "model.xml", verbose=False)
    assert report.difference < 1e-5
    compiled = openvino.Core().compile_model(tmp_path / "model.xml", "CPU")
    found = compiled(exports.examples(4))
    assert found["members"].shape == (4, 3, 3)
    assert found["mutual_information"].shape == (4,)
