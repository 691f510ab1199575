"""conntra_ternary.py and newton_mask_sampler.py, in their shortest runs."""

import json
import pathlib

import forked
import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = ("conntra_ternary.py", "newton_mask_sampler.py")


def run(script, *flags):
    return forked.run([ROOT / "examples" / script, *flags], ROOT)


def finished(script, *flags):
    done = run(script, *flags)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(script):
    said = run(script, "--help").stdout
    assert f"python examples/{script}" in said
    for name in ("seed", "dataset", "data_dir", "hidden", "output_dir"):
        assert f"\n  --{name}: " in said


@pytest.mark.parametrize(
    "script, flag",
    [
        (SCRIPTS[0], "--members=0"),
        (SCRIPTS[0], "--hidden=ten"),
        (SCRIPTS[0], "--sparsity=1"),
        (SCRIPTS[0], "--dataset=no_such_set"),
        (SCRIPTS[1], "--members=1"),
        (SCRIPTS[1], "--hidden=0"),
        (SCRIPTS[1], "--steps=2"),
    ],
)
def test_a_wrong_value_is_refused(tmp_path, script, flag):
    output = tmp_path / "out"
    done = run(script, flag, f"--output_dir={output}")
    assert done.returncode != 0
    assert flag.split("=")[0].strip("-") in done.stderr
    assert not output.exists()


def test_conntra(tmp_path):
    flags = ["--dataset=iris", "--hidden=6", "--members=2", "--epochs=2"]
    flags += ["--sweeps=3", f"--output_dir={tmp_path}"]
    said = finished(SCRIPTS[0], *flags)
    assert "Member 2 of 2" in said and "sweep 1: loss" in said
    done = json.loads((tmp_path / "metrics.json").read_text())
    rows = {row["model"]: row for row in done["rows"]}
    assert set(rows) == {"float", "straight-through", "CoNNTrA"}
    assert rows["CoNNTrA"]["test_error"] < 0.2
    assert rows["CoNNTrA"]["bytes"] < rows["float"]["bytes"] / 4
    assert (tmp_path / "sweeps.png").exists()
    # Ended: the table again, and a killed run keeps its members.
    assert "Member" not in finished(SCRIPTS[0], *flags)
    (tmp_path / "metrics.json").unlink()
    again = finished(SCRIPTS[0], *flags)
    assert "Member" not in again and "trials a second" in again
    refused = run(SCRIPTS[0], *flags, "--seed=1")
    assert refused.returncode != 0 and "--seed=0" in refused.stderr


def test_conntra_inside_the_mask_of_a_ticket(tmp_path):
    flags = ["--dataset=iris", "--hidden=12", "--members=1", "--epochs=3"]
    flags += ["--sweeps=1", "--sparsity=0.5", f"--output_dir={tmp_path}"]
    finished(SCRIPTS[0], *flags)
    done = json.loads((tmp_path / "metrics.json").read_text())
    zeros = [row["zeros"] for row in done["rows"]]
    assert min(zeros) >= 0.499


def test_newton(tmp_path):
    flags = ["--hidden=16", "--members=4", "--exploration_epochs=2"]
    flags += ["--refinement_epochs=1", "--steps=20", "--chains=4"]
    said = finished(SCRIPTS[1], *flags, f"--output_dir={tmp_path}")
    assert "mana: step" in said
    done = json.loads((tmp_path / "metrics.json").read_text())
    assert [row["sampler"] for row in done["samplers"]] == [
        "mana",
        "una",
        "locally_balanced",
        "gibbs",
    ]
    kept = {row["choice"]: row["kept"] for row in done["tickets"]}
    assert kept["all tickets"] == 4 and kept["best ticket"] == 1
    assert 1 <= kept["greedy"] <= 4
    assert (tmp_path / "chains.png").exists()
