r"""Compares methods of sparse training on one dataset, over several seeds.

    python examples/compare_methods.py --dataset=fashion_mnist \
        --data_dir=../shared/tfds --output_dir=runs/methods

Runs train_sparse.py once for each method, sparsity and seed, then prints a
table with the mean and the standard deviation of each score. Finished runs are
kept and a killed one resumes: start the same command again. A dense run is
made once for all sparsities.
"""

import os
from typing import Any

import run_directory
import sweep
import tables
from absl import app
from absl import flags

import keras_freetickets as kft

FLAGS = flags.FLAGS
flags.DEFINE_list(
    "methods", list(kft.recipes.SPARSE_TRAININGS), "What to compare."
)
flags.DEFINE_list("sparsities", ["0.9", "0.98"], "Each in [0, 1).")
flags.DEFINE_integer("num_seeds", 3, "Seeds 0, 1, ...", lower_bound=1)
flags.DEFINE_string("output_dir", "runs/methods", "Where all files go.")
flags.DEFINE_string("dataset", "optdigits", "A TFDS dataset, or optdigits.")
flags.DEFINE_string("data_dir", None, "Where the prepared dataset is.")
flags.DEFINE_string("model", "small_cnn", "As for train_sparse.py.")
flags.DEFINE_integer("epochs", 10, "Of each run.", lower_bound=1)
flags.DEFINE_integer("num_examples", 12_000, "Training images.", lower_bound=1)
flags.DEFINE_integer("update_interval", 25, "Optimizer updates.", lower_bound=1)
flags.DEFINE_float("drop_fraction", 0.3, "Initial drop fraction.", 0.0, 1.0)
flags.DEFINE_float("learning_rate", 0.05, "Of SGD.", lower_bound=1e-9)
flags.DEFINE_float(
    "dense_learning_rate",
    None,
    "Of SGD for the dense network. Default: --learning_rate.",
    lower_bound=1e-9,
)
flags.register_validator(
    "methods",
    lambda names: set(names) <= set(kft.recipes.SPARSE_TRAININGS),
    f"must be some of {kft.recipes.SPARSE_TRAININGS}",
)
flags.register_validator(
    "sparsities",
    lambda values: all(0.0 <= float(value) < 1.0 for value in values),
    "must be numbers in [0, 1)",
)

_PASSED_ON = (
    "dataset",
    "model",
    "epochs",
    "num_examples",
    "update_interval",
    "drop_fraction",
    "learning_rate",
    "dense_learning_rate",
)


def run(method: str, sparsity: str, seed: int) -> dict[str, Any]:
    """The scores of one finished run of train_sparse.py."""
    flags = {"method": method, "sparsity": sparsity, "seed": seed, "verbose": 0}
    flags["data_dir"] = FLAGS.data_dir
    flags |= setting()
    own_rate = flags.pop("dense_learning_rate")
    if method == "dense" and own_rate is not None:
        flags["learning_rate"] = own_rate
    name = f"{method}_{sparsity}_{seed}"
    directory = os.path.join(FLAGS.output_dir, name)
    (row,) = sweep.rows_of_run("train_sparse.py", directory, flags)
    return row


def setting() -> dict[str, Any]:
    """The flags that decide the results of a directory."""
    return {name: getattr(FLAGS, name) for name in _PASSED_ON}


def summary(method: str, sparsity: str) -> dict[str, Any]:
    """One row: mean and standard deviation over the seeds."""
    rows = [run(method, sparsity, seed) for seed in range(FLAGS.num_seeds)]
    row: dict[str, Any] = {"method": method, "sparsity": sparsity}
    for name in ("accuracy", "nll", "ece", "seconds", "updates"):
        row[name] = sweep.mean_and_deviation([r[name] for r in rows])
    for name in ("parameters", "inference_flops", "train_flops"):
        row[name] = rows[0][name]
    row["trained_sparsity"] = rows[0]["sparsity"]
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; ~ marks means within a deviation of RigL's."""
    heads = ["method", "sparsity asked for", "trained", "updates"]
    heads += ["accuracy", "NLL", "ECE"]
    heads += ["train FLOPs", "seconds"]
    lines = []
    for row in rows:
        cells = [row["method"], str(row["sparsity"])]
        cells += [f"{row['trained_sparsity']:.4f}", f"{row['updates'][0]:.0f}"]
        for name in ("accuracy", "nll", "ece"):
            mean, deviation = row[name]
            cells.append(f"{mean:.4f} ± {deviation:.4f}{mark(rows, row, name)}")
        cells.append(f"{row['train_flops']:.3f}")
        cells.append(f"{row['seconds'][0]:.0f}")
        lines.append(cells)
    return tables.markdown(heads, lines)


def mark(rows: list[dict[str, Any]], row: dict[str, Any], name: str) -> str:
    """~ where the difference to RigL is within the larger deviation."""
    rigl = [
        r
        for r in rows
        if r["method"] == "rigl" and r["sparsity"] == row["sparsity"]
    ]
    alike = (
        rigl and row is not rigl[0] and sweep.within(row[name], rigl[0][name])
    )
    return " ~" if alike else ""


def main(argv: list[str]) -> None:
    run_directory.no_arguments(argv)
    run_directory.claim_directory(FLAGS.output_dir, setting())
    rows = []
    if "dense" in FLAGS.methods:
        rows.append(summary("dense", "0.0"))
    for sparsity in FLAGS.sparsities:
        for method in FLAGS.methods:
            if method != "dense":
                rows.append(summary(method, sparsity))
    text = table(rows)
    run_directory.write_json(
        os.path.join(FLAGS.output_dir, "summary.json"), rows
    )
    print(text)
    print("~: within a standard deviation of RigL. FLOPs are theoretical.")


if __name__ == "__main__":
    app.run(main)
