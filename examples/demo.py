r"""Compares FreeTickets with dense networks on handwritten digits.

The digits are the 1,797 that scikit-learn carries (8x8 pixels, 10 classes), so
nothing is downloaded. They are split into five parts; each part is predicted
by networks that were trained on the other four, so that every image is scored
once. Compared are a dense network, three of them averaged, and the tickets
that one run of EDST leaves. Nothing is chosen by the images that are scored:
the settings of each part, in `demo_settings.json`, were chosen on images of
the other four (`benchmarks/demo_settings.py`), and networks are kept as they
are after their last epoch.

Killed and started again, it goes on where it was and ends with the same
result; started again after the end, it prints the table.

    python examples/demo.py --output_dir=runs/demo
"""

import importlib.util
import json
import os

from absl import app
from absl import flags
from absl import logging

FLAGS = flags.FLAGS
flags.DEFINE_string("output_dir", "runs/demo", "Where everything goes.")
flags.DEFINE_integer(
    "epochs",
    40,
    "Of a dense network; EDST has 0.6 of them, then 0.4 for each ticket.",
    lower_bound=2,
)
flags.DEFINE_integer("folds", 5, "How many of the five parts to predict.", 1, 5)
flags.DEFINE_integer("seed", 0, "Of weights, masks and orders.", 0, 2**31 - 1)
flags.DEFINE_integer(
    "verbose", 0, "0 silent, 1 progress bar, 2 a line an epoch.", 0, 2
)

FOLDS = 5
MEMBERS = 3
SPARSITY = 0.8  # FreeTickets
BATCH_SIZE = 32
# The models of the table, and what they are called there.
ROWS = {
    "dense": "one dense network",
    "dense_ensemble": "three dense networks",
    "ticket": "the first ticket",
    "tickets": "three tickets of one run",
}


def path(*parts):
    return os.path.join(FLAGS.output_dir, *parts)


def read_json(file):
    if not os.path.exists(file):
        return None
    with open(file, encoding="utf-8") as opened:
        return json.load(opened)


def write_json(file, content):
    """Writes a file that is whole or not there, whenever it is killed."""
    os.makedirs(os.path.dirname(file), exist_ok=True)
    with open(f"{file}.partial", "w", encoding="utf-8") as opened:
        json.dump(content, opened, indent=1)
    os.replace(f"{file}.partial", file)


def digits():
    """All images in [-1, 1], their labels, and the part each belongs to."""
    import numpy as np
    from sklearn.datasets import load_digits

    found = load_digits()
    images = (found.images[..., None] / 8.0 - 1.0).astype("float32")
    order = np.random.default_rng(0).permutation(len(images))
    part = np.empty(len(images), int)
    part[order] = np.arange(len(images)) % FOLDS
    return images, found.target, part


# Training.


def recipe(kind, settings, members=MEMBERS):
    """The training of dense networks, or of the tickets of one run."""
    import keras_freetickets as kft

    if kind == "dense":
        return kft.recipes.Dense(
            num_members=members, epochs=FLAGS.epochs, monitor=None
        )
    # The proportions of FreeTickets: 150 and 100 epochs of 250.
    exploration = round(0.6 * FLAGS.epochs)
    return kft.recipes.EDST(
        sparsity=SPARSITY,
        num_members=members,
        exploration_epochs=exploration,
        refinement_epochs=FLAGS.epochs - exploration,
        update_interval=settings["update_interval"],
        monitor=None,
    )


def fit(made, settings, x, y, directory, seed):
    """The ensemble that a recipe leaves, of small convolutional networks."""
    import keras

    import keras_freetickets as kft

    def make_model(seed):
        keras.utils.set_random_seed(seed)
        return kft.applications.small_cnn(x.shape[1:], 10)

    def compile_model(model):
        model.compile(
            keras.optimizers.SGD(
                settings["learning_rate"],
                momentum=0.9,
                weight_decay=settings["weight_decay"] or None,
            ),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
            jit_compile=False,  # compiling would take longer than it saves
            steps_per_execution=len(x) // BATCH_SIZE,
        )

    def data(seed):
        batches = kft.datasets.from_arrays(
            x, y, BATCH_SIZE, seed, drop_remainder=True
        )
        return {
            "x": batches.dataset,
            "shuffle": False,
            "callbacks": [batches.epoch_order()],
        }

    return made.fit(
        make_model, compile_model, data, directory, seed, FLAGS.verbose
    )


def run_fold(fold):
    """Predictions and costs of the models that do not know a part."""
    import numpy as np

    import keras_freetickets as kft

    images, labels, part = digits()
    known = part != fold
    probabilities, costs = {}, {}
    for kind, one, all_of_them in (
        ("dense", "dense", "dense_ensemble"),
        ("edst", "ticket", "tickets"),
    ):
        print(f"Part {fold + 1} of {FOLDS}: {kind}", flush=True)
        settings = settings_of(fold)[kind]
        made = recipe(kind, settings)
        ensemble = fit(
            made,
            settings,
            images[known],
            labels[known],
            path(f"fold_{fold}", kind),
            # Members have the seeds s, s + 1000, ...
            FLAGS.seed + 100 * fold,
        )
        members = ensemble.predict_members(images[~known])
        probabilities[one] = members[0]
        probabilities[all_of_them] = np.mean(members, axis=0)
        first = kft.EnsembleModel([ensemble.member(0)])
        costs[one] = costs_of(first, made, 1)
        costs[all_of_them] = costs_of(ensemble, made, MEMBERS)
    found = {
        "probabilities": {k: v.tolist() for k, v in probabilities.items()},
        "costs": costs,
    }
    write_json(path(f"fold_{fold}", "result.json"), found)
    return found


def settings_of(fold):
    """The settings of each kind that were chosen without a part."""
    file = os.path.join(os.path.dirname(__file__), "demo_settings.json")
    return read_json(file)["chosen"][fold]


def costs_of(ensemble, made, members):
    """FLOPs as a share of one dense training's, seconds, bytes."""
    from keras_freetickets.metrics import flops

    packed = path("packed.npz")
    ensemble.save_packed(packed)
    size = os.path.getsize(packed)
    os.remove(packed)
    dense = 3 * flops.forward_flops(ensemble.member(0)) * FLAGS.epochs
    epochs = epochs_of(made, members)
    return {
        "training_flops": sum(sum(e["training_flops"]) for e in epochs) / dense,
        "seconds": sum(sum(e["seconds"]) for e in epochs),
        "bytes": size,
    }


def epochs_of(made, members):
    """The logs of the epochs that the first members took."""
    histories = [run.history for run in made.runs]
    if len(histories) > 1:
        return histories[:members]
    end = made.exploration_epochs + members * made.refinement_epochs
    return [{name: logs[:end] for name, logs in histories[0].items()}]


# What is said of it.


def scores(probabilities, labels):
    """What is known of each image: right or wrong, and the log-likelihood."""
    import numpy as np

    from keras_freetickets import metrics

    right = probabilities.argmax(-1) == labels
    nll = metrics.negative_log_likelihood(labels, probabilities)
    return {"accuracy": right.astype(float), "nll": np.asarray(nll)}


def report(folds):
    """Table, differences and the sentence, of the folds' results."""
    import numpy as np

    from keras_freetickets import metrics

    _, labels, part = digits()
    labels = np.concatenate(
        [labels[part == fold] for fold in range(len(folds))]
    )
    every, rows = {}, []
    for name in ROWS:
        parts = [fold["probabilities"][name] for fold in folds]
        probabilities = np.concatenate(parts).astype("float32")
        every[name] = scores(probabilities, labels)
        rows.append(
            {
                "model": name,
                **{k: float(v.mean()) for k, v in every[name].items()},
                "ece": metrics.expected_calibration_error(
                    labels, probabilities
                ),
                **{
                    cost: float(
                        np.mean([f["costs"][name][cost] for f in folds])
                    )
                    for cost in ("training_flops", "seconds", "bytes")
                },
            }
        )
    differences = [
        difference(every, "tickets", other, score)
        for other in ("dense", "dense_ensemble")
        for score in ("accuracy", "nll")
    ]
    return {
        "images": len(labels),
        "rows": rows,
        "differences": differences,
        "sentence": sentence(len(labels), rows, differences),
    }


def difference(every, first, second, score):
    """The first model minus the second, in a score, with its interval."""
    import dataclasses

    from keras_freetickets import metrics

    found = metrics.paired_bootstrap(every[first][score], every[second][score])
    return {
        "first": first,
        "second": second,
        "score": score,
        **dataclasses.asdict(found),
        "verdict": found.verdict(higher_is_better=score == "accuracy"),
    }


def sentence(images, rows, differences):
    """What the table shows, whichever way it falls."""
    words = {
        "wins": "better than",
        "loses": "worse than",
        "within noise": "within noise of",
    }
    said = {"accuracy": [], "nll": []}
    for one in differences:
        phrase = f"{words[one['verdict']]} {ROWS[one['second']]}"
        said[one["score"]].append(phrase)
    by_name = {row["model"]: row for row in rows}
    dense, tickets = by_name["dense"], by_name["tickets"]
    shares = {
        cost: tickets[cost] / dense[cost]
        for cost in ("training_flops", "seconds", "bytes")
    }
    return (
        f"On {images:,} images, each predicted by networks that had not seen "
        "it, three tickets of one run are in accuracy "
        f"{' and '.join(said['accuracy'])}, in NLL "
        f"{' and '.join(said['nll'])}. Beside one dense network they took "
        f"{shares['training_flops']:.2f} of the theoretical FLOPs of "
        f"training and {shares['seconds']:.1f} times the seconds, and fill "
        f"{shares['bytes']:.2f} of the bytes."
    )


def table(found):
    """The report as text."""
    heads = ["model", "accuracy", "NLL", "ECE", "train FLOPs x dense"]
    cells = [[*heads, "train seconds", "file, kB"]]
    for row in found["rows"]:
        cells.append(
            [
                ROWS[row["model"]],
                *(f"{row[score]:.4f}" for score in ("accuracy", "nll", "ece")),
                f"{row['training_flops']:.3f}",
                f"{row['seconds']:.1f}",
                f"{row['bytes'] / 1000:.0f}",
            ]
        )
    lines = aligned(cells)
    lines += ["", "Differences, with intervals of 95 % over the images:"]
    for one in found["differences"]:
        lines.append(
            f"{ROWS[one['first']]} - {ROWS[one['second']]}, "
            f"{one['score']}: {one['mean']:+.4f} "
            f"[{one['low']:+.4f}, {one['high']:+.4f}] {one['verdict']}"
        )
    return "\n".join([*lines, "", found["sentence"]])


def aligned(cells):
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


# Files and pictures, of the first part.


def export():
    """The ensemble of the first part: for Keras, NumPy and TF Serving."""
    import keras_freetickets as kft

    logging.set_verbosity(logging.WARNING)  # TensorFlow tells of every file
    ensemble = kft.EnsembleModel.from_tickets(path("fold_0", "edst"))
    ensemble.save(path("ensemble.keras"))
    ensemble.save_packed(path("ensemble.npz"))
    ensemble.export(path("saved_model"), verbose=False)
    ticket = kft.strip(ensemble.member(0))
    ticket.export(path("saved_model_ticket"), verbose=False)
    return ensemble


def draw(ensemble, folds):
    """Pictures, where matplotlib is installed."""
    import numpy as np

    import keras_freetickets as kft

    if importlib.util.find_spec("matplotlib") is None:
        print("No pictures: pip install matplotlib")
        return
    _, labels, part = digits()
    labels = np.concatenate(
        [labels[part == fold] for fold in range(len(folds))]
    )
    predictions = {
        ROWS[name]: np.concatenate([f["probabilities"][name] for f in folds])
        for name in ("dense", "tickets")
    }
    made = recipe("edst", settings_of(0)["edst"])
    edst = kft.callbacks.EDST(
        made.exploration_epochs,
        made.refinement_epochs,
        MEMBERS,
        directory=path("fold_0", "edst", "run"),
    )
    history = read_json(path("fold_0", "edst", "run", "run.json"))["history"]
    kft.plots.learning_curve(
        history, edst.phases, path("pictures", "learning_curve.png")
    )
    kft.plots.reliability_diagram(
        labels, predictions, path("pictures", "reliability.png")
    )
    rows = kft.sparsity_summary(ensemble.member(0), print_fn=False)
    kft.plots.density_per_layer(rows, path("pictures", "density.png"))


def claim(config):
    """Notes the flags; refuses a directory with a run of other ones."""
    file = path("config.json")
    try:
        os.makedirs(FLAGS.output_dir, exist_ok=True)
        known = read_json(file)
        if known is None:
            write_json(file, config)
    except OSError as error:
        raise SystemExit(
            f"--output_dir={FLAGS.output_dir} cannot be written to: {error}"
        ) from error
    for name, value in (known or config).items():
        if config[name] != value:
            raise SystemExit(
                f"--output_dir={FLAGS.output_dir} holds a run with "
                f"--{name}={value}, and this one has --{name}={config[name]}. "
                "Give another directory."
            )


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(
            f"Unknown argument {argv[1]!r}; flags begin with --."
        )
    logging.set_verbosity(logging.WARNING)
    claim({name: FLAGS[name].value for name in ("epochs", "folds", "seed")})
    found = read_json(path("metrics.json"))
    if found is None:
        folds = [
            read_json(path(f"fold_{fold}", "result.json")) or run_fold(fold)
            for fold in range(FLAGS.folds)
        ]
        found = report(folds)
        draw(export(), folds)
        write_json(path("metrics.json"), found)
    print(table(found))
    print(f"Files: {FLAGS.output_dir}")


if __name__ == "__main__":
    app.run(main)
