"""examples/self_training.py, as a user runs it."""

import json

import example_scripts
import numpy as np
import pytest

SCRIPT = "self_training.py"
SHORT = (
    "--teacher_epochs=2",
    "--student_epochs=1",
    "--student_steps=5",
    "--num_teachers=2",
    "--min_confidence=0.1",
    "--hidden=8",
)


def run(*flags):
    return example_scripts.run(SCRIPT, *flags)


def test_it_prints_a_table_and_resumes(tmp_path):
    done = run(*SHORT, f"--output_dir={tmp_path}")
    (rows,) = json.loads((tmp_path / "metrics.json").read_text())
    assert list(rows)[:3] == ["supervised", "one teacher", "mean of teachers"]
    assert all(name in done.stdout for name in rows)
    for row in rows.values():
        assert 0 <= row["ece"] <= 1 and 0 < row["accuracy"] <= 1
    everything = rows["vanilla, all, hard"]
    assert everything["kept"] == 1 and 0.2 < everything["foreign"] < 0.3
    again = run(*SHORT, f"--output_dir={tmp_path}")
    assert "Seed 0:" not in again.stdout
    assert again.stdout.splitlines()[-3:] == done.stdout.splitlines()[-3:]


@pytest.mark.parametrize(
    "flag, said",
    [
        ("--labels_per_class=500", "y with"),
        ("--num_unlabelled=20", "fewer than a batch"),
        ("--min_confidence=2", "min_confidence"),
        ("--dataset=imagenet", "dataset"),
    ],
)
def test_wrong_flags_are_refused(tmp_path, flag, said):
    example_scripts.check_refused(SCRIPT, [flag], tmp_path / "out", said)


@pytest.mark.slow
def test_an_ensemble_selects_better(tmp_path):
    """What the method promises, as means over seeds fixed beforehand."""
    run("--seeds=0,1,2", f"--output_dir={tmp_path}")
    found = json.loads((tmp_path / "metrics.json").read_text())

    def mean(name, key):
        return np.mean([rows[name][key] for rows in found])

    order = ["vanilla, all, hard", "vanilla, hard", "ensemble, hard"]
    foreign = [mean(name, "foreign") for name in order]
    assert foreign[0] > foreign[1] > foreign[2]
    right = [mean(name, "label_accuracy") for name in order]
    assert right[0] < right[1] < right[2]
    assert mean("ensemble, soft", "nll") < mean("ensemble, hard", "nll")
    one = mean("one teacher", "accuracy")
    for name in [*order, "ensemble, soft"]:
        assert mean(name, "accuracy") > one
