"""The benchmarks run and report; what they measure is not judged here."""

import json
import math
import pathlib

import forked
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
TINY = {
    "selection": ["--sizes=1e3", "--repeats=2"],
    "update": ["--network=tiny", "--rounds=2", "--modes=xla", "--methods=SET"],
    "step": [
        "--networks=tiny",
        "--optimizers=sgd",
        "--modes=graph",
        "--rounds=2",
        "--interval=5",
        "--block=3",
    ],
    "memory": ["--network=tiny", "--optimizers=adam"],
    "side_by_side": [
        "--networks=tiny",
        "--batch_sizes=4",
        "--members=2",
        "--optimizers=sgd",
        "--modes=graph",
        "--rounds=2",
        "--interval=5",
        "--block=3",
    ],
    "export_sizes": [
        "--inputs=8",
        "--units=6",
        "--tickets=2",
        "--formats=keras,saved_model",
        "--examples=128",
        "--epochs=1",
    ],
    "search_and_sampling": ["--sweeps=1", "--steps=2", "--calls=1"],
    "influence": [
        "--nodes=120",
        "--train_share=0.2",
        "--features=5",
        "--retrained=3",
        "--retrained_networks=3",
        "--steps=5",
    ],
    "real_sparse": [
        "--parts=layer,step,predict,ensemble",
        "--sparsity=0.5",
        "--rounds=1",
        "--calls=1",
        "--layer_size=32",
        "--width=16",
        "--predict_size=32",
        "--batch=2",
    ],
    "first_step": ["--networks=tiny", "--modes=graph", "--rounds=1"],
}


def run(script, *flags, check=True):
    path = ROOT / "benchmarks" / f"{script}.py"
    return forked.run([path, *flags], cwd=ROOT, check=check)


def numbers(value):
    if isinstance(value, dict):
        return [n for v in value.values() for n in numbers(v)]
    if isinstance(value, list):
        return [n for v in value for n in numbers(v)]
    return [value] if isinstance(value, (int, float)) else []


@pytest.mark.parametrize(
    "script",
    [
        "selection",
        "update",
        "step",
        pytest.param("side_by_side", marks=pytest.mark.slow),
        "memory",
        pytest.param("search_and_sampling", marks=pytest.mark.slow),
        pytest.param("influence", marks=pytest.mark.slow),
        pytest.param("export_sizes", marks=pytest.mark.slow),
        "real_sparse",
        # It starts three processes more.
        pytest.param("first_step", marks=pytest.mark.slow),
    ],
)
def test_a_report_of_every_way(tmp_path, script):
    output = tmp_path / "report.json"
    done = run(script, f"--output={output}", *TINY[script])
    report = json.loads(output.read_text())
    assert report["machine"]["cores"] >= 1
    assert report["versions"]["keras"] and report["flags"]["seed"] == 0
    rows = report["rows"]
    for row in rows:
        figures = numbers(row)
        assert figures and all(map(math.isfinite, figures))
        (name,) = {"way", "model", "kind", "case"} & set(row)
        assert f"\n{row[name]}" in done.stdout
        assert all(ratio > 0 for ratio in numbers(row.get("ratio", 1)))
    if script == "memory":
        # A byte for each mask entry, six counters of four bytes.
        extra = {row["kind"]: row["beyond_dense"] for row in rows}
        maskable = 8 * 6 + 6 * 10
        assert extra["RigL"] == extra["SET"] == maskable + 24
        assert extra["RigL, ever active"] == 2 * maskable + 24


@pytest.mark.slow
def test_figures_of_a_first_step():
    done = run("first_step", "--measure=tiny,graph,RigL", "--batch_size=4")
    figures = json.loads(done.stdout.splitlines()[-1])
    assert set(figures) == {"first_step", "first_update", "later_step"}
    assert all(time > 0 for times in figures.values() for time in times)
    done = run(
        "first_step", "--measure=tiny,graph,RigL", "--batch_size=4", "--fits=2"
    )
    figures = json.loads(done.stdout.splitlines()[-1])
    assert np.array(figures["fits"]).shape == (2, 2)


@pytest.mark.slow
def test_help():
    done = run("step", "--help", check=False)
    for name in ("output", "seed", "networks", "interval", "mixed_precision"):
        assert f"\n  --{name}: " in done.stdout
    assert "python benchmarks/step.py" in done.stdout
