r"""Compares ways to make an ensemble: their scores and their costs.

    python examples/compare_ensembles.py --dataset=fashion_mnist \
        --data_dir=../shared/tfds --output_dir=runs/ensembles

Runs train_ensemble.py once for each method and seed, with the proportions of
the published recipes and --epochs as the epochs of a dense network, then
prints a table with mean and standard deviation of each score and draws
accuracy and NLL against training FLOPs. Finished runs are kept and a
killed one resumes: start the same command again.
"""

import importlib.util
import os
from typing import Any

import run_directory
import sweep
import tables
from absl import app
from absl import flags

from keras_freetickets import plots

FLAGS = flags.FLAGS
METHODS = ["one_dense", "dense", "static", "dst", "edst", "pf", "ltr"]
METHODS += ["snapshot", "mimo", "sparse_mimo"]
flags.DEFINE_list("methods", METHODS, "What to compare.")
flags.DEFINE_integer("num_seeds", 3, "Seeds 0, 1, ...", lower_bound=1)
flags.DEFINE_string("output_dir", "runs/ensembles", "Where all files go.")
flags.DEFINE_string("dataset", "optdigits", "A TFDS dataset, or optdigits.")
flags.DEFINE_string("data_dir", None, "Where the prepared dataset is.")
flags.DEFINE_string("model", "small_cnn", "As for train_ensemble.py.")
flags.DEFINE_integer("epochs", 10, "Of a dense network.", lower_bound=5)
flags.DEFINE_integer("num_members", 3, "Of most methods.", lower_bound=1)
flags.DEFINE_float("sparsity", 0.8, "Of sparse members.", 0.0, 0.9999)
flags.DEFINE_float("mimo_sparsity", 0.5, "Of the sparse MIMO.", 0.0, 0.9999)
flags.DEFINE_integer("num_examples", 12_000, "Training images.", lower_bound=1)
flags.DEFINE_integer("update_interval", 25, "Optimizer updates.", lower_bound=1)
flags.DEFINE_float("learning_rate", 0.02, "Of SGD.", lower_bound=1e-9)
flags.register_validator(
    "epochs", lambda epochs: epochs % 5 == 0, "must be a multiple of 5"
)
flags.register_validator(
    "methods",
    lambda names: set(names) <= set(METHODS),
    f"must be some of {METHODS}",
)

# Flags that all runs share.
_PASSED_ON = ("dataset", "model", "num_examples", "learning_rate")
_DECIDING = (
    "epochs",
    "num_members",
    "sparsity",
    "mimo_sparsity",
    "update_interval",
    *_PASSED_ON,
)


def settings(method: str) -> dict[str, Any]:
    """The flags of train_ensemble.py for a method."""
    epochs = FLAGS.epochs
    alike = {"num_members": FLAGS.num_members, "epochs": epochs}
    sparse = {**alike, "sparsity": FLAGS.sparsity}
    grown = {**sparse, "update_interval": FLAGS.update_interval}
    if method == "one_dense":
        return {"method": "dense", **alike, "num_members": 1}
    if method == "edst":
        # 150 and 100 epochs, where a dense network has 250.
        exploration = round(0.6 * epochs)
        del grown["epochs"]
        return {
            **grown,
            "method": method,
            "exploration_epochs": exploration,
            "refinement_epochs": epochs - exploration,
        }
    if method == "snapshot":
        # As many epochs as one dense network, in 5 cycles, at twice its rate.
        return {
            "method": method,
            "cycle_epochs": epochs // 5,
            "learning_rate": 2 * FLAGS.learning_rate,
        }
    if method == "sparse_mimo":
        return {**grown, "method": "mimo", "sparsity": FLAGS.mimo_sparsity}
    kinds = {"dense": alike, "mimo": alike, "dst": grown}
    return {**kinds.get(method, sparse), "method": method}


def run(method: str, seed: int) -> dict[str, Any]:
    """The scores of the ensemble of one finished run."""
    given = {name: getattr(FLAGS, name) for name in _PASSED_ON}
    given |= {"data_dir": FLAGS.data_dir, "seed": seed, "verbose": 0}
    given |= {"reference_epochs": FLAGS.epochs, **settings(method)}
    directory = os.path.join(FLAGS.output_dir, f"{method}_{seed}")
    *members, whole = sweep.rows_of_run("train_ensemble.py", directory, given)
    best = max(member["accuracy"] for member in members)
    return {**whole, "best_member": best}


_SCORES = ("accuracy", "nll", "ece", "best_member", "disagreement", "kl")
_COSTS = ("parameters", "file_bytes", "train_flops", "inference_flops")
_TIMES = ("seconds", "inference_ms")


def summary(method: str) -> dict[str, Any]:
    """One row: means and standard deviations over the seeds."""
    runs = [run(method, seed) for seed in range(FLAGS.num_seeds)]
    row: dict[str, Any] = {"method": method}
    for name in (*_SCORES, *_COSTS, *_TIMES):
        values = [one[name] for one in runs]
        known = None not in values
        row[name] = sweep.mean_and_deviation(values) if known else None
    return row


_HEADS = ["method", "accuracy", "NLL", "ECE", "best member (by test)"]
_HEADS += ["disagreement", "KL", "parameters", "file, kB", "train FLOPs"]
_HEADS += ["train s", "inference FLOPs", "inference ms"]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; ~ marks scores within a deviation of the dense ensemble's."""
    reference = {row["method"]: row for row in rows}.get("dense")
    lines = []
    for row in rows:
        cells = [
            row["method"],
            *(score(row, name, reference) for name in _SCORES),
            f"{row['parameters'][0]:,.0f}",
            f"{row['file_bytes'][0] / 1000:,.0f}",
            f"{row['train_flops'][0]:.2f}",
            "{:.0f} ± {:.0f}".format(*row["seconds"]),
            f"{row['inference_flops'][0]:.2f}",
            "{:.1f} ± {:.1f}".format(*row["inference_ms"]),
        ]
        lines.append(cells)
    return tables.markdown(_HEADS, lines)


def score(
    row: dict[str, Any], name: str, reference: dict[str, Any] | None
) -> str:
    if row[name] is None:
        return ""
    text = "{:.4f} ± {:.4f}".format(*row[name])
    compared = name in ("accuracy", "nll", "ece") and row is not reference
    alike = compared and reference and sweep.within(row[name], reference[name])
    return f"{text} ~" if alike else text


def draw(rows: list[dict[str, Any]]) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        print("No picture: pip install matplotlib")
        return
    path = os.path.join(FLAGS.output_dir, "pareto.png")
    names = {"accuracy": "accuracy", "nll": "NLL"}
    plots.scores_against_cost(
        {
            row["method"]: {label: row[name] for name, label in names.items()}
            for row in rows
        },
        {row["method"]: row["train_flops"][0] for row in rows},
        {"accuracy": "max", "NLL": "min"},
        path,
        label="training FLOPs, one dense network = 1",
    )
    print(f"Picture: {path}")


def main(argv: list[str]) -> None:
    run_directory.no_arguments(argv)
    deciding = {name: getattr(FLAGS, name) for name in _DECIDING}
    run_directory.claim_directory(FLAGS.output_dir, deciding)
    rows = [summary(method) for method in FLAGS.methods]
    run_directory.write_json(
        os.path.join(FLAGS.output_dir, "summary.json"), rows
    )
    print(table(rows))
    print("~: within a standard deviation of the dense ensemble.")
    print("FLOPs are theoretical; one dense network has 1 of both.")
    draw(rows)


if __name__ == "__main__":
    app.run(main)
