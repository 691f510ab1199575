"""The long runs, at lengths of a second; what they measure is not judged."""

import json
import pathlib
import re
import sys

import forked
import numpy as np
import pytest

from keras_freetickets.metrics import flops

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def rows():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import long_run_rows

        return long_run_rows
    finally:
        sys.path.pop(0)


def search(rows, row, loss):
    """What is tried and chosen, where `loss` is that of settings."""
    tried = []
    while True:
        settings, best = rows.next_candidate(row, tried, augment="none")
        if settings is None:
            return [settings for settings, _ in tried], best
        tried.append((settings, loss(settings)))


def test_settings_are_chosen_axis_by_axis(rows):
    row = rows.Row("lenet", "dst", 0.8, 0)
    task = rows.TASKS["lenet"]

    def loss(settings):
        return (
            abs(settings["learning_rate"] - 0.1)
            + abs(settings["weight_decay"] - 1e-3)
            + abs(settings["update_interval"] - 1000) / 1000
        )

    tried, best = search(rows, row, loss)
    assert best == {
        "learning_rate": 0.1,
        "weight_decay": 1e-3,
        "update_interval": 1000,
        "augment": "none",
    }
    # Each axis meets the one before in a point.
    axes = (task.rates, task.decays, task.intervals)
    assert len(tried) == sum(map(len, axes)) - 2
    # What was tried before is not tried again, also if the grid has grown.
    again = [(settings, loss(settings)) for settings in tried]
    assert rows.next_candidate(row, again, "none") == (None, best)


def test_every_row_has_the_same_grid(rows):
    def grid(method):
        row = rows.Row("lenet", method, 0.8, 0)
        tried, _ = search(rows, row, lambda settings: 1.0)
        names = ("learning_rate", "weight_decay")
        return {name: {one[name] for one in tried} for name in names}

    assert grid("dense") == grid("static") == grid("dst")


def test_edst_has_the_settings_of_dst(rows):
    row = rows.Row("lenet", "edst", 0.9, 2)
    assert rows.searched(row) == rows.Row("lenet", "dst", 0.9, rows.SEARCH_SEED)


def test_the_seed_of_the_search_is_of_no_row(rows):
    """Members of an ensemble have the seeds s, s + 1000, ..."""
    seeds = {row.seed for row in rows.ROWS}
    assert rows.SEARCH_SEED not in seeds
    assert len(set(rows.ROWS)) == len(rows.ROWS)
    assert {row.task for row in rows.ROWS} <= set(rows.TASKS)


@pytest.mark.parametrize(
    ("name", "images"), [("spiking_digits", 1290), ("spiking_fashion", 20_000)]
)
def test_spiking_rows_have_many_updates(rows, name, images):
    """Of which the first 75 % of the steps have them."""
    task = rows.TASKS[name]
    steps = task.epochs * (images // task.batch_size)
    assert steps * 3 // 4 // max(task.intervals) >= 200


@pytest.mark.parametrize("name", ["_spiking_mlp", "_plain_spiking_mlp"])
def test_the_spiking_network_sees_the_image_once(rows, name):
    network = getattr(rows, name)((28, 28, 1), 10)
    once, steps = 784 * 300, 5 * 300 * 100
    assert flops.forward_flops(network) == 2 * (once + steps + 100 * 10)


@pytest.mark.parametrize(
    ("epochs", "first"), [(1, 0), (2, 1), (10, 8), (40, 30)]
)
def test_tickets_are_of_the_last_quarter(rows, epochs, first, tmp_path):
    ticket = rows.SparseTicket(tmp_path, epochs)
    files = [ticket.ticket_file(epoch) for epoch in range(epochs)]
    assert files == [None] * first + ["ticket_0.keras"] * (epochs - first)


def test_a_row_is_chosen_trained_scored_and_reported(tmp_path):
    results, work = tmp_path / "results", tmp_path / "work"
    script = ROOT / "benchmarks" / "long_runs.py"
    done = forked.run(
        [
            script,
            "--tasks=tiny",
            "--only=dense-seed1",
            "--do=run,plan,report",
            f"--results={results}",
            f"--work_dir={work}",
            f"--data_dir={tmp_path / 'data'}",
        ],
        ROOT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"dense-seed1 +accuracy 0\.", done.stdout)
    settings = json.loads(
        (results / "tiny" / "settings" / "dense.json").read_text()
    )
    best = min(settings["tried"], key=lambda one: one["nll"])
    assert settings["chosen"] == best["settings"]
    row = json.loads(
        (results / "tiny" / "rows" / "dense-seed1.json").read_text()
    )
    assert row["settings"] == settings["chosen"]
    assert len(row["members"]) == 3 and row["epochs_trained"] == [2, 2, 2]
    assert row["training_flops"] == pytest.approx(3.0)
    assert row["process_seconds"]["typical"] > 0
    with np.load(work / "tiny" / "dense-seed1" / "predictions.npz") as stored:
        members, labels = (
            np.exp(stored["members"].astype(float)),
            stored["labels"],
        )
    np.testing.assert_allclose(members.sum(axis=-1), 1.0, atol=0.01)
    accuracy = (members.mean(axis=0).argmax(-1) == labels).mean()
    assert accuracy == pytest.approx(row["ensemble"]["accuracy"], abs=0.01)
    table = (results / "tiny" / "table.md").read_text()
    assert table in done.stdout
    assert "| dense, one | 3 |" in table and "| dense, 3 | 1 |" in table
    assert (results / "tiny" / "training_flops.png").stat().st_size > 0


@pytest.mark.slow
def test_rows_of_the_family_and_of_other_lengths(tmp_path):
    results = tmp_path / "results"
    forked.run(
        [
            ROOT / "benchmarks" / "long_runs.py",
            "--tasks=tiny",
            "--only=dense-seed0|granet|-1epochs|edst-0.8-seed0",
            "--do=run,report",
            f"--results={results}",
            f"--work_dir={tmp_path / 'work'}",
            f"--data_dir={tmp_path / 'data'}",
        ],
        ROOT,
        check=True,
    )
    table = (results / "tiny" / "table.md").read_text()
    assert "| GraNet S=0.8, one | 1 |" in table
    assert "| DST S=0.8, 1 epochs, 3 | 1 |" in table
    assert "| DST S=0.8, 1 epochs, 3 | static masks S=0.8" in table
    assert "| EDST S=0.8, 3 | dense, 3 |" in table
    pruned = json.loads(
        (results / "tiny" / "rows" / "granet-0.8-seed0.json").read_text()
    )
    # It begins at half the weights; each is used once for an image.
    assert pruned["inference_flops"] == pytest.approx(0.2, abs=1e-3)


def test_methods_are_compared_with_those_they_extend(rows, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import long_run_report

    lines = [
        long_run_report.Model(method, sparsity, None, True, ({"members": [0]},))
        for method, sparsity in (
            ("dense", 0.0),
            ("ndsnn", 0.9),
            ("rigl", 0.9),
            ("set", 0.9),
            ("rigl", 0.95),
        )
    ]
    found = [
        (one.name, other.name) for one, other in long_run_report.pairs(lines)
    ]
    assert found == [
        ("NDSNN S=0.9, one", "dense, one"),
        ("RigL S=0.9, one", "dense, one"),
        ("SET S=0.9, one", "dense, one"),
        ("RigL S=0.95, one", "dense, one"),
        ("NDSNN S=0.9, one", "RigL S=0.9, one"),
        ("NDSNN S=0.9, one", "SET S=0.9, one"),
        ("RigL S=0.9, one", "SET S=0.9, one"),
    ]


def test_comparisons(rows, tmp_path, monkeypatch):
    """Of predictions whose differences are known."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import long_run_report

    def write(row, right):
        """Members that give their label .75 or .25, of two classes."""
        chance = np.where(right, 0.75, 0.25)
        members = np.log(np.stack([chance, 1 - chance], axis=-1))
        folder = tmp_path / "work" / row.name
        folder.mkdir(parents=True)
        np.savez(
            folder / "predictions.npz",
            members=members.astype("float16"),
            labels=np.zeros(len(right[0]), "uint8"),
        )
        return {
            "task": row.task,
            "method": row.method,
            "sparsity": row.sparsity,
            "seed": row.seed,
            "epochs": row.epochs,
            "members": [{}] * len(right),
        }

    right = np.ones((3, 40), bool)
    wrong = right.copy()
    wrong[:, :20] = False
    stored = [
        write(rows.Row("tiny", "dense", 0.0, 0), wrong),
        write(rows.Row("tiny", "dst", 0.8, 0), right),
    ]
    lines = [
        long_run_report.Model(
            row["method"], row["sparsity"], None, False, (row,)
        )
        for row in stored
    ]
    long_run_report.compare(lines, str(tmp_path), str(tmp_path / "work"))
    found = json.loads((tmp_path / "comparisons.json").read_text())
    assert [one["score"] for one in found] == ["accuracy", "nll"]
    assert {one["verdict"] for one in found} == {"wins"}
    assert found[0]["mean"] == pytest.approx(0.5)
    assert found[1]["mean"] == pytest.approx(-np.log(3) / 2, abs=1e-3)
    assert found[0]["low"] < 0.5 < found[0]["high"]
