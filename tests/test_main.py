"""`python -m keras_freetickets`."""

import json
import subprocess
import sys

import exports
import keras
import numpy as np
import pytest

from keras_freetickets import __main__ as command


@pytest.fixture
def sources(tmp_path):
    """A file or directory of each kind that it reads."""
    found = {name: tmp_path / name for name in ("a.keras", "b.npz", "run")}
    exports.sparse().save(found["a.keras"])
    exports.ensemble().save_packed(found["b.npz"])
    found["run"].mkdir()
    for seed in range(2):
        exports.sparse(seed).save(found["run"] / f"ticket_{seed}.keras")
    return found


@pytest.mark.parametrize(
    "name, members", [("a.keras", 1), ("b.npz", 3), ("run", 2)]
)
def test_sources(name, members, sources, tmp_path, capsys):
    target, report = tmp_path / "out.keras", tmp_path / "report.json"
    given = ["export", str(sources[name]), str(target), "--json", str(report)]
    assert command.main(given) == 0
    assert "one dense network" in capsys.readouterr().out
    found = json.loads(report.read_text())
    assert found["path"] == str(target)
    assert keras.models.load_model(target).count_params() == members * 1347


def test_options(sources, tmp_path, capsys):
    np.save(tmp_path / "x.npy", exports.examples(8))
    target = tmp_path / "out.keras"
    given = ["export", str(sources["a.keras"]), str(target)]
    options = ["--dtype", "float16", "--dense", "--format", "keras"]
    data = ["--representative_data", str(tmp_path / "x.npy")]
    assert command.main([*given, *options, *data]) == 0
    said = capsys.readouterr().out
    assert "keras, float16" in said and "representative data" in said
    assert command.main(given) == 1
    assert "FileExistsError: `path` must be free" in capsys.readouterr().err
    np.savez(tmp_path / "x.npz", inputs=exports.examples(8))
    data = ["--representative_data", str(tmp_path / "x.npz")]
    assert command.main([*given, "--overwrite", "--no_check", *data]) == 0
    assert "not checked" in capsys.readouterr().out


def test_errors(tmp_path, capsys):
    target = str(tmp_path / "out.keras")
    assert command.main(["export", str(tmp_path / "none.keras"), target]) == 1
    assert "none.keras" in capsys.readouterr().err
    for wrong in ([], ["import"], ["export", "a", target, "--dtype=int4"]):
        with pytest.raises(SystemExit):
            command.main(wrong)


@pytest.mark.slow
def test_as_a_module(sources, tmp_path):
    target = str(tmp_path / "out.keras")
    subprocess.run(
        [
            sys.executable,
            *("-m", "keras_freetickets", "export"),
            *(str(sources["a.keras"]), target),
        ],
        check=True,
    )
    assert keras.models.load_model(target).count_params() == 1347
