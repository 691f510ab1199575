r"""Compares how far several models can be trusted, over several seeds.

    python examples/compare_trust.py --dataset=fashion_mnist \
        --data_dir=../shared/tfds --output_dir=runs/trust \
        --models=dense=runs/ensembles/one_dense_SEED/ensemble.keras \
        --models=EDST=runs/ensembles/edst_SEED/ensemble.keras

Runs evaluate.py once for each model and seed, which replaces SEED in the path,
then prints a table with mean and standard deviation of each number. Finished
runs are kept: start the same command again.
"""

import os
from typing import Any

import run_directory
import sweep
import tables
from absl import app
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_multi_string(
    "models", None, "NAME=PATH, the path of a .keras file with SEED in it."
)
flags.DEFINE_integer("num_seeds", 3, "Seeds 0, 1, ...", lower_bound=1)
flags.DEFINE_string("output_dir", "runs/trust", "Where all files go.")
flags.DEFINE_string("dataset", "fashion_mnist", "As for evaluate.py.")
flags.DEFINE_string("data_dir", None, "Where the prepared datasets are.")
flags.DEFINE_list("ood", "mnist,kmnist,noise", "As for evaluate.py.")
flags.DEFINE_list("corruptions", "all", "As for evaluate.py.")
flags.DEFINE_integer("limit", None, "As for evaluate.py.", lower_bound=2)
flags.DEFINE_integer("num_examples", None, "As in training.", lower_bound=1)
flags.DEFINE_bool("resize", False, "As for evaluate.py.")
flags.DEFINE_float("attack", None, "As for evaluate.py.", 0.0, 1.0)
flags.mark_flag_as_required("models")
flags.register_validator(
    "models",
    lambda values: all("=" in v and "SEED" in v for v in values or []),
    "must be NAME=PATH with SEED in the path",
)

_PASSED_ON = ("dataset", "limit", "num_examples", "resize", "attack")


def run(name: str, pattern: str, seed: int) -> dict[str, float]:
    """What evaluate.py reports of one model."""
    path = pattern.replace("SEED", str(seed))
    if not os.path.exists(path):
        raise SystemExit(f"--models={name}={pattern}: there is no {path}")
    given = {flag: getattr(FLAGS, flag) for flag in _PASSED_ON}
    given |= {
        "model": path,
        "data_dir": FLAGS.data_dir,
        "ood": ",".join(FLAGS.ood),
        "corruptions": ",".join(FLAGS.corruptions),
    }
    directory = os.path.join(
        FLAGS.output_dir, f"{name.replace(' ', '_')}_{seed}"
    )
    found = sweep.finished("evaluate.py", directory, given, "report.json")
    made = os.path.getmtime(os.path.join(directory, "report.json"))
    if found["config"]["model"] != path or made < os.path.getmtime(path):
        raise SystemExit(
            f"{directory} holds the report of another model, or {path} has "
            "changed since: remove it"
        )
    return figures(found)


def figures(report: dict[str, Any]) -> dict[str, float]:
    """The numbers of the table, by name."""
    model = report["names"]["model"]
    clean = report["clean"][model]
    names = ("accuracy", "nll", "ece", "brier", "aurc")
    found = {name: clean[name] for name in names}
    if "corruptions" in report:
        together = report["corruptions"][model]["together"]
        found |= {f"corrupted {n}": together[n] for n in names[:3]}
    for attacker, row in report.get("attack", {}).get(model, {}).items():
        found[f"accuracy, attacked by {attacker}"] = row["accuracy"]
    for name, models in report.get("ood", {}).items():
        for score, label in _DETECTED.items():
            if score in models[model]:
                auroc = models[model][score]["auroc"]
                found[f"AUROC {name}, {label}"] = auroc
    return found


_DETECTED = {
    "maximum probability": "max p",
    "entropy": "entropy",
    "mutual information": "MI",
    "energy": "energy",
    "maximum logit": "max logit",
}


def table(rows: dict[str, dict[str, sweep.MeanAndDeviation]]) -> str:
    """Markdown, one line for each number."""
    names: list[str] = []
    for found in rows.values():
        names += [name for name in found if name not in names]
    lines = [
        [name, *(cell(found.get(name)) for found in rows.values())]
        for name in names
    ]
    return tables.markdown(["", *rows], lines)


def cell(value: sweep.MeanAndDeviation | None) -> str:
    return "" if value is None else "{:.4f} ± {:.4f}".format(*value)


def main(argv: list[str]) -> None:
    run_directory.no_arguments(argv)
    setting = {name: getattr(FLAGS, name) for name in _PASSED_ON}
    setting |= {"ood": FLAGS.ood, "corruptions": FLAGS.corruptions}
    run_directory.claim_directory(FLAGS.output_dir, setting)
    rows = {}
    for model in FLAGS.models:
        name, _, pattern = model.partition("=")
        runs = [run(name, pattern, seed) for seed in range(FLAGS.num_seeds)]
        rows[name] = {
            figure: sweep.mean_and_deviation([one[figure] for one in runs])
            for figure in runs[0]
        }
    run_directory.write_json(
        os.path.join(FLAGS.output_dir, "summary.json"), rows
    )
    print(table(rows))


if __name__ == "__main__":
    app.run(main)
