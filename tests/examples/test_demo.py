"""The demo, run as a user runs it; its sentence, with every outcome."""

import json
import pathlib
import random
import shutil
import signal
import sys
import time

import forked
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
DEMO = ROOT / "examples" / "demo.py"


@pytest.fixture(scope="module")
def report():
    """The module that words what was found; it has no flags."""
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        import demo_report

        return demo_report
    finally:
        sys.path.pop(0)


def run(*flags, check=True):
    return forked.run([DEMO, *flags], ROOT, check=check)


def test_a_wrong_value_is_refused_before_any_work(tmp_path):
    output = tmp_path / "out"
    done = run("--folds=6", f"--output_dir={output}", check=False)
    assert done.returncode != 0 and "folds" in done.stderr
    assert not output.exists()
    done = run("folds=1", check=False)
    assert "'folds=1'; flags begin with --" in done.stderr


def test_help():
    done = run("--help", check=False)
    for name in ("output_dir", "network", "epochs", "folds", "seed"):
        assert f"\n  --{name}: " in done.stdout
    assert "python examples/demo.py" in done.stdout


def test_a_directory_that_cannot_be_made_is_refused():
    done = run("--output_dir=/dev/null/out", check=False)
    assert done.returncode and "Traceback" not in done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("--output_dir=/dev/null/out cannot be written to:")


def without_measurements(content):
    """Seconds differ from run to run, and so does the sentence with them."""
    if isinstance(content, dict):
        return {
            key: without_measurements(value)
            for key, value in content.items()
            if key not in ("seconds", "sentence")
        }
    if isinstance(content, list):
        return [without_measurements(value) for value in content]
    return content


def results(folder):
    found = json.loads((folder / "metrics.json").read_text())
    return without_measurements(found)


def kill_after_a_backup(folder, *flags):
    """Starts the demo; kills it a moment after EDST's second backup."""
    process = forked.Popen([DEMO, *flags], ROOT)
    backups = folder / "fold_0" / "edst" / "run" / "backup"
    while process.poll() is None and not (backups / "epoch_000001").exists():
        time.sleep(0.001)
    time.sleep(random.Random(str(flags)).uniform(0.0, 0.1))
    process.kill()
    assert process.wait() == -signal.SIGKILL


def test_killed_and_resumed(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    flags = ("--epochs=2", "--folds=1")
    # The number of processes does not change the result.
    first = run(*flags, f"--output_dir={whole}", "--processes=1")
    assert "three tickets of one run" in first.stdout
    for name in (
        "fold_0/edst/run/ticket_2.keras",
        "ensemble.keras",
        "ensemble.npz",
        "saved_model/saved_model.pb",
        "saved_model_ticket/saved_model.pb",
        "pictures/learning_curve.png",
        "pictures/reliability.png",
        "pictures/density.png",
    ):
        assert (whole / name).stat().st_size > 0
    # Of the dense networks there is nothing to see.
    shutil.copytree(whole / "fold_0" / "dense", killed / "fold_0" / "dense")
    kill_after_a_backup(killed, *flags, f"--output_dir={killed}")
    run(*flags, f"--output_dir={killed}")
    assert results(killed) == results(whole)
    assert results(whole)["images"] == 360
    again = run(*flags, f"--output_dir={whole}")
    assert again.stdout == first.stdout[-len(again.stdout) :]
    other = run(f"--output_dir={whole}", check=False)
    assert other.returncode != 0 and "--epochs=2" in other.stderr


def test_every_image_is_in_one_fold():
    code = (
        f"import sys; sys.path.insert(0, {str(DEMO.parent)!r}); import demo; "
        "import json; images, labels, fold = demo.digits(); "
        "print(json.dumps([len(images), len(labels), fold.tolist(), "
        "float(images.min()), float(images.max())]))"
    )
    done = forked.run(["-c", code], ROOT, check=True)
    images, labels, fold, low, high = json.loads(done.stdout.splitlines()[-1])
    assert images == labels == len(fold) == 1797
    assert sorted(np.bincount(fold)) == [359, 359, 359, 360, 360]
    assert (low, high) == (-1.0, 1.0)


@pytest.mark.parametrize("network", ["small_cnn", "lenet_300_100"])
def test_settings_are_the_best_of_those_that_were_tried(network):
    """By validation; the grid is the same for all."""
    path = ROOT / "examples" / "demo_settings" / f"{network}.json"
    text = path.read_text()
    found = json.loads(text)
    for chosen, tried in zip(found["chosen"], found["tried"], strict=True):
        for kind, settings in chosen.items():
            best = min(tried[kind], key=lambda one: one["nll"])
            assert settings == best["settings"]
    values = {
        kind: {
            name: sorted({one["settings"][name] for one in tried[kind]})
            for name in ("learning_rate", "weight_decay")
        }
        for tried in found["tried"]
        for kind in tried
    }
    assert values["dense"] == values["edst"]


ROWS = [
    {
        "model": name,
        "accuracy": 0.98,
        "nll": 0.07,
        "ece": 0.01,
        "training_flops": flops,
        "seconds": 2.0 * flops,
        "bytes": 1000 * flops,
    }
    for name, flops in {
        "dense": 1.0,
        "dense_ensemble": 3.0,
        "ticket": 0.2,
        "tickets": 0.36,
    }.items()
]


@pytest.mark.parametrize(
    "verdicts, said",
    [
        (
            ["wins", "wins", "loses", "within noise"],
            "in accuracy better than one dense network and worse than three "
            "dense networks, in NLL better than one dense network and within "
            "noise of three dense networks.",
        ),
        (
            ["within noise", "loses", "wins", "loses"],
            "in accuracy within noise of one dense network and better than "
            "three dense networks, in NLL worse than one dense network and "
            "worse than three dense networks.",
        ),
    ],
)
def test_the_sentence_says_how_it_fell(report, verdicts, said):
    pairs = [
        (other, score)
        for other in ("dense", "dense_ensemble")
        for score in ("accuracy", "nll")
    ]
    differences = [
        {
            "first": "tickets",
            "second": other,
            "score": score,
            "mean": 0.0,
            "low": -0.1,
            "high": 0.1,
            "verdict": verdict,
        }
        for (other, score), verdict in zip(pairs, verdicts, strict=True)
    ]
    sentence = report.sentence(1797, ROWS, differences)
    assert said in sentence and "On 1,797 images" in sentence
    assert "took 0.36 of the theoretical FLOPs" in sentence
    found = {"rows": ROWS, "differences": differences, "sentence": sentence}
    assert report.table(found).splitlines()[-1] == sentence


def test_scores_and_intervals(report):
    """Two models of 40 images, one of which is right twice as often."""
    labels = np.zeros(40, int)
    sure = np.tile([[0.9, 0.1]], (40, 1))
    unsure = sure.copy()
    unsure[::2] = [0.1, 0.9]
    one = {"training_flops": 1.0, "seconds": 1.0, "bytes": 100}
    fold = {
        "probabilities": {
            name: (sure if name == "tickets" else unsure).tolist()
            for name in report.NAMES
        },
        "costs": dict.fromkeys(report.NAMES, one),
    }
    found = report.report(labels, [fold])
    by_name = {row["model"]: row for row in found["rows"]}
    assert by_name["tickets"]["accuracy"] == 1.0
    assert by_name["dense"]["accuracy"] == 0.5
    assert by_name["tickets"]["nll"] == pytest.approx(-np.log(0.9), rel=1e-5)
    first = found["differences"][0]
    assert first["mean"] == 0.5 and first["low"] < 0.5 < first["high"]
    assert {one["verdict"] for one in found["differences"]} == {"wins"}
