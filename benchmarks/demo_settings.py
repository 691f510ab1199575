r"""Chooses the settings of `examples/demo.py`, each fold's without that fold.

    python benchmarks/demo_settings.py --network=small_cnn

For each of the five folds of the digits the other four are split once more:
every fifth of their images validates. Dense networks and EDST are tried with
each learning rate, then with each weight decay at the best rate, then EDST
with each interval of topology updates; by the validation loss of one network,
or of the three tickets, from another seed than the demo's. What was tried and
chosen goes to `examples/demo_settings/<network>.json`. Killed and started
again, it goes on where it was.
"""

import os
import sys
import tempfile

import numpy as np
from absl import app
from absl import flags

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "examples"))
import demo  # noqa: E402
import demo_report  # noqa: E402
import run_directory  # noqa: E402

FLAGS = flags.FLAGS
# What is tried for each network: fewer for the one that takes longer.
GRIDS = {
    "small_cnn": {
        "learning_rate": (0.03, 0.1),
        "weight_decay": (1e-3, 1e-2),
        "update_interval": (20, 50, 100),
    },
    "lenet_300_100": {
        "learning_rate": (0.03, 0.1, 0.3),
        "weight_decay": (0.0, 1e-3, 1e-2, 5e-2),
        "update_interval": (20, 50, 100, 200),
    },
}
# Where each axis is held until it is its turn.
START = {"learning_rate": 0.1, "weight_decay": 1e-2, "update_interval": 50}
SEED = 10_000


def validation_loss(kind, settings, fold):
    """Of networks that saw neither the fold nor the validation images."""
    images, labels, folds = demo.digits()
    known = folds != fold
    images, labels = images[known], labels[known]
    held_out = np.arange(len(images)) % 5 == 0
    made = demo.recipe(
        kind, settings, members=1 if kind == "dense" else demo.MEMBERS
    )
    with tempfile.TemporaryDirectory() as directory:
        ensemble = demo.fit(
            made,
            settings,
            images[~held_out],
            labels[~held_out],
            directory,
            SEED,
        )
        probabilities = ensemble.predict(images[held_out], verbose=0)
    if not np.isfinite(probabilities).all():
        return 1e9
    found = demo_report.scores(labels[held_out], probabilities)
    return float(found["nll"].mean())


def choose(kind, fold, tried, save):
    """The best settings, one axis after the other."""
    axes = dict(GRIDS[FLAGS.network])
    if kind == "dense":
        del axes["update_interval"]
    best = {name: START[name] for name in axes}

    def loss_of(settings):
        for one in tried:
            if one["settings"] == settings:
                return one["nll"]
        tried.append(
            {
                "settings": settings,
                "nll": validation_loss(kind, settings, fold),
            }
        )
        save()
        print(kind, fold, tried[-1], flush=True)
        return tried[-1]["nll"]

    for name, values in axes.items():
        best = min(({**best, name: value} for value in values), key=loss_of)
    return best


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown argument {argv[1]!r}.")
    path = os.path.join(
        ROOT, "examples", "demo_settings", f"{FLAGS.network}.json"
    )
    found = run_directory.read_json(path) or {
        "epochs": FLAGS.epochs,
        "seed": SEED,
        "chosen": [{} for _ in range(demo.FOLDS)],
        "tried": [{"dense": [], "edst": []} for _ in range(demo.FOLDS)],
    }

    def save():
        run_directory.write_json(path, found)

    for fold in range(demo.FOLDS):
        for kind, tried in found["tried"][fold].items():
            found["chosen"][fold][kind] = choose(kind, fold, tried, save)
    save()


if __name__ == "__main__":
    app.run(main)
