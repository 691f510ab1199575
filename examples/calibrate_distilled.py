r"""Networks trained on distilled data, and temperatures for them.

    python examples/calibrate_distilled.py
    python examples/calibrate_distilled.py --dataset=fashion_mnist \
        --data_dir=../shared/tfds --num_examples=20000 --depth=3 \
        --images_per_class=10 --output_dir=runs/fashion_calibrated
    python examples/calibrate_distilled.py --distilled=runs/distilled/sparse.npz

A network knows the few distilled images that it was trained on by heart, so a
temperature that is fitted to them says little. Masked temperature scaling sets
a random share of their pixels to zero first. The rows: networks that see the
distilled set; a set that was itself distilled with masked pixels (masked
distillation training); all training images; and an ensemble of tickets (EDST)
that see the distilled set, of which the mean is calibrated.

The columns: expected calibration errors on test images as they are (raw); with
a temperature that is fitted to the training images (plain); to masked ones, at
a share of 0.3 and at the share that is best for --few_per_class real images by
likelihood (chosen); to those few images themselves (few); and to the test
images (oracle, which nobody has). `calibration.png` shows the largest logits
of training images. If the script is killed, start it again with the same flags:
it resumes.
"""

import os
import warnings
from typing import Any

import array_data
import distilling
import keras
import numpy as np
import run_directory
import tables
from absl import app
from absl import flags
from absl import logging

import keras_freetickets as kft
from keras_freetickets import calibration
from keras_freetickets import distillation
from keras_freetickets import metrics

FLAGS = flags.FLAGS
flags.DEFINE_string("output_dir", "runs/calibrated", "Where all files go.")
flags.DEFINE_string("data_dir", None, "Where the prepared dataset is.")
flags.DEFINE_integer("seed", 0, "Seed of everything.", 0, 2**20)
flags.DEFINE_float(
    "input_mask_ratio", 0.2, "Masked share while distilling.", 0.0, 0.99
)
flags.DEFINE_integer("networks", 3, "Networks of each kind.", 1)
flags.DEFINE_integer("tickets", 3, "Tickets of the ensemble.", 1)
flags.DEFINE_integer("few_per_class", 5, "Real images to choose by.", 1)
flags.DEFINE_string(
    "distilled", None, "A set of distill_with_tickets.py; none: makes one."
)
flags.adopt_module_key_flags(distilling)
FLAGS.set_default("images_per_class", 5)
FLAGS.set_default("learning_rate", 0.003)

RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9)
KINDS = ("distilled", "distilled, masked", "all images")
MOST = 1000  # training images that a temperature is fitted to
EPOCH = 50
WAYS = ("plain", "masked", "chosen", "few", "oracle")


def path(name: str) -> str:
    return os.path.join(FLAGS.output_dir, name)


def given_set(images: distilling.Images) -> array_data.Pair:
    """Images and labels of the file --distilled."""
    flag = f"--distilled={FLAGS.distilled}"
    with run_directory.naming(flag):
        x, y = distillation.DistilledSet.load(FLAGS.distilled).decoded()
    wanted = images.train[0].shape[1:]
    if x.shape[1:] != wanted or y.max() >= images.classes:
        raise SystemExit(
            f"{flag} holds images of shape {x.shape[1:]} and classes up to "
            f"{y.max()}; --dataset={FLAGS.dataset} has {wanted} and classes "
            f"up to {images.classes - 1}"
        )
    return x, y


def distilled_set(
    images: distilling.Images, name: str, ratio: float
) -> array_data.Pair:
    """Images and labels, distilled with a bank of one sparse run."""
    file = path(f"{name}.npz")
    if not os.path.exists(file):
        print(f"Distilling, {ratio:.0%} of the pixels masked:", flush=True)
        matching = distilling.matching(
            images, FLAGS.seed, input_mask_ratio=ratio
        )

        def note(state: distillation.DistillationState) -> None:
            print(
                f"  step {state.step} of {FLAGS.outer_steps}, matching loss "
                f"{state.losses[-1]:.4g}",
                flush=True,
            )

        bank = distilling.sparse_bank(images, FLAGS.seed)
        matching.distill(bank, *images.train, note).distilled.save(file)
    return distillation.DistilledSet.load(file).decoded()


def few_real(images: distilling.Images) -> array_data.Pair:
    """A few real images of each class, which nothing was trained on."""
    x, y = images.validation
    with run_directory.naming(f"--few_per_class={FLAGS.few_per_class}"):
        split = kft.curation.split_labels(
            y, FLAGS.few_per_class, seed=FLAGS.seed
        )
    return images.standardized(x[split.labelled]), y[split.labelled]


def fitted(
    model: keras.Model,
    images: distilling.Images,
    train: array_data.Pair,
) -> tuple[dict[str, Any], float]:
    """Temperature layers by the name of what they were fitted to."""
    few, test = few_real(images), images.test
    ratio = calibration.choose_input_mask_ratio(
        model, *train, *few, ratios=RATIOS, seed=FLAGS.seed
    )
    known = images.standardized(test[0]), test[1]
    made = {
        "plain": calibration.calibrate(model, *train),
        "masked": calibration.calibrate(
            model, *train, input_mask_ratio=0.3, seed=FLAGS.seed
        ),
        "chosen": calibration.calibrate(
            model, *train, input_mask_ratio=ratio, seed=FLAGS.seed
        ),
        "few": calibration.calibrate(model, *few),
        "oracle": calibration.calibrate(model, *known),
    }
    return {name: one.calibrators[0] for name, one in made.items()}, ratio


def scores(
    model: keras.Model, images: distilling.Images, train: array_data.Pair
) -> dict[str, float]:
    """Calibration errors on test images, and the temperatures."""
    x, y = images.test
    p = distilling.predictions(images, model, x)
    with warnings.catch_warnings():
        # Training images that are all right: the table shows what it leads to.
        warnings.filterwarnings("ignore", message=".*end of its range")
        layers, ratio = fitted(model, images, train)
    found = {
        "accuracy": float(np.mean(p.argmax(-1) == y)),
        "raw": float(metrics.expected_calibration_error(y, p)),
    }
    for name in WAYS:
        scaled = keras.ops.convert_to_numpy(layers[name](p))
        ece = metrics.expected_calibration_error(y, scaled)
        found[name] = float(ece)
    found["ratio"] = ratio
    found |= {f"T_{name}": layers[name].temperature for name in WAYS}
    return found


def largest_logits(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """Of each image, before the softmax."""
    last = model.layers[-1]
    inner = keras.Model(model.inputs, model.layers[-2].output)
    features = inner.predict(x, batch_size=512, verbose=0)
    kernel, bias = map(keras.ops.convert_to_numpy, (last.kernel, last.bias))
    return (features @ kernel + bias).max(axis=-1)


def networks(
    images: distilling.Images, kind: str, x: np.ndarray, y: np.ndarray
) -> dict[str, Any]:
    """Networks that see one set: mean scores, and logits of the first."""
    print(f"Training on: {kind}", flush=True)
    learner = distilling.Learner(images, distilling.RATE, FLAGS.train_steps)
    some = np.random.default_rng(FLAGS.seed).permutation(len(x))[:MOST]
    train = images.standardized(x[some]), y[some]
    masked = train[0] * (
        np.random.default_rng(FLAGS.seed).random(train[0].shape) >= 0.3
    )
    rows, logits = [], {}
    for number in range(FLAGS.networks):
        model = learner.train(x, y, seed=FLAGS.seed * 1000 + 700 + number)
        rows.append(scores(model, images, train))
        if not number:
            logits["as they are"] = largest_logits(model, train[0])
            logits["masked"] = largest_logits(model, masked)
    row = {key: float(np.mean([one[key] for one in rows])) for key in rows[0]}
    row["largest_logit"] = float(np.mean(logits["as they are"]))
    row["its_deviation"] = float(np.std(logits["as they are"]))
    return {
        "row": {"trained_on": kind, **row},
        "logits": {name: found.tolist() for name, found in logits.items()},
    }


def tickets(
    images: distilling.Images, x: np.ndarray, y: np.ndarray
) -> dict[str, Any]:
    """An ensemble of tickets of one run on the distilled set."""
    print(f"Training {FLAGS.tickets} tickets", flush=True)
    epochs = max(1, FLAGS.train_steps // EPOCH)
    recipe = kft.recipes.EDST(
        sparsity=FLAGS.sparsity,
        num_members=FLAGS.tickets,
        exploration_epochs=max(1, epochs // 2),
        refinement_epochs=max(1, epochs // 2),
        update_interval=EPOCH,
        monitor=None,
    )

    def arguments(seed: int) -> dict[str, Any]:
        data = distilling.batches(images, x, y, EPOCH, seed)
        return {"x": data, "callbacks": [data.epoch_order()]}

    ensemble = recipe.fit(
        lambda seed: distilling.network(images, seed),
        lambda model: distilling.compiled(model, distilling.RATE, 1),
        arguments,
        path("tickets"),
        FLAGS.seed,
        0,
    )
    row = scores(ensemble, images, (images.standardized(x), y))
    members = ensemble.predict_members(images.standardized(images.test[0]))
    disagreement = float(np.mean(metrics.disagreement(members)))
    return {
        "row": {"trained_on": f"distilled, {FLAGS.tickets} tickets", **row},
        "disagreement": disagreement,
    }


def draw(parts: dict[str, Any]) -> None:
    """The largest logits of training images, masked and as they are."""
    try:
        from matplotlib import figure
    except ImportError:
        print("No picture: pip install matplotlib")
        return
    picture = figure.Figure(figsize=(9, 3), layout="constrained")
    axes = picture.subplots(1, len(KINDS), sharex=True)
    for cell, kind in zip(axes, KINDS, strict=True):
        for name, found in parts[kind]["logits"].items():
            cell.hist(found, bins=25, density=True, alpha=0.6, label=name)
        cell.set(title=kind, xlabel="largest logit")
    axes[0].legend(fontsize=8)
    picture.savefig(path("calibration.png"), dpi=120)


def show(done: dict[str, Any]) -> None:
    heads = ["trained_on", "accuracy", "raw", *WAYS, "ratio"]
    lines = [
        [one[h] if h == heads[0] else f"{one[h]:.4f}" for h in heads]
        for one in done["rows"]
    ]
    print(tables.aligned([heads, *lines]))
    print(f"Tickets disagree on {done['disagreement']:.1%} of test images.")
    print(f"Files: {FLAGS.output_dir}")


def main(argv: list[str]) -> None:
    run_directory.no_arguments(argv)
    logging.set_verbosity(logging.ERROR)
    config = run_directory.config()
    run_directory.check_directory(FLAGS.output_dir, config)
    images = distilling.load(FLAGS.seed)
    few_real(images)
    given = None if FLAGS.distilled is None else given_set(images)
    with run_directory.naming("--images_per_class and --factor"):
        distillation.real_start(
            *images.train, FLAGS.images_per_class, FLAGS.factor
        )
    run_directory.claim_directory(FLAGS.output_dir, config)
    sets = {
        "distilled": given or distilled_set(images, "distilled", 0.0),
        "distilled, masked": distilled_set(
            images, "distilled_masked", FLAGS.input_mask_ratio
        ),
        "all images": images.train,
    }
    parts: dict[str, Any] = {}
    for kind in [*KINDS, "tickets"]:
        file = path(f"{kind.replace(', ', '_').replace(' ', '_')}.json")
        found = run_directory.read_json(file)
        if found is None:
            if kind == "tickets":
                found = tickets(images, *sets["distilled"])
            else:
                found = networks(images, kind, *sets[kind])
            run_directory.write_json(file, found)
        parts[kind] = found
    done = {
        "config": config,
        "rows": [one["row"] for one in parts.values()],
        "disagreement": parts["tickets"]["disagreement"],
    }
    run_directory.write_json(path("metrics.json"), done)
    draw(parts)
    show(done)


if __name__ == "__main__":
    app.run(main)
