"""examples/confident_learning.py, as a user runs it."""

import json

import example_scripts
import numpy as np
import pytest

SCRIPT = "confident_learning.py"
SHORT = (
    "--num_examples=200",
    "--num_test=50",
    "--rounds=2",
    "--round_epochs=1",
    "--units=16",
    "--batch_size=50",
)
NAMES = ["no filter", "last only", "confident", "confident, disputed stay"]


def run(*flags):
    return example_scripts.run(SCRIPT, *flags)


@pytest.mark.parametrize(
    "flags, key",
    [
        (("--task=halves", "--queue_length=70"), "ensemble_back_r10"),
        (("--task=captions", "--language"), "word_loss"),
        (("--task=labels", "--scorers=snapshots"), "ensemble_nll_scaled"),
    ],
    ids=["halves", "captions", "labels"],
)
def test_it_prints_a_table_and_resumes(tmp_path, flags, key):
    done = run(*SHORT, *flags, f"--output_dir={tmp_path}")
    (rows,) = json.loads((tmp_path / "metrics.json").read_text())
    assert list(rows) == NAMES
    assert key in done.stdout and all(key in row for row in rows.values())
    assert rows["no filter"]["wrong_2"] == 0.3
    assert rows["no filter"]["left"] == 1.0
    assert rows["confident"]["left"] == 0.81
    again = run(*SHORT, *flags, f"--output_dir={tmp_path}")
    assert "Seed 0:" not in again.stdout
    assert again.stdout.splitlines()[-5:] == done.stdout.splitlines()[-5:]


@pytest.mark.parametrize(
    "flags, said",
    [
        (("--num_examples=1700",), "has 1797 images, fewer than"),
        (("--batch_size=2000",), "`batch_size` must be at most"),
        (("--task=captions", "--context=3"), "at most length=3 words"),
        (("--language",), "--language needs --task=captions"),
        (("--keep=0",), "keep"),
        (("halves",), "Unknown argument"),
    ],
)
def test_wrong_flags_are_refused(tmp_path, flags, said):
    example_scripts.check_refused(SCRIPT, flags, tmp_path / "out", said)


@pytest.mark.slow
def test_sums_find_wrong_pairs_better(tmp_path):
    """What the method promises, as means over seeds fixed beforehand."""
    run("--seeds=0,1,2", f"--output_dir={tmp_path}")
    found = json.loads((tmp_path / "metrics.json").read_text())

    def mean(name, key):
        return np.mean([rows[name][key] for rows in found])

    shares = [mean("confident", f"wrong_{i}") for i in range(1, 7)]
    assert (np.diff([0.3, *shares]) < 0).all()
    for i in range(3, 7):
        assert mean("confident", f"wrong_{i}") < mean("last only", f"wrong_{i}")
    assert mean("confident", "r1") > mean("no filter", "r1")


@pytest.mark.slow
def test_hidden_words_are_learned_beside_pairs(tmp_path):
    """The loss of held-out words falls, and recall is not the price."""
    found = []
    for flags in ((), ("--language",)):
        folder = tmp_path / str(len(flags))
        run("--task=captions", *flags, f"--output_dir={folder}")
        (rows,) = json.loads((folder / "metrics.json").read_text())
        found.append(rows["confident"])
    without, language = found
    # A guess among the 36 words costs 3.58.
    assert language["word_loss"] < 0.5 * np.log(36)
    # Three times what recall differs by between seeds.
    assert language["r1"] > without["r1"] - 0.13
    assert language["back_r1"] > without["back_r1"] - 0.11
