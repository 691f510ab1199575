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
    "sampling_targets": ["--facility_steps=20", "--ising_steps=20"],
    "influence": [
        "--nodes=120",
        "--train_share=0.2",
        "--features=5",
        "--retrained=3",
        "--retrained_networks=3",
        "--steps=5",
    ],
    "real_sparse": [
        "--parts=layer,step,attention,predict,ensemble",
        "--sparsity=0.9",
        "--rounds=1",
        "--calls=1",
        "--layer_size=32",
        "--width=16",
        "--features=16",
        "--predict_size=32",
        "--batch=2",
    ],
    "roofline": [
        "--parts=machine,kernels,prediction",
        "--seconds=0.001",
        "--sparsity=0.9",
        "--size=32",
        "--units=32",
        "--factor=1",
        "--convolution_batch=1",
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
        "sampling_targets",
        pytest.param("influence", marks=pytest.mark.slow),
        pytest.param("export_sizes", marks=pytest.mark.slow),
        "real_sparse",
        "roofline",
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


@pytest.mark.slow
def test_networks_that_lost_channels(tmp_path):
    output = tmp_path / "report.json"
    flags = [
        f"--output={output}",
        "--dataset=digits",
        "--filters=4,6",
        "--units=8",
        "--epochs=1",
        "--interval=3",
        "--seeds=1",
        "--turns=2",
        "--batches=4",
        "--formats=keras,saved_model",
    ]
    run("channels", *flags)
    report = json.loads(output.read_text())
    networks = {one["kind"]: one for one in report["networks"]}
    # Of 1,397 images, 232 choose between two ways, and 1,165 are trained on.
    # 3x3x4 + 3x3x4x6 + 24x8 + 8x10 weights, 2x4x10 of batch normalization, 18
    # biases; `round` of 0.495 of 4, 6 and 8 channels: 2, 3 and 4.
    assert networks["dense"]["parameters"] == 36 + 216 + 192 + 80 + 40 + 18
    assert networks["small"]["parameters"] == 18 + 54 + 48 + 40 + 20 + 14
    for kind in ("chase_layer", "chase_global"):
        assert networks[kind]["parameters"] < networks["dense"]["parameters"]
        assert networks[kind]["difference_of_compact"] < 1e-5
        assert networks[kind]["active"] <= 18 + 54 + 48 + 40
    assert len(report["time"]) == 2 * 2
    assert all(map(math.isfinite, numbers(report["time"])))
    again = tmp_path / "again.json"
    done = run(
        "channels", *flags[1:], f"--networks={output}", f"--output={again}"
    )
    assert json.loads(again.read_text())["networks"] == report["networks"]
    assert "chase_layer   0" not in done.stdout


@pytest.mark.slow
def test_figures_of_quantized_tickets(tmp_path):
    output = tmp_path / "report.json"
    run(
        "quantization",
        f"--output={output}",
        "--dataset=digits",
        "--units=32,16",
        "--tickets=2",
        "--epochs=10",
        "--runs=2",
        "--formats=litert",
        "--nopqat",
    )
    report = json.loads(output.read_text())
    rows = {
        (row["model"], row["format"], row["dtype"]): row
        for row in report["rows"]
    }
    for kind in ("one", "three"):
        float32 = rows[kind, "litert", "float32"]
        assert float32["accuracy"] == report[f"accuracy_of_{kind}"]
        for dtype in ("int8", "int4", "gptq", "awq"):
            assert 0 <= rows[kind, "keras", dtype]["accuracy"] <= 1
    assert all("mask" in text for text in report["refused_with_masks"].values())
    assert all(map(math.isfinite, numbers(report["rows"])))


@pytest.mark.slow
def test_the_headline_goes_on_after_a_kill(tmp_path):
    flags = [
        "--dataset=digits",
        "--units=32",
        "--batch=32",
        "--interval=5",
        "--seeds=1",
        "--sparsity=0.9",
        "--rates=1e-2",
        "--turns=2",
        f"--output_dir={tmp_path}",
        f"--output={tmp_path / 'report.json'}",
    ]
    run("real_headline", *flags)
    report = json.loads((tmp_path / "report.json").read_text())
    rows = {row["kind"]: row for row in report["rows"]}
    assert list(rows) == ["edst", "dense", "dense x3"]
    assert all(map(math.isfinite, numbers(report["rows"])))
    # Three networks cost what the first does, and more.
    for name in ("training_seconds", "file_bytes"):
        assert rows["dense x3"][name] > rows["dense"][name]
    assert rows["dense x3"]["test"]["accuracy"] > 0.5
    assert "training_bytes_from_file" not in rows["dense x3"]
    assert rows["edst"]["training_bytes_from_file"] > 0
    # Of three networks each; another is the rate that was tried.
    finished = sorted(tmp_path.glob("rows_*_3.json"))
    assert len(finished) == 2
    finished[0].unlink()
    kept = finished[1].read_text()
    run("real_headline", *flags)
    assert finished[1].read_text() == kept and finished[0].exists()
