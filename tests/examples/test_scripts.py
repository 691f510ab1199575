"""The example scripts, run as a user runs them."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def run(script, *flags, check=True):
    """Runs a script from the root; returns the finished process."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / script), *flags],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=check,
    )


@pytest.mark.parametrize(
    "script, flag",
    [
        ("train_edst.py", "--sparsity=1.5"),
        ("train_edst.py", "--model=resnet"),
        ("train_edst.py", "--exploration_epochs=0"),
        ("train_edst.py", "--global_drop_fraction=2"),
        ("train_edst.py", "--depth=27"),
        ("train_dst.py", "--drop_fraction=-1"),
        ("train_dst.py", "--batch_size=0"),
        ("demo.py", "--learning_rate=0"),
    ],
)
def test_a_wrong_value_is_refused_before_any_work(tmp_path, script, flag):
    output = tmp_path / "out"
    done = run(script, flag, f"--output_dir={output}", check=False)
    assert done.returncode != 0
    assert flag.split("=")[0].strip("-") in done.stderr
    assert "tensorflow" not in done.stderr
    assert not output.exists()


@pytest.mark.parametrize("script", ["train_edst.py", "train_dst.py", "demo.py"])
def test_help(script):
    done = run(script, "--help", check=False)
    assert "--output_dir" in done.stdout
    assert f"python examples/{script}" in done.stdout


def test_dry_run_of_the_paper_recipe():
    done = run("train_edst.py", "--preset=cifar", "--dry_run")
    assert "7,292,2" in done.stdout and "/ 36,461,232" in done.stdout
    assert "MAC ratio: 0.3396" in done.stdout
    assert "450 epochs: 0.61x one dense model of 250 epochs" in done.stdout


def demo_flags(directory, data):
    return (
        "--verbose=0",
        f"--output_dir={directory}",
        f"--data_dir={data}",
        "--exploration_epochs=2",
        "--refinement_epochs=1",
        "--dense_epochs=2",
    )


def without_seconds(metrics):
    for row in metrics["rows"]:
        row.pop("seconds")
    for history in metrics["history"].values():
        history.pop("seconds")
    return metrics


def test_demo_killed_and_resumed(tmp_path):
    flags = demo_flags(tmp_path / "whole", tmp_path / "data")
    first = run("demo.py", *flags)
    assert "ensemble" in first.stdout and "train FLOPs" in first.stdout
    for name in (
        "tickets/ticket_2.keras",
        "ensemble.keras",
        "saved_model/saved_model.pb",
        "saved_model_ticket/saved_model.pb",
        "pictures/learning_curve.png",
        "pictures/reliability.png",
        "pictures/density.png",
    ):
        assert (tmp_path / "whole" / name).stat().st_size > 0
    killed = demo_flags(tmp_path / "killed", tmp_path / "data")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / "demo.py"), *killed],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    backup = tmp_path / "killed" / "backup" / "edst" / "epoch_000002"
    while process.poll() is None and not backup.exists():
        pass
    process.kill()
    process.wait()
    run("demo.py", *killed)
    results = [
        without_seconds(json.loads((tmp_path / n / "metrics.json").read_text()))
        for n in ("whole", "killed")
    ]
    assert results[0] == results[1]
    again = run("demo.py", *flags)
    assert again.stdout == first.stdout[-len(again.stdout) :]
    other = run("demo.py", *flags, "--sparsity=0.5", check=False)
    assert other.returncode != 0 and "--sparsity=0.8" in other.stderr


def test_edst_and_dst_scripts(tmp_path):
    common = (
        "--verbose=0",
        f"--data_dir={tmp_path / 'data'}",
        "--update_interval=5",
    )
    done = run(
        "train_edst.py",
        *common,
        f"--output_dir={tmp_path / 'edst'}",
        "--exploration_epochs=1",
        "--refinement_epochs=1",
        "--num_tickets=2",
    )
    assert "ticket 1" in done.stdout
    flags = (*common, f"--output_dir={tmp_path / 'dst'}", "--epochs=1")
    for seed in (0, 1):
        run("train_dst.py", *flags, f"--seed={seed}")
    done = run("train_dst.py", *flags, "--collect")
    assert "ticket 1" in done.stdout and "ensemble" in done.stdout
