"""Scripts of search, sampling, graphs and images, in their shortest runs."""

import json

import pytest
from example_scripts import check_refused
from example_scripts import finished
from example_scripts import run

CONNTRA = "conntra_ternary.py"
NEWTON = "newton_mask_sampler.py"
GRAPH = "rare_category_graph.py"
IMAGES = "inva_multimodal.py"


@pytest.mark.parametrize(
    "script, own",
    [
        (CONNTRA, "hidden"),
        (NEWTON, "hidden"),
        (GRAPH, "sparsity"),
        (IMAGES, "sparsity"),
    ],
)
def test_help(script, own):
    said = run(script, "--help", check=False).stdout
    assert f"python examples/{script}" in said
    for name in ("seed", "dataset", "data_dir", own, "output_dir"):
        assert f"\n  --{name}: " in said


@pytest.mark.parametrize(
    "script, flag",
    [
        (CONNTRA, "--members=0"),
        (CONNTRA, "--hidden=ten"),
        (CONNTRA, "--sparsity=1"),
        (CONNTRA, "--dataset=no_such_set"),
        (NEWTON, "--members=1"),
        (NEWTON, "--hidden=0"),
        (NEWTON, "--steps=2"),
        (GRAPH, "--members=1"),
        (GRAPH, "--coverage=1"),
        (GRAPH, "--dataset=no_such_graph"),
        (IMAGES, "--sparsity=1"),
        (IMAGES, "--epochs=0"),
        (IMAGES, "--dataset=no_such_set"),
    ],
)
def test_a_wrong_value_is_refused(tmp_path, script, flag):
    said = flag.split("=")[0].strip("-")
    check_refused(script, [flag], tmp_path / "out", said)


def test_conntra(tmp_path):
    flags = ["--dataset=iris", "--hidden=6", "--members=2", "--epochs=2"]
    flags += ["--sweeps=3", f"--output_dir={tmp_path}"]
    said = finished(CONNTRA, *flags)
    assert "Member 2 of 2" in said and "sweep 1: loss" in said
    done = json.loads((tmp_path / "metrics.json").read_text())
    rows = {row["model"]: row for row in done["rows"]}
    assert set(rows) == {"float", "straight-through", "CoNNTrA"}
    assert rows["CoNNTrA"]["test_error"] < 0.2
    assert rows["CoNNTrA"]["bytes"] < rows["float"]["bytes"] / 4
    assert (tmp_path / "sweeps.png").exists()
    # Ended: the table again, and a killed run keeps its members.
    assert "Member" not in finished(CONNTRA, *flags)
    (tmp_path / "metrics.json").unlink()
    again = finished(CONNTRA, *flags)
    assert "Member" not in again and "trials a second" in again
    refused = run(CONNTRA, *flags, "--seed=1", check=False)
    assert refused.returncode != 0 and "--seed=0" in refused.stderr


def test_conntra_inside_the_mask_of_a_ticket(tmp_path):
    flags = ["--dataset=iris", "--hidden=12", "--members=1", "--epochs=3"]
    flags += ["--sweeps=1", "--sparsity=0.5", f"--output_dir={tmp_path}"]
    finished(CONNTRA, *flags)
    done = json.loads((tmp_path / "metrics.json").read_text())
    zeros = [row["zeros"] for row in done["rows"]]
    assert min(zeros) >= 0.499


def test_newton(tmp_path):
    flags = ["--hidden=16", "--members=4", "--exploration_epochs=2"]
    flags += ["--refinement_epochs=1", "--steps=20", "--chains=4"]
    said = finished(NEWTON, *flags, f"--output_dir={tmp_path}")
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


def test_rare_category_graph(tmp_path):
    flags = ["--steps=30", "--second_steps=4", "--every=2", "--members=2"]
    said = finished(GRAPH, *flags, f"--output_dir={tmp_path}")
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
    again = finished(GRAPH, *flags, f"--output_dir={tmp_path}")
    assert "Ticket" not in again and "ticket ensemble" in again


@pytest.mark.slow
def test_inva(tmp_path):
    flags = ["--subjects=100", "--epochs=5", "--hidden=8", "--members=2"]
    flags += ["--samples=4", f"--output_dir={tmp_path}"]
    said = finished(IMAGES, *flags)
    assert "ticket 2: PMSE" in said
    rows = json.loads((tmp_path / "metrics.json").read_text())["rows"]
    names = [row["model"] for row in rows]
    assert names[0] == "mean image" and names[-1] == "tickets, pooled"
    assert rows[-1]["between"] > 0 == rows[-2]["between"]
    for name in ("variance.png", "saliency.png"):
        assert (tmp_path / name).exists()
