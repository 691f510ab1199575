r"""Trains ensembles as long as it takes, and keeps what was measured.

    python benchmarks/long_runs.py --data_dir=../shared/tfds
    python benchmarks/long_runs.py --do=plan
    python benchmarks/long_runs.py --do=report

The rows are those of `long_run_rows.py`. Before a row is trained, its learning
rate, weight decay, interval of topology updates and augmentation are chosen:
by validation loss, in runs of another seed and a quarter of the epochs. The
last tenth of the training images validates, here and where an epoch of a
member is chosen; test images are predicted once, at the end of a row.

Kill it whenever you like and start the same command again: finished rows are
kept, the unfinished one goes on after its last whole epoch. What it leaves:

- `<results>/<task>/settings/<row>.json`: what was tried, and chosen.
- `<results>/<task>/rows/<row>.json`: settings, scores, costs of a row.
- `<work_dir>/<task>/<row>/`: tickets, and `predictions.npz`, the logarithms
  of the probabilities of each test image, in float16. Not for git.

Seconds are those that the process computed, so that other work on the machine
counts little; give it one thread and a low priority:

    TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 nice -n 19 \
        python benchmarks/long_runs.py --data_dir=../shared/tfds
"""

import json
import os
import re

import common
import keras
import long_run_data
import long_run_report
import long_run_rows
import numpy as np
from absl import app
from absl import flags
from absl import logging

from keras_freetickets import files
from keras_freetickets import metrics
from keras_freetickets.inspection import density_of
from keras_freetickets.metrics import flops

FLAGS = flags.FLAGS
flags.DEFINE_list("tasks", ["lenet"], "Tasks, of `long_run_rows.TASKS`.")
flags.DEFINE_string("only", "", "Rows whose names this expression is found in.")
flags.DEFINE_list(
    "do",
    ["run"],
    "What to do, one after the other: run what is not done; plan, print what "
    "is and what is not; report, see long_run_report.py.",
)
flags.register_validator(
    "do",
    lambda names: set(names) <= {"run", "plan", "report"},
    "must be of run, plan and report",
)
flags.DEFINE_string("data_dir", None, "Where the prepared sets lie.")
flags.DEFINE_string(
    "results",
    os.path.join(os.path.dirname(__file__), "results", "long_runs"),
    "Folder of the JSON files.",
)
flags.DEFINE_string("work_dir", "runs/long_runs", "Tickets and predictions.")

_EVALUATION_BATCH = 1000
# The loss of settings with which training diverged; JSON has no infinity.
DIVERGED = 1e9


def results_path(task, kind, name):
    return os.path.join(FLAGS.results, task, kind, f"{name}.json")


def read(path):
    if not os.path.exists(path):
        return None
    with open(path) as file:
        return json.load(file)


def write(path, content):
    """Writes a file that is whole or not there, whenever it is killed."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with files.atomic_path(path) as temporary, open(temporary, "w") as file:
        json.dump(content, file, indent=1)
        file.write("\n")


def rows():
    """The rows that the flags name."""
    listed = long_run_rows.ROWS
    if "tiny" in FLAGS.tasks:
        listed = [
            *long_run_rows.rows("tiny", (0, 1), (0.8,)),
            *long_run_rows.family("tiny", 0.8, seeds=(0,)),
            *long_run_rows.lengths("tiny", 0.8, (1,), (0,)),
        ]
    return [
        row
        for row in listed
        if row.task in FLAGS.tasks and re.search(FLAGS.only, row.name)
    ]


def trained(row, settings, epochs, members, directory):
    """The ensemble of a row, its recipe, and its images."""
    task = long_run_rows.TASKS[row.task]
    images = long_run_data.load(
        task.dataset, settings["augment"], task.num_examples, FLAGS.data_dir
    )
    shape, classes = images.train[0].shape[1:], 10
    steps = len(images.train[0]) // task.batch_size

    def make_model(seed):
        keras.utils.set_random_seed(seed)
        return task.build(shape, classes)

    def compile_model(model):
        model.compile(
            keras.optimizers.SGD(
                settings["learning_rate"],
                momentum=0.9,
                weight_decay=settings["weight_decay"] or None,
            ),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
            jit_compile=task.jit_compile,
            steps_per_execution=steps,
        )

    def data(seed):
        batches = images.batches(task.batch_size, seed)
        return {
            "x": batches.dataset,
            "shuffle": False,
            "validation_data": images.validation,
            "validation_batch_size": _EVALUATION_BATCH,
            "callbacks": [
                batches.epoch_order(),
                long_run_data.ProcessSeconds(),
            ],
        }

    recipe = long_run_rows.recipe(row, settings, epochs, members, steps)
    ensemble = recipe.fit(
        make_model, compile_model, data, directory, row.seed, verbose=0
    )
    return ensemble, recipe, images


def scores(probabilities, labels):
    """Accuracy, negative log-likelihood, calibration error, Brier score."""
    return {
        "accuracy": float((probabilities.argmax(-1) == labels).mean()),
        "nll": float(
            np.mean(metrics.negative_log_likelihood(labels, probabilities))
        ),
        "ece": metrics.expected_calibration_error(labels, probabilities),
        "brier": float(np.mean(metrics.brier_score(labels, probabilities))),
    }


def disagreement(members):
    """Of pairs of members; `None` of one."""
    if len(members) < 2:
        return None
    return float(np.mean(metrics.disagreement(members)))


def chosen(row):
    """The settings of a row; runs what is needed to choose them."""
    row = long_run_rows.searched(row)
    augment = None
    if row.method != "dense":
        dense = long_run_rows.Row(row.task, "dense", 0.0, row.seed)
        augment = chosen(dense)["augment"]
    path = results_path(row.task, "settings", row.family)
    found = read(path) or {"tried": []}
    while True:
        settings, best = long_run_rows.next_candidate(
            row,
            [(one["settings"], one["nll"]) for one in found["tried"]],
            augment,
        )
        if settings is None:
            break
        found["tried"].append(try_out(row, settings))
        write(path, found)
    if found.get("chosen") != best:
        found["chosen"] = best
        write(path, found)
    return best


def label(settings):
    """A folder's name: a run of other settings must not go on from it."""
    return "-".join(f"{settings[name]}" for name in sorted(settings))


def try_out(row, settings):
    """Trains one network for a part of the epochs; validates it."""
    task = long_run_rows.TASKS[row.task]
    epochs = max(task.epochs // long_run_rows.SEARCH_SHARE, 1)
    directory = os.path.join(
        FLAGS.work_dir, row.task, "settings", row.family, label(settings)
    )
    ensemble, recipe, images = trained(row, settings, epochs, 1, directory)
    x, labels = images.validation
    probabilities = predicted(ensemble, x)[0]
    if np.isfinite(probabilities).all():
        found = scores(probabilities, labels)
    else:
        found = {"nll": DIVERGED}
    print(f"{row.task} {row.family} {settings}: {found}", flush=True)
    return {
        "settings": settings,
        "epochs": epochs,
        "seed": row.seed,
        **found,
        "process_seconds": process_seconds(recipe)["sum"],
    }


def predicted(ensemble, x):
    """Probabilities of each member, `(members, images, classes)`."""
    return np.asarray(ensemble.predict_members(x, batch_size=_EVALUATION_BATCH))


def process_seconds(recipe):
    """Seconds computed in all epochs, and without what compiling takes."""
    every = [run.history["process_seconds"] for run in recipe.runs]
    return {
        "sum": float(np.sum([np.sum(one) for one in every])),
        # The first epoch of a process compiles the step.
        "typical": float(np.sum([np.median(one) * len(one) for one in every])),
    }


def costs(row, recipe, ensemble, directory):
    """What the row cost, relative to one dense network of the task."""
    task = long_run_rows.TASKS[row.task]
    member = ensemble.member(0)
    whole = flops.forward_flops(member)
    used = [
        flops.forward_flops(one, density_of(one))
        for one in (ensemble.member(i) for i in range(ensemble.num_members))
    ]
    file = os.path.join(directory, "ensemble.npz")
    ensemble.save_packed(file)
    return {
        "training_flops": recipe.training_flops() / (3 * whole * task.epochs),
        "inference_flops": float(np.sum(used)) / whole,
        "process_seconds": process_seconds(recipe),
        "epochs_trained": [len(run.history["loss"]) for run in recipe.runs],
        "file_bytes": os.path.getsize(file),
    }


def run(row):
    """Trains and scores a row; writes its JSON file."""
    settings = chosen(row)
    directory = os.path.join(FLAGS.work_dir, row.task, row.name)
    ensemble, recipe, images = trained(
        row,
        settings,
        row.num_epochs,
        row.members,
        os.path.join(directory, label(settings)),
    )
    x, labels = images.test
    members = predicted(ensemble, x)
    save_predictions(directory, members, labels)
    content = {
        "task": row.task,
        "method": row.method,
        "sparsity": row.sparsity,
        "seed": row.seed,
        "epochs": row.epochs,
        "settings": settings,
        "ensemble": scores(members.mean(axis=0), labels),
        "members": [scores(member, labels) for member in members],
        "disagreement": disagreement(members),
        **costs(row, recipe, ensemble, directory),
        "machine": common.machine(),
        "versions": common.versions(),
    }
    write(results_path(row.task, "rows", row.name), content)
    print(f"{row.task} {row.name}: {content['ensemble']}", flush=True)


def save_predictions(directory, members, labels):
    """Logarithms of probabilities, in which float16 keeps small ones apart."""
    path = os.path.join(directory, "predictions.npz")
    logarithms = np.log(np.maximum(members, 1e-30)).astype("float16")
    with files.atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file, members=logarithms, labels=labels.astype("uint8")
        )


def plan():
    """Prints every row and whether it is done."""
    for row in rows():
        family = long_run_rows.searched(row).family
        found = read(results_path(row.task, "settings", family)) or {}
        settings = found.get("chosen")
        if settings is None:
            settings = f"{len(found.get('tried', []))} tried, none chosen"
        done = read(results_path(row.task, "rows", row.name))
        state = "-"
        if done:
            state = "accuracy {accuracy:.4f}, NLL {nll:.4f}".format(
                **done["ensemble"]
            )
        print(f"{row.task:10} {row.name:26} {state:30} {settings}")


def run_all():
    """Trains and scores the rows that are not done."""
    for row in rows():
        if read(results_path(row.task, "rows", row.name)) is None:
            run(row)


def report():
    """Compares what is done; writes tables and pictures."""
    for task in FLAGS.tasks:
        long_run_report.report(
            task,
            os.path.join(FLAGS.results, task),
            os.path.join(FLAGS.work_dir, task),
        )


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown argument {argv[1]!r}.")
    logging.set_verbosity(logging.ERROR)
    todo = {"run": run_all, "plan": plan, "report": report}
    for name in FLAGS.do:
        todo[name]()


if __name__ == "__main__":
    app.run(main)
