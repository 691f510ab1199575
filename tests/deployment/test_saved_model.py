import subprocess
import sys

import exports
import keras
import numpy as np
import pytest

import keras_freetickets as kft

if keras.backend.backend() != "tensorflow":
    pytest.skip("TensorFlow's variables", allow_module_level=True)


def variables(path):
    """Shapes of the stored variables with two axes."""
    import tensorflow as tf

    found = tf.train.list_variables(str(path / "variables" / "variables"))
    return sorted(tuple(shape) for _, shape in found if len(shape) == 2)


def test_trap_each_kernel_twice(tmp_path):
    """Keras' own file has them twice."""
    model = kft.strip(exports.sparse())
    model.export(tmp_path / "own", verbose=False)
    assert variables(tmp_path / "own") == [(24, 48)] * 2 + [(48, 3)] * 2
    kft.export(model, tmp_path / "ours", verbose=False)
    assert variables(tmp_path / "ours") == [(24, 48), (48, 3)]


def test_half_precision_is_stored(tmp_path):
    import tensorflow as tf

    path = tmp_path / "served"
    kft.export(exports.sparse(), path, dtype="float16", verbose=False)
    reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
    kinds = reader.get_variable_to_dtype_map()
    stored = [kinds[name] for name in kinds if "variable" in name.lower()]
    assert tf.float16 in stored and tf.float32 not in stored


SERVE = """
import sys
import numpy as np
import tensorflow as tf

assert not {"keras_freetickets"} & set(sys.modules)
loaded = tf.saved_model.load("served")
serve = loaded.signatures["serving_default"]
found = serve(inputs=tf.constant(np.load("x.npy")))
np.save("found.npy", next(iter(found.values())).numpy())
"""


def test_the_signature_of_tensorflow_serving(tmp_path):
    model, x = exports.ensemble(), exports.examples(5)
    kft.export(model, tmp_path / "served", verbose=False)
    np.save(tmp_path / "x.npy", x)
    subprocess.run([sys.executable, "-c", SERVE], cwd=tmp_path, check=True)
    found = np.load(tmp_path / "found.npy")
    np.testing.assert_allclose(found, model.predict(x, verbose=0), atol=1e-6)


@pytest.mark.parametrize("as_dict", [False, True])
def test_several_inputs_and_outputs(as_dict, tmp_path):
    model, path = exports.several(as_dict), tmp_path / "served"
    assert kft.export(model, path, verbose=False).difference < 1e-5


def test_a_directory_is_replaced(tmp_path):
    for _ in range(2):
        kft.export(
            exports.sparse(), tmp_path / "served", overwrite=True, verbose=False
        )
    assert [one.name for one in tmp_path.iterdir()] == ["served"]


def test_uncertainty_has_names(tmp_path):
    graph = kft.deployment.with_uncertainty(exports.ensemble())
    report = kft.export(graph, tmp_path / "served", verbose=False)
    assert report.difference < 1e-5
