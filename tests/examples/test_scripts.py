"""The example scripts, run as a user runs them.

compare_ensembles.py starts its runs in fresh processes, so that their imports
are tested too.
"""

import json
import pathlib
import random
import re
import signal
import time

import forked
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]


def run(script, *flags, check=True):
    """Runs a script from the root, in a process that has imported Keras."""
    return forked.run([ROOT / "examples" / script, *flags], ROOT, check=check)


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
        ("train_edst.py", "--global_drop_fraction=0"),
        ("train_dst.py", "--seed=-1"),
    ],
)
def test_a_wrong_value_is_refused_before_any_work(tmp_path, script, flag):
    output = tmp_path / "out"
    done = run(script, flag, f"--output_dir={output}", check=False)
    assert done.returncode != 0
    assert flag.split("=")[0].strip("-") in done.stderr
    assert "tensorflow" not in done.stderr
    assert not output.exists()


@pytest.mark.parametrize("script", ["train_edst.py", "train_dst.py"])
def test_help(script):
    done = run(script, "--help", check=False)
    shown = {"output_dir", "sparsity", "update_interval", "learning_rate"}
    shown |= {"seed", "batch_size", "verbose"}
    shown |= {"dataset", "data_dir", "model", "growth", "[no]download"}
    for name in shown:
        assert f"\n  --{name}: " in done.stdout
    assert f"python examples/{script}" in done.stdout


def test_a_flag_without_dashes_is_refused():
    done = run("train_edst.py", "exploration_epochs=3", check=False)
    assert done.returncode != 0
    assert "'exploration_epochs=3'; flags begin with --" in done.stderr


def test_a_refused_start_leaves_the_directory_free(tmp_path):
    flags = (f"--output_dir={tmp_path / 'out'}", f"--data_dir={tmp_path}")
    done = run("train_edst.py", *flags, "--dataset=fashon_mnist", check=False)
    assert done.returncode != 0
    assert "--dataset=fashon_mnist" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out" / "config.json").exists()


PLANS = """
import json, sys, types
sys.path.insert(0, {folder!r})
import training_flags, {script} as script
from absl import flags
from absl.testing import flagsaver

training_flags.define("out")
data = types.SimpleNamespace(num_train=1290, train=[])
found = []
for given in json.loads({cases!r}):
    with flagsaver.flagsaver():
        flags.FLAGS(["script", *given])
        try:
            made = {call}
        except SystemExit as error:
            made = str(error)
    found.append(made)
print(json.dumps(found))
"""


def plans(script, call, cases, said=None):
    """What a script makes of flags, of 11 batches an epoch; or its refusal."""
    code = PLANS.format(
        folder=str(ROOT / "examples"),
        script=script,
        call=call,
        cases=json.dumps(cases),
    )
    done = forked.run(["-c", code])
    assert done.returncode == 0, done.stderr[-2000:]
    *lines, last = done.stdout.splitlines()
    if said is not None:
        said += lines
    return json.loads(last)


def test_every_method_has_a_name():
    import keras_freetickets as kft

    names = "|".join(sorted(kft.recipes.SPARSE_TRAININGS))
    shown = run("train_sparse.py", "--help", check=False).stdout
    assert f"--method:<{names}>" in re.sub(r"\s+", "", shown)


SPARSE_CASES = {
    "default": [],
    "long": ["--epochs=5000"],
    "short": ["--epochs=1"],
    "given": ["--update_interval=7"],
    "late": ["--update_interval=206"],
    "growth": ["--growth=random"],
    "static": ["--method=static", "--update_interval=7"],
    "snfs": ["--method=snfs", "--drop_fraction=0.1"],
    "nm": ["--method=nm"],
    "nm_7/8": ["--method=nm", "--sparsity=0.875"],
}


@pytest.fixture(scope="module")
def sparse_plans():
    """Intervals and sparsities of train_sparse.py, and what it printed."""
    call = "(lambda t: [t.update_interval, t.sparsity])(script.plan(data))"
    said = []
    found = plans("train_sparse", call, list(SPARSE_CASES.values()), said)
    return dict(zip(SPARSE_CASES, found, strict=True)), said


def test_every_method_updates_the_topology_at_the_defaults(sparse_plans):
    """The interval is a 40th of the 3/4 of 25 x 11 updates."""
    found, said = sparse_plans
    intervals = [found[name][0] for name in ("default", "long", "short")]
    assert intervals == [206 // 40, 1000, 1]
    assert found["given"][0] == 7
    late = "--update_interval=206 is longer than the part of the run"
    assert late in found["late"]
    assert "--growth=random has no effect: --method=rigl" in found["growth"]
    assert [line for line in said if "no effect" in line] == [
        "--update_interval=7 has no effect with --method=static.",
        "--drop_fraction=0.1 has no effect with --method=snfs.",
    ]


def test_a_sparsity_that_a_method_has_not_is_said(sparse_plans):
    found, said = sparse_plans
    assert (found["nm"][1], found["nm_7/8"][1]) == (0.75, 0.875)
    notes = [line for line in said if "trains at sparsity" in line]
    assert notes == [
        "--method=nm trains at sparsity 0.75, not at --sparsity=0.8."
    ]


@pytest.mark.parametrize("script", ["train_edst.py", "train_sparse.py"])
def test_a_directory_that_cannot_be_made_is_refused(script):
    done = run(script, "--output_dir=/dev/null/out", check=False)
    assert done.returncode and "Traceback" not in done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("--output_dir=/dev/null/out cannot be written to:")


def test_every_phase_updates_the_topology_at_the_defaults():
    """15 epochs of exploration, 10 of each refinement."""
    default, paper, long, dense = plans(
        "train_edst",
        "script.apply_preset() or script.update_interval(11)",
        [
            [],
            ["--preset=cifar", "--exploration_epochs=4000"],
            ["--update_interval=111"],
            ["--update_interval=111", "--sparsity=0"],
        ],
    )
    assert default == 165 // 40 and dense == 111
    assert paper == 1000
    assert "longer than the refinement, which has 110" in long
    intervals = plans(
        "train_dst", "script.update_interval(data)", [[], ["--epochs=1"]]
    )
    assert intervals == [275 // 40, 1]


def test_an_ensemble_that_would_never_grow_is_refused():
    """Published intervals are for longer runs."""
    call = "script.check_updates(script.method(), data.num_train)"
    edst, dst, given, static = plans(
        "train_ensemble",
        call,
        [
            ["--exploration_epochs=10"],
            ["--method=dst", "--epochs=10"],
            ["--method=dst", "--epochs=10", "--update_interval=110"],
            ["--method=static"],
        ],
    )
    assert "longer than the exploration, which has 110" in edst
    assert "--update_interval=1000 is longer than the run" in dst
    assert given is None and static is None


def test_dry_run_of_the_paper_recipe():
    done = run("train_edst.py", "--preset=cifar", "--dry_run")
    assert "7,292,2" in done.stdout and "/ 36,461,232" in done.stdout
    assert "MAC ratio: 0.3396" in done.stdout
    assert "450 epochs: 0.61x one dense model of 250 epochs" in done.stdout


def without_seconds(content):
    """Whatever was measured in seconds differs from run to run."""
    if isinstance(content, dict):
        return {
            key: without_seconds(value)
            for key, value in content.items()
            if key != "seconds"
        }
    if isinstance(content, list):
        return [without_seconds(value) for value in content]
    return content


def results(path):
    return without_seconds(json.loads(path.read_text()))


def kill_after(backups, script, *flags):
    """Starts a script and kills it a moment after its second backup."""
    process = forked.Popen([ROOT / "examples" / script, *flags], ROOT)
    while process.poll() is None and not (backups / "epoch_000001").exists():
        time.sleep(0.001)
    time.sleep(random.Random(str(flags)).uniform(0.0, 0.1))
    process.kill()
    assert process.wait() == -signal.SIGKILL


def tickets_of(folder):
    import keras

    return [
        keras.saving.load_model(path).get_weights()
        for path in sorted(folder.rglob("ticket_*.keras"))
    ]


def check_same_tickets(one, other):
    for mine, its in zip(tickets_of(one), tickets_of(other), strict=True):
        for a, b in zip(mine, its, strict=True):
            np.testing.assert_array_equal(a, b)


def edst_flags(tmp_path):
    return (
        "--verbose=0",
        f"--data_dir={tmp_path / 'data'}",
        "--update_interval=5",
        "--exploration_epochs=2",
        "--refinement_epochs=1",
        "--num_tickets=2",
    )


def check_edst_files(directory):
    for name in (
        "ensemble.keras",
        "saved_model/saved_model.pb",
        "saved_model_ticket/saved_model.pb",
        "pictures/learning_curve.png",
        "pictures/density.png",
    ):
        assert (directory / name).stat().st_size > 0


def test_edst(tmp_path):
    flags = (*edst_flags(tmp_path), SMALL)
    done = run("train_edst.py", *flags, f"--output_dir={tmp_path / 'out'}")
    assert "ticket 1" in done.stdout and "ensemble" in done.stdout
    check_edst_files(tmp_path / "out")


def test_edst_of_active_weights_alone(tmp_path):
    import keras

    import keras_freetickets as kft

    output = tmp_path / "out"
    flags = (*edst_flags(tmp_path), SMALL, "--storage=compressed")
    run("train_edst.py", *flags, "--sparsity=0.9", f"--output_dir={output}")
    ticket = keras.models.load_model(output / "tickets" / "ticket_0.keras")
    stored = [row.storage for row in kft.sparsity_summary(ticket, False)]
    assert stored.count("compressed") == 2
    # 64-300-100-10 without 0.9 of its kernels, and 410 biases.
    (row, *_) = results(output / "metrics.json")["rows"]
    kernels = 64 * 300 + 300 * 100 + 100 * 10
    assert row["parameters"] == pytest.approx(0.1 * kernels + 410, abs=2)


@pytest.mark.slow
def test_edst_killed_and_resumed(tmp_path):
    flags = edst_flags(tmp_path)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run("train_edst.py", *flags, f"--output_dir={whole}")
    kill_after(
        killed / "backup", "train_edst.py", *flags, f"--output_dir={killed}"
    )
    run("train_edst.py", *flags, f"--output_dir={killed}")
    check_same_tickets(whole, killed)
    assert results(killed / "metrics.json") == results(whole / "metrics.json")
    check_edst_files(killed)


def dst_flags(tmp_path, epochs):
    return (
        "--verbose=0",
        f"--data_dir={tmp_path / 'data'}",
        "--update_interval=5",
        f"--epochs={epochs}",
    )


@pytest.mark.slow
def test_dst_is_collected(tmp_path):
    flags = (*dst_flags(tmp_path, 1), f"--output_dir={tmp_path / 'out'}")
    for seed in (10, 2):
        run("train_dst.py", *flags, f"--seed={seed}")
    run("train_dst.py", *flags, "--collect")
    rows = results(tmp_path / "out" / "metrics.json")["rows"]
    assert [row["model"] for row in rows] == ["seed 2", "seed 10", "ensemble"]


@pytest.mark.slow
def test_dst_killed_and_resumed(tmp_path):
    flags = dst_flags(tmp_path, 3)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run("train_dst.py", *flags, f"--output_dir={whole}", "--seed=10")
    mine = (*flags, f"--output_dir={killed}")
    kill_after(
        killed / "seed_10" / "backup", "train_dst.py", *mine, "--seed=10"
    )
    done = run("train_dst.py", *mine, "--collect", check=False)
    assert done.returncode != 0
    assert "Seed 10 is not finished" in done.stdout
    assert "--collect needs finished runs" in done.stderr
    run("train_dst.py", *mine, "--seed=10")
    check_same_tickets(whole, killed)


# A small network compiles sooner.
SMALL = "--model=lenet_300_100"
SHORT = ("--verbose=0", "--epochs=2", "--update_interval=5", SMALL)


@pytest.mark.parametrize(
    "method", [pytest.param("dst_ee", marks=pytest.mark.slow), "moon"]
)
def test_a_method_of_the_family(tmp_path, method):
    flags = (f"--method={method}", f"--data_dir={tmp_path / 'data'}")
    directory = tmp_path / "out"
    more = ("--epochs=4",) if method == "moon" else ()
    done = run(
        "train_sparse.py", *SHORT, *flags, *more, f"--output_dir={directory}"
    )
    assert method in done.stdout
    (row,) = results(directory / "metrics.json")["rows"]
    assert 0.3 < row["accuracy"] <= 1 and 0 < row["train_flops"] < 1
    assert row["updates"] > 0 and row["sparsity"] == pytest.approx(
        0.8, abs=1e-3
    )
    assert (directory / "model.keras").stat().st_size > 0


# What it shares with compare_ensembles.py is tested with that.
@pytest.mark.slow
def test_methods_are_compared(tmp_path):
    flags = (
        "--methods=dense,rigl",
        "--sparsities=0.8",
        "--num_seeds=1",
        "--epochs=1",
        "--num_examples=300",
        "--update_interval=1",
        "--dense_learning_rate=0.02",
        f"--data_dir={tmp_path / 'data'}",
        f"--output_dir={tmp_path / 'out'}",
    )
    first = run("compare_methods.py", *flags)
    for name, rate in {"dense_0.0_0": 0.02, "rigl_0.8_0": 0.05}.items():
        config = results(tmp_path / "out" / name / "config.json")
        assert config["learning_rate"] == rate
    assert (
        "| dense | 0.0 |" in first.stdout and "| rigl | 0.8 |" in first.stdout
    )
    # Finished runs are not made again.
    kept = tmp_path / "out" / "rigl_0.8_0" / "metrics.json"
    before = kept.stat().st_mtime_ns
    again = run("compare_methods.py", *flags)
    assert kept.stat().st_mtime_ns == before
    assert again.stdout.splitlines() == [
        line for line in first.stdout.splitlines() if not line.endswith(" ...")
    ]
    assert len(results(tmp_path / "out" / "summary.json")) == 2


def test_ensembles_are_compared(tmp_path):
    flags = (
        "--methods=one_dense,edst",
        SMALL,
        "--num_seeds=1",
        "--num_members=2",
        "--epochs=5",
        "--num_examples=300",
        "--update_interval=1",
        f"--data_dir={tmp_path / 'data'}",
        f"--output_dir={tmp_path / 'out'}",
    )
    first = run("compare_ensembles.py", *flags)
    rows = results(tmp_path / "out" / "summary.json")
    assert [row["method"] for row in rows] == ["one_dense", "edst"]
    costs = [row["train_flops"][0] for row in rows]
    # 3 + 2 x 2 epochs at a density of 0.2 and more
    assert costs[0] == 1.0 and 0.28 < costs[1] < 0.9
    assert rows[0]["disagreement"] is None and rows[1]["disagreement"][0] > 0
    assert (tmp_path / "out" / "pareto.png").stat().st_size > 0
    folder = tmp_path / "out" / "edst_0"
    compact = (folder / "ensemble.npz").stat().st_size
    assert compact == rows[1]["file_bytes"][0]
    assert compact < (folder / "ensemble.keras").stat().st_size
    again = run("compare_ensembles.py", *flags)
    assert again.stdout.splitlines() == [
        line for line in first.stdout.splitlines() if not line.endswith(" ...")
    ]


@pytest.mark.slow
def test_settings_of_another_method_are_refused(tmp_path):
    done = run(
        "train_ensemble.py",
        "--method=dense",
        "--rounds=2",
        f"--output_dir={tmp_path / 'out'}",
        check=False,
    )
    assert (
        done.returncode
        and "--rounds=2 is not a setting of --method=dense" in done.stderr
    )
    assert not (tmp_path / "out").exists()
    done = run("train_ensemble.py", "--method=pf", "--recipe")
    assert "fine_tuning_epochs: 250" in done.stdout
