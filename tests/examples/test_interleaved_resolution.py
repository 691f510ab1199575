"""examples/interleaved_resolution.py, as a user runs it."""

import json

import example_scripts
import pytest

SCRIPT = "interleaved_resolution.py"
SHORT = (
    "--image_size=16",
    "--epochs=2",
    "--steps_per_epoch=3",
    "--batch_size=8",
    "--num_examples=100",
)
NAMES = ["full", "interleaved", "full, equal cost"]


def run(*flags, check=True):
    return example_scripts.run(SCRIPT, *flags, check=check)


def test_it_prints_a_table_and_resumes(tmp_path):
    done = run(*SHORT, "--schedule=annealed", f"--output_dir={tmp_path}")
    found = json.loads((tmp_path / "metrics.json").read_text())
    (rows,) = found["seeds"]
    assert list(rows) == NAMES
    assert all(name in done.stdout for name in rows)
    for row in rows.values():
        assert len(row["epoch_seconds"]) == 2
        assert row["seconds"] == row["epoch_seconds"][1]
        assert 0 <= row["accuracy"] <= 1 and 0 <= row["ece"] <= 1
    assert rows["full"]["steps"] == rows["interleaved"]["steps"] == 6
    assert rows["full, equal cost"]["steps"] <= 6
    again = run(*SHORT, "--schedule=annealed", f"--output_dir={tmp_path}")
    assert "epoch 1" not in again.stdout
    assert again.stdout.splitlines()[-4:] == done.stdout.splitlines()[-4:]
    other = run(
        *SHORT,
        "--schedule=annealed",
        "--share=0.2",
        f"--output_dir={tmp_path}",
        check=False,
    )
    assert other.returncode != 0 and "--share=0.4" in other.stderr


def test_tickets(tmp_path):
    flags = (*SHORT, "--num_tickets=2", "--sparsity=0.5")
    done = run(*flags, f"--output_dir={tmp_path}")
    found = json.loads((tmp_path / "metrics.json").read_text())
    (rows,) = found["seeds"]
    assert list(rows) == NAMES and "ticket_accuracy" in done.stdout
    for row in rows.values():
        assert len(row["epoch_seconds"]) == 3  # one and two times one


@pytest.mark.parametrize(
    "flag, said",
    [
        ("--share=0.9", "--share=0.9 is more than --until=0.8 allows"),
        ("--image_size=3", "image_size"),
        ("--schedule=never", "schedule"),
        ("--dataset=imagenet", "--dataset=imagenet"),
        ("full", "Unknown argument"),
    ],
)
def test_wrong_flags_are_refused(tmp_path, flag, said):
    example_scripts.check_refused(SCRIPT, [flag], tmp_path / "out", said)
