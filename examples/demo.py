r"""Compares FreeTickets with dense networks on handwritten digits.

The digits are the 1,797 that scikit-learn carries (8x8 pixels, 10 classes), so
nothing is downloaded. They are split into five folds. Networks trained on four
folds predict the fifth, so that every image is scored once. Compared are one
dense network, three of them averaged, and the tickets of one EDST run.

No setting is chosen by the images that are scored: those of each fold, in
`demo_settings/`, were chosen on images of the other four
(`benchmarks/demo_settings.py`). Networks are used as they are after the last
epoch.

If the run is killed, start it again: it resumes and ends with the same result.
Started after its end, it prints the table again.

    python examples/demo.py --output_dir=runs/demo
    python examples/demo.py --network=lenet_300_100 --output_dir=runs/lenet
"""

import importlib.util
import os
from typing import Any

import demo_report
import keras
import numpy as np
import processes
import run_directory
from absl import app
from absl import flags
from absl import logging
from sklearn.datasets import load_digits

import keras_freetickets as kft

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(processes)
flags.DEFINE_string("output_dir", "runs/demo", "Where all files go.")
flags.DEFINE_integer(
    "epochs",
    40,
    "Epochs of a dense network; EDST explores for 0.6 of them and refines for "
    "0.4 of them per ticket.",
    lower_bound=2,
)
flags.DEFINE_enum(
    "network", "small_cnn", ["small_cnn", "lenet_300_100"], "The network."
)
flags.DEFINE_integer("folds", 5, "Number of folds to predict.", 1, 5)
flags.DEFINE_integer(
    "seed", 0, "Seed of weights, masks and data order.", 0, 2**31 - 1
)
flags.DEFINE_integer(
    "verbose", 0, "0 silent, 1 progress bar, 2 a line per epoch.", 0, 2
)

FOLDS = 5
MEMBERS = 3  # FreeTickets
SPARSITY = 0.8  # FreeTickets
BATCH_SIZE = 32
# Kinds of trainings, and what their first member and all of them are called.
NAMES = {
    "dense": ("dense", "dense_ensemble"),
    "edst": ("ticket", "tickets"),
}
_SETTINGS = os.path.join(os.path.dirname(__file__), "demo_settings")


def path(*parts: str) -> str:
    return os.path.join(FLAGS.output_dir, *parts)


def result_path(fold: int) -> str:
    return path(f"fold_{fold}", "result.json")


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images in [-1, 1], their labels, and the fold that each belongs to."""
    found = load_digits()
    images = (found.images[..., np.newaxis] / 8.0 - 1.0).astype("float32")
    fold = np.empty(len(images), int)
    order = np.random.default_rng(0).permutation(len(images))
    fold[order] = np.arange(len(images)) % FOLDS
    return images, found.target, fold


def settings_of(fold: int) -> dict[str, Any]:
    """The settings that were chosen without a fold."""
    file = os.path.join(_SETTINGS, f"{FLAGS.network}.json")
    return run_directory.read_json(file)["chosen"][fold]


def recipe(
    kind: str, settings: dict[str, Any], members: int = MEMBERS
) -> kft.recipes.Recipe:
    """Dense networks, or the tickets of one run."""
    if kind == "dense":
        return kft.recipes.Dense(
            num_members=members, epochs=FLAGS.epochs, monitor=None
        )
    # In proportion to FreeTickets: 150 and 100 epochs, 250 of a dense one.
    exploration = round(0.6 * FLAGS.epochs)
    return kft.recipes.EDST(
        sparsity=SPARSITY,
        num_members=members,
        exploration_epochs=exploration,
        refinement_epochs=FLAGS.epochs - exploration,
        update_interval=settings["update_interval"],
        monitor=None,
    )


def fit(
    made: kft.recipes.Recipe,
    settings: dict[str, Any],
    x: np.ndarray,
    y: np.ndarray,
    directory: str,
    seed: int,
) -> kft.EnsembleModel:
    """Trains networks by a recipe."""
    build = getattr(kft.applications, FLAGS.network)
    # Names, which files hold, do not depend on what was built before.
    keras.utils.clear_session()

    def make_model(seed: int) -> keras.Model:
        keras.utils.clear_session()
        keras.utils.set_random_seed(seed)
        return build(x.shape[1:], 10)

    def compile_model(model: keras.Model) -> None:
        model.compile(
            keras.optimizers.SGD(
                settings["learning_rate"],
                momentum=0.9,
                weight_decay=settings["weight_decay"],
            ),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
            # XLA would take longer to compile than it saves.
            jit_compile=False,
            steps_per_execution=len(x) // BATCH_SIZE,
        )

    def data(seed: int) -> dict[str, Any]:
        batches = kft.datasets.from_arrays(
            x, y, BATCH_SIZE, seed, drop_remainder=True
        )
        return {
            "x": batches.dataset,
            "shuffle": False,  # from_arrays does it
            "callbacks": [batches.epoch_order()],
        }

    return made.fit(
        make_model, compile_model, data, directory, seed, FLAGS.verbose
    )


def train(fold: int, kind: str) -> tuple[Any, kft.EnsembleModel]:
    """Trains on four folds, or loads what was trained before."""
    images, labels, folds = digits()
    known = folds != fold
    settings = settings_of(fold)[kind]
    made = recipe(kind, settings)
    ensemble = fit(
        made,
        settings,
        images[known],
        labels[known],
        path(f"fold_{fold}", kind),
        # The members have the seeds s, s + 1000 and s + 2000.
        FLAGS.seed + 100 * fold,
    )
    return made, ensemble


def train_share() -> None:
    """Trains what is this process' share of the work."""
    # Two processes train as many of each kind.
    work = [
        (fold, kind)
        for fold in range(FLAGS.folds)
        for kind in list(NAMES)[:: 1 if fold % 2 else -1]
    ]
    for fold, kind in processes.share_of(work):
        if os.path.exists(result_path(fold)):
            continue
        print(f"Fold {fold + 1} of {FOLDS}: {kind}", flush=True)
        train(fold, kind)


def result_of(fold: int) -> dict[str, Any]:
    """Predictions of a fold by networks that do not know it, and costs."""
    images, _, folds = digits()
    probabilities, costs = {}, {}
    for kind, (first, all_of_them) in NAMES.items():
        made, ensemble = train(fold, kind)
        members = ensemble.predict_members(images[folds == fold])
        probabilities[first] = members[0]
        probabilities[all_of_them] = np.mean(members, axis=0)
        alone = kft.EnsembleModel([ensemble.member(0)])
        costs[first] = costs_of(alone, made)
        costs[all_of_them] = costs_of(ensemble, made)
    found = {
        "probabilities": {k: v.tolist() for k, v in probabilities.items()},
        "costs": costs,
    }
    run_directory.write_json(result_path(fold), found)
    return found


def costs_of(
    ensemble: kft.EnsembleModel, made: kft.recipes.Recipe
) -> dict[str, float]:
    """Training FLOPs relative to one dense network; seconds; bytes."""
    packed = path("packed.npz")
    ensemble.save_packed(packed)
    size = os.path.getsize(packed)
    os.remove(packed)
    forward = kft.metrics.flops.forward_flops(ensemble.member(0))
    logs = logs_of(made, ensemble.num_members)
    flops = sum(sum(one["training_flops"]) for one in logs)
    return {
        "training_flops": flops / (3 * forward * FLAGS.epochs),
        "seconds": sum(sum(one["seconds"]) for one in logs),
        "bytes": size,
    }


def logs_of(made: Any, members: int) -> list[dict[str, list[float]]]:
    """The logs of the epochs that the first members took."""
    logs = [run.history for run in made.runs]
    if isinstance(made, kft.recipes.Dense):
        return logs[:members]
    end = made.exploration_epochs + members * made.refinement_epochs
    return [{name: values[:end] for name, values in logs[0].items()}]


def export() -> kft.EnsembleModel:
    """Writes the ensemble of the first fold for Keras, NumPy and serving."""
    ensemble = kft.EnsembleModel.from_tickets(path("fold_0", "edst"))
    ensemble.save(path("ensemble.keras"))
    ensemble.save_packed(path("ensemble.npz"))
    ensemble.export(path("saved_model"), verbose=False)
    ticket = kft.strip(ensemble.member(0))
    ticket.export(path("saved_model_ticket"), verbose=False)
    return ensemble


def draw(
    ensemble: kft.EnsembleModel,
    labels: np.ndarray,
    folds: list[dict[str, Any]],
) -> None:
    """Draws pictures, if matplotlib is installed."""
    if importlib.util.find_spec("matplotlib") is None:
        print("No pictures: pip install matplotlib")
        return
    from keras_freetickets import plots

    edst: Any = recipe("edst", settings_of(0)["edst"])
    phases = kft.callbacks.EDST(
        edst.exploration_epochs,
        edst.refinement_epochs,
        MEMBERS,
        directory=path("fold_0", "edst", "run"),
    ).phases
    record = path("fold_0", "edst", "run", "run.json")
    plots.learning_curve(
        run_directory.read_json(record)["history"],
        phases,
        path("pictures", "learning_curve.png"),
    )
    plots.reliability_diagram(
        labels,
        {
            demo_report.NAMES[name]: demo_report.joined(folds, name)
            for name in ("dense", "tickets")
        },
        path("pictures", "reliability.png"),
    )
    rows = kft.sparsity_summary(ensemble.member(0), print_fn=False)
    plots.density_per_layer(rows, path("pictures", "density.png"))


def run() -> dict[str, Any]:
    """Trains what is not trained yet; writes all files."""
    _, labels, fold = digits()
    folds = list(range(FLAGS.folds))
    with processes.others():
        train_share()
    results = [
        run_directory.read_json(result_path(i)) or result_of(i) for i in folds
    ]
    labels = np.concatenate([labels[fold == i] for i in folds])
    found = demo_report.report(labels, results)
    draw(export(), labels, results)
    run_directory.write_json(path("metrics.json"), found)
    return found


def main(argv: list[str]) -> None:
    run_directory.no_arguments(argv)
    logging.set_verbosity(logging.WARNING)
    processes.on_one_core()
    config = run_directory.config()
    if not processes.is_first():
        with processes.others():
            train_share()
        return
    run_directory.check_directory(FLAGS.output_dir, config)
    found = run_directory.read_json(path("metrics.json"))
    if found is None:
        run_directory.claim_directory(FLAGS.output_dir, config)
        found = run()
    print(demo_report.table(found))
    print(f"Files: {FLAGS.output_dir}")


if __name__ == "__main__":
    app.run(main)
