"""The short examples, run from their first line to their last."""

import os
import pathlib
import re
import runpy
import time

import keras
import pytest

FOLDER = pathlib.Path(__file__).parents[2] / "examples" / "quick"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py"))


def numbers(pattern, text):
    found = [float(number) for number in re.findall(pattern, text)]
    assert found, text
    return found


def check_sparse(said, folder):
    (accuracy,) = numbers(r"a tenth of the weights: ([\d.]+)", said)
    assert accuracy > 0.9
    assert (folder / "sparse.keras").exists()


def check_ensemble(said, folder):
    members = numbers(r"member \d: .* NLL ([\d.]+)", said)
    (whole,) = numbers(r"ensemble: .* NLL ([\d.]+)", said)
    (accuracy,) = numbers(r"ensemble: accuracy ([\d.]+)", said)
    assert len(members) == 3 and accuracy > 0.9
    assert whole <= sum(members) / 3 + 0.001
    assert (folder / "ensemble.keras").exists()


def check_own_method(said, folder):
    (matters,) = numbers(r"that matters: ([\d.]+)", said)
    (other,) = numbers(r"any other input: ([\d.]+)", said)
    assert matters > 1.5 * other
    (error,) = numbers(r"squared error ([\d.]+)", said)
    (variance,) = numbers(r"of the mean ([\d.]+)", said)
    assert error < 0.6 * variance


def check_trust(said, folder):
    (digits,) = numbers(r"digits: .* is ([\d.]+) nats", said)
    (noise,) = numbers(r"noise: .* is ([\d.]+) nats", said)
    assert noise > 2 * digits
    near, far = numbers(r"standard deviation ([\d.]+)", said)
    assert far > 2 * near


def check_deploy(said, folder):
    (accuracy,) = numbers(r"from the file: accuracy ([\d.]+)", said)
    assert accuracy > 0.9
    (share,) = numbers(r"of one dense network: ([\d.]+)", said)
    assert share < 0.5
    assert (folder / "run" / "ensemble.npz").exists()
    if keras.backend.backend() == "tensorflow":
        assert "litert, int8" in said
        assert (folder / "run" / "digits_float16.tflite").exists()


def check_serve(said, folder):
    (accuracy,) = numbers(r"three networks: ([\d.]+)", said)
    assert accuracy > 0.95
    (right,) = numbers(r"on right answers: ([\d.]+)", said)
    (wrong,) = numbers(r"on wrong answers: ([\d.]+)", said)
    assert wrong > 2 * right


def check_compressed(said, folder):
    found = re.search(r"optimizer: dense ([\d,]+), ([\d,]+)", said)
    dense, compressed = (int(n.replace(",", "")) for n in found.groups())
    assert compressed < 0.06 * dense
    (accuracy,) = numbers(r"of the active weights: ([\d.]+)", said)
    assert accuracy > 0.9
    assert "masked" not in said
    assert (folder / "compressed.keras").exists()


CHECKS = {
    "compressed.py": check_compressed,
    "sparse.py": check_sparse,
    "deploy.py": check_deploy,
    "ensemble.py": check_ensemble,
    "own_method.py": check_own_method,
    "serve.py": check_serve,
    "trust.py": check_trust,
}


@pytest.mark.parametrize("script", sorted(CHECKS))
def test_it_runs_and_is_right(tmp_path, monkeypatch, capsys, script):
    monkeypatch.chdir(tmp_path)
    start = time.process_time()
    runpy.run_path(str(FOLDER / script), run_name="__main__")
    assert time.process_time() - start < 30 * min(2, os.cpu_count() or 1)
    CHECKS[script](capsys.readouterr().out, tmp_path)


@pytest.mark.parametrize("script", SCRIPTS)
def test_it_can_be_read_in_one_sitting(script):
    lines = (FOLDER / script).read_text().splitlines()
    assert len(lines) <= 60
    assert f"python examples/quick/{script}" in lines[2]
    assert not any("absl" in line or "import common" in line for line in lines)
