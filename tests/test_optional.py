import pathlib
import subprocess
import sys
import tomllib

import pytest

from keras_freetickets import optional

ROOT = pathlib.Path(__file__).parents[1]
# As where they are not installed: an import of them or of a part of them fails.
BLOCKED = (
    "import sys",
    "for name in ('tensorflow', 'tensorflow_datasets'):",
    "    sys.modules[name] = None",
)


def run(backend, *lines):
    """Runs lines of Python in a process of their own."""
    code = "\n".join(
        ["import os", f"os.environ['KERAS_BACKEND'] = {backend!r}"]
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([code, *lines])],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_works_where_tensorflow_is_not_installed(backend):
    pytest.importorskip(backend)
    run(
        backend,
        *BLOCKED,
        "import keras, numpy as np",
        "import keras_freetickets as kft",
        "inputs = keras.Input((4,))",
        "outputs = keras.layers.Dense(3, activation='softmax')(inputs)",
        "model = kft.sparsify(keras.Model(inputs, outputs), 0.5)",
        "x, y = np.ones((8, 4), 'float32'), np.arange(8) % 3",
        "model.compile('sgd', 'sparse_categorical_crossentropy')",
        "if keras.backend.backend() == 'jax':",
        "    model.fit(x, y, verbose=0, callbacks=[kft.callbacks.RigL(1)])",
        "ensemble = kft.EnsembleModel([model, model])",
        "assert ensemble.predict(x, verbose=0).shape == (8, 3)",
        "images = np.full((2, 16, 16, 1), 128, 'uint8')",
        "assert (kft.datasets.corrupt(images, 'fog', 3) != images).any()",
        "for call, extra in (",
        "    (lambda: kft.datasets.load('optdigits'), 'examples'),",
        "    (lambda: kft.datasets.load_test('optdigits'), 'examples'),",
        "    (lambda: kft.datasets.load_corrupted('fog', 3), 'examples'),",
        "    (lambda: kft.datasets.corrupt(images, 'jpeg_compression', 3),",
        "     'tensorflow'),",
        "):",
        "    try:",
        "        call()",
        "    except ImportError as error:",
        "        advice = f\"pip install 'keras_freetickets[{extra}]'\"",
        "        assert advice in str(error), error",
        "    else:",
        "        raise AssertionError('no error')",
    )


def test_tensorflow_is_not_imported_under_jax():
    pytest.importorskip("jax")
    run(
        "jax",
        "import sys, keras_freetickets",
        "found = [n for n in sys.modules if n.split('.')[0] == 'tensorflow']",
        "assert not found, found[:5]",
    )


def test_advice_is_what_the_project_declares():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for extra, requirement in optional.PACKAGES.values():
        assert requirement in extras[extra]
    # The extra that `datasets.load` names brings all that it imports.
    assert "keras_freetickets[tensorflow]" in extras["examples"]


def test_a_broken_package_says_so_itself(monkeypatch, tmp_path):
    """Not that it is missing, if it is one of its own needs that is."""
    (tmp_path / "sklearn.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [n for n in sys.modules if n.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        optional.import_optional("sklearn")
