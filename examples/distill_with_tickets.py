r"""Distills a data set into a few images, with fresh networks and with banks.

    python examples/distill_with_tickets.py
    python examples/distill_with_tickets.py --dataset=fashion_mnist \
        --data_dir=../shared/tfds --depth=3 --images_per_class=10 --factor=2 \
        --output_dir=runs/fashion_distilled

Matching gradients takes many networks. Four ways to make a distilled set, and
what new networks that are trained on it are worth on test images: random real
images; matching with fresh networks, --fresh_factor times as many as the
others draw; with a bank of networks that were trained for a few steps, each
moved at random when it is drawn; with a bank that is the first epochs of one
sparse run (RigL), compared on active weights only. The seconds of a bank
include its own training. --only=random,bank leaves the others out.

The sets are written as arrays with labels (NAME.npz, see
keras_freetickets.distillation.DistilledSet) and as a picture. If the script is
killed, start it again with the same flags: it resumes.
"""

import os
import time
from collections.abc import Callable
from typing import Any

import distilling
import numpy as np
import run_directory
import tables
from absl import app
from absl import flags
from absl import logging

from keras_freetickets import distillation

FLAGS = flags.FLAGS
flags.DEFINE_string("output_dir", "runs/distilled", "Where all files go.")
flags.DEFINE_string("data_dir", None, "Where the prepared dataset is.")
flags.DEFINE_integer("seed", 0, "Seed of everything.", 0, 2**20)
flags.DEFINE_integer(
    "fresh_factor", 5, "Fresh networks for each one of a bank.", 1
)
flags.DEFINE_integer("evaluations", 3, "Networks that score a set.", 1)
flags.DEFINE_list(
    "only", ["random", "fresh", "bank", "sparse"], "Which ways to compare."
)
flags.adopt_module_key_flags(distilling)

TITLES = {
    "random": "random real images",
    "fresh": "fresh networks",
    "bank": "early bank, perturbed",
    "sparse": "one sparse run, perturbed",
}


def path(name: str) -> str:
    return os.path.join(FLAGS.output_dir, name)


class Clock:
    """Seconds by the clock and of the processors, also before a kill.

    On a machine that others use too, only the latter can be compared.
    """

    def __init__(self, spent: list[float] | None) -> None:
        self._begun = np.subtract(self._now(), spent or [0.0, 0.0])

    @staticmethod
    def _now() -> list[float]:
        return [time.perf_counter(), time.process_time()]

    def seconds(self) -> list[float]:
        return np.subtract(self._now(), self._begun).tolist()


def progress(title: str, outer: int, clock: Clock, file: str) -> Callable:
    """Prints each step, and keeps the state and its seconds."""

    def note(state: distillation.DistillationState) -> None:
        seconds = clock.seconds()
        state.save(path(f"{file}.state.npz"))
        run_directory.write_json(path(f"{file}.state.json"), seconds)
        print(
            f"  {title}: step {state.step} of {outer}, matching loss "
            f"{state.losses[-1]:.4g}, {seconds[0]:.0f} s",
            flush=True,
        )

    return note


def costs(networks: int, clock: Clock) -> dict[str, Any]:
    by_clock, of_processors = clock.seconds()
    return {
        "networks": networks,
        "seconds": by_clock,
        "processor_seconds": of_processors,
    }


def distilled_by(name: str, images: distilling.Images) -> dict[str, Any]:
    """Makes the set of one way; what it cost."""
    seed, clock = FLAGS.seed, Clock(None)
    if name == "random":
        distillation.real_start(
            *images.train, FLAGS.images_per_class, FLAGS.factor, seed
        ).save(path("random.npz"))
        return costs(0, clock)
    outer = FLAGS.outer_steps * (FLAGS.fresh_factor if name == "fresh" else 1)
    networks: Any = None
    if name == "fresh":
        networks = distillation.FreshNetworks(
            lambda number: distilling.network(images, number)
        )
    elif name == "bank":
        networks = distilling.dense_bank(images, seed)
    else:
        networks = distilling.sparse_bank(images, seed)
    state, spent = None, run_directory.read_json(path(f"{name}.state.json"))
    if spent is not None:  # it was killed; the bank is the same again
        state = distillation.DistillationState.load(path(f"{name}.state.npz"))
        clock = Clock(spent)
    moved = None if name == "fresh" else (0.01, 0.09)
    matching = distilling.matching(
        images, seed, outer_steps=outer, perturbation=moved
    )
    note = progress(TITLES[name], outer, clock, name)
    done = matching.distill(networks, *images.train, note, state)
    done.distilled.save(path(f"{name}.npz"))
    return costs(outer, clock)


def row(name: str, images: distilling.Images) -> dict[str, Any]:
    """Accuracies of new networks that see the distilled set alone."""
    print(f"{TITLES[name]}:", flush=True)
    spent = distilled_by(name, images)
    x, y = distillation.DistilledSet.load(path(f"{name}.npz")).decoded()
    learner = distilling.Learner(images, distilling.RATE, FLAGS.train_steps)
    found = []
    for number in range(FLAGS.evaluations):
        model = learner.train(x, y, seed=FLAGS.seed * 1000 + 500 + number)
        found.append(
            [
                np.mean(
                    distilling.predictions(images, model, x).argmax(-1) == y
                )
                for x, y in (images.validation, images.test)
            ]
        )
    validation, test = np.mean(found, axis=0)
    return {
        "model": TITLES[name],
        "validation_accuracy": float(validation),
        "accuracy": float(test),
        "deviation": float(np.std([one[1] for one in found])),
        **spent,
    }


def draw(names: list[str]) -> None:
    """The distilled images: a row for each way, a column for each class."""
    try:
        from matplotlib import figure
    except ImportError:
        print("No picture: pip install matplotlib")
        return
    sets = [distillation.DistilledSet.load(path(f"{n}.npz")) for n in names]
    firsts = [np.unique(s.labels, return_index=True)[1] for s in sets]
    shape = len(names), len(firsts[0])
    picture = figure.Figure(figsize=(shape[1], shape[0] + 0.3))
    axes = picture.subplots(*shape, squeeze=False)
    for line, name, one, first in zip(axes, names, sets, firsts, strict=True):
        for cell, at in zip(line, first, strict=True):
            gray = one.images.shape[-1] == 1
            shown = one.images[at, ..., 0] if gray else one.images[at]
            cell.imshow(shown, cmap="gray", vmin=0, vmax=1)
            cell.set(xticks=[], yticks=[])
        line[0].set_ylabel(name)
    picture.savefig(path("distilled.png"), dpi=120, bbox_inches="tight")


def show(rows: list[dict[str, Any]]) -> None:
    heads = ["distilled set", "accuracy", "deviation", "networks"]
    lines = [[*heads, "seconds", "of processors"]]
    lines += [
        [
            one["model"],
            f"{one['accuracy']:.4f}",
            f"{one['deviation']:.4f}",
            str(one["networks"]),
            f"{one['seconds']:.1f}",
            f"{one['processor_seconds']:.1f}",
        ]
        for one in rows
    ]
    print(tables.aligned(lines))
    by = {one["model"]: one for one in rows}
    fresh = by.get(TITLES["fresh"])
    for name in ("bank", "sparse"):
        one = by.get(TITLES[name])
        if fresh and one:
            of = {
                key: one[key] / fresh[key]
                for key in ("networks", "seconds", "processor_seconds")
            }
            print(
                f"{one['model']}: {one['accuracy'] - fresh['accuracy']:+.4f} "
                f"accuracy, {of['networks']:.2f} of the networks, "
                f"{of['seconds']:.2f} of the seconds and "
                f"{of['processor_seconds']:.2f} of the processors' seconds of "
                "fresh networks"
            )
    print(f"Files: {FLAGS.output_dir}")


def main(argv: list[str]) -> None:
    run_directory.no_arguments(argv)
    logging.set_verbosity(logging.ERROR)
    names = [name for name in TITLES if name in FLAGS.only]
    if not names or set(FLAGS.only) - set(TITLES):
        raise SystemExit(f"--only={','.join(FLAGS.only)}: of {list(TITLES)}")
    config = run_directory.config()
    run_directory.check_directory(FLAGS.output_dir, config)
    images = distilling.load(FLAGS.seed)
    wanted = "--images_per_class and --factor"
    with run_directory.naming(wanted):
        distillation.real_start(
            *images.train, FLAGS.images_per_class, FLAGS.factor
        )
    run_directory.claim_directory(FLAGS.output_dir, config)
    rows = []
    for name in names:
        found = run_directory.read_json(path(f"{name}.json"))
        if found is None:
            found = row(name, images)
            run_directory.write_json(path(f"{name}.json"), found)
        rows.append(found)
    run_directory.write_json(
        path("metrics.json"), {"config": config, "rows": rows}
    )
    draw(names)
    show(rows)


if __name__ == "__main__":
    app.run(main)
