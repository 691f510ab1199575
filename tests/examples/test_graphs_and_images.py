"""rare_category_graph.py and inva_multimodal.py, in their shortest runs."""

import json
import pathlib

import forked
import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = ("rare_category_graph.py", "inva_multimodal.py")


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
    for name in ("seed", "dataset", "data_dir", "sparsity", "output_dir"):
        assert f"\n  --{name}: " in said


@pytest.mark.parametrize(
    "script, flag",
    [
        (SCRIPTS[0], "--members=1"),
        (SCRIPTS[0], "--coverage=1"),
        (SCRIPTS[0], "--dataset=no_such_graph"),
        (SCRIPTS[1], "--sparsity=1"),
        (SCRIPTS[1], "--epochs=0"),
        (SCRIPTS[1], "--dataset=no_such_set"),
    ],
)
def test_a_wrong_value_is_refused(tmp_path, script, flag):
    output = tmp_path / "out"
    done = run(script, flag, f"--output_dir={output}")
    assert done.returncode != 0
    assert flag.split("=")[0].strip("-") in done.stderr
    assert not output.exists()


def test_rare_category_graph(tmp_path):
    flags = ["--steps=30", "--second_steps=4", "--every=2", "--members=2"]
    said = finished(SCRIPTS[0], *flags, f"--output_dir={tmp_path}")
    assert "Influence of 60 nodes" in said and "Ticket 2 of 2" in said
    rows = json.loads((tmp_path / "metrics.json").read_text())["rows"]
    assert [row["model"] for row in rows] == [
        "phase one, influence",
        "phase two",
        "phase two without EICE",
        "ticket ensemble, residuals",
    ]
    for row in rows:
        assert row["accuracy"] > 0.7 and 0.7 < row["coverage"] <= 1
        assert 0 < row["width"] <= 1
    assert (tmp_path / "graph.png").exists()
    again = finished(SCRIPTS[0], *flags, f"--output_dir={tmp_path}")
    assert "Ticket" not in again and "ticket ensemble" in again


@pytest.mark.slow
def test_inva(tmp_path):
    flags = ["--subjects=100", "--epochs=5", "--hidden=8", "--members=2"]
    flags += ["--samples=4", f"--output_dir={tmp_path}"]
    said = finished(SCRIPTS[1], *flags)
    assert "ticket 2: PMSE" in said
    rows = json.loads((tmp_path / "metrics.json").read_text())["rows"]
    names = [row["model"] for row in rows]
    assert names[0] == "mean image" and names[-1] == "tickets, pooled"
    assert rows[-1]["between"] > 0 == rows[-2]["between"]
    for name in ("variance.png", "saliency.png"):
        assert (tmp_path / name).exists()
