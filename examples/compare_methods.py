r"""Compares the methods of the family on one data set, over several seeds.

    python examples/compare_methods.py --dataset=fashion_mnist \
        --data_dir=../shared/tfds --output_dir=runs/methods

Runs train_sparse.py once for each method, sparsity and seed, then prints a
table with the mean and the standard deviation of each score. Finished runs are
kept, a killed one goes on where it was: start the same command again. Dense
runs serve every sparsity.
"""

import os

import common
import sweep
from absl import app
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_list("methods", common.SPARSE_TRAININGS, "What to compare.")
flags.DEFINE_list("sparsities", ["0.9", "0.98"], "Each in [0, 1).")
flags.DEFINE_integer("num_seeds", 3, "Seeds 0, 1, ...", lower_bound=1)
flags.DEFINE_string("output_dir", "runs/methods", "Where everything goes.")
flags.DEFINE_string("dataset", "optdigits", "A TFDS set, or optdigits.")
flags.DEFINE_string("data_dir", None, "Where the prepared set lies.")
flags.DEFINE_string("model", "small_cnn", "As for train_sparse.py.")
flags.DEFINE_integer("epochs", 10, "Of each run.", lower_bound=1)
flags.DEFINE_integer("num_examples", 12_000, "Training images.", lower_bound=1)
flags.DEFINE_integer("update_interval", 25, "Optimizer updates.", lower_bound=1)
flags.DEFINE_float("drop_fraction", 0.3, "At the beginning.", 0.0, 1.0)
flags.DEFINE_float("learning_rate", 0.05, "Of SGD.", lower_bound=1e-9)
flags.DEFINE_float(
    "dense_learning_rate",
    None,
    "Of SGD for the dense network, which may want another rate. Default: "
    "--learning_rate.",
    lower_bound=1e-9,
)
flags.register_validator(
    "methods",
    lambda names: set(names) <= set(common.SPARSE_TRAININGS),
    f"must be of {common.SPARSE_TRAININGS}",
)
flags.register_validator(
    "sparsities",
    lambda values: all(0.0 <= float(value) < 1.0 for value in values),
    "must be numbers in [0, 1)",
)

_PASSED_ON = ("dataset", "model", "epochs", "num_examples", "update_interval")
_PASSED_ON += ("drop_fraction", "learning_rate", "dense_learning_rate")


def run(method, sparsity, seed):
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


def setting():
    """The flags that decide the results of a directory."""
    return {name: getattr(FLAGS, name) for name in _PASSED_ON}


def summary(method, sparsity):
    """One row: mean and standard deviation over the seeds."""
    rows = [run(method, sparsity, seed) for seed in range(FLAGS.num_seeds)]
    row = {"method": method, "sparsity": sparsity}
    for name in ("accuracy", "nll", "ece", "seconds", "updates"):
        row[name] = sweep.mean_and_deviation([r[name] for r in rows])
    for name in ("parameters", "inference_flops", "train_flops"):
        row[name] = rows[0][name]
    row["trained_sparsity"] = rows[0]["sparsity"]
    return row


def table(rows):
    """Markdown; a mean within a deviation of RigL's is marked with ~."""
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
    return sweep.markdown(heads, lines)


def mark(rows, row, name):
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


def main(argv):
    common.no_arguments(argv)
    common.claim_directory(FLAGS.output_dir, setting())
    rows = []
    if "dense" in FLAGS.methods:
        rows.append(summary("dense", "0.0"))
    for sparsity in FLAGS.sparsities:
        for method in FLAGS.methods:
            if method != "dense":
                rows.append(summary(method, sparsity))
    text = table(rows)
    common.write_json(os.path.join(FLAGS.output_dir, "summary.json"), rows)
    print(text)
    print("~: within a standard deviation of RigL. FLOPs are theoretical.")


if __name__ == "__main__":
    app.run(main)
