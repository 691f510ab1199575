r"""Predicts an image from several images, with intervals and maps (InVA).

    python examples/inva_multimodal.py
    python examples/inva_multimodal.py --dataset=fashion_mnist \
        --data_dir=../shared/tfds --subjects=1500 --latent_size=16

Trains a hierarchical variational autoencoder, in which one encoder is shared by
all modalities, and its rivals: the mean image, ridge regression of all pixels,
a model of one modality, a model of the stacked images, and one without the
shared encoder. Then sparse tickets (RigL; the heads of the latents stay dense),
alone and pooled. Every model gets 95 % intervals by sampling, with the residual
variance of validation subjects.

The table has the squared error per pixel (PMSE), coverage and length of the
intervals, the Gaussian negative log-likelihood, CRPS and the seconds of
training. Pictures: outcomes with both ends of their intervals and the parts of
their variance, within and between tickets; and how strongly the tickets' first
layers read each pixel. The default data are a toy whose outcome needs both
modalities (about two minutes); of real images the left and right halves predict
the whole image, blurred and turned.
"""

import os
import time
from typing import Any

import keras
import numpy as np
import run_directory
import tables
from absl import app
from absl import flags
from absl import logging

import keras_freetickets as kft
from keras_freetickets import metrics
from keras_freetickets import multimodal

FLAGS = flags.FLAGS
flags.DEFINE_string("output_dir", "runs/inva", "Where all files go.")
flags.DEFINE_string("dataset", "toy", "toy, or an image set of TFDS.")
flags.DEFINE_string("data_dir", None, "Where the prepared dataset is.")
flags.DEFINE_integer("subjects", 400, "All subjects; 65 % train.", 40)
flags.DEFINE_integer("epochs", 100, "Epochs of each training.", 5)
flags.DEFINE_integer("latent_size", 8, "Size of each latent.", 1)
flags.DEFINE_integer("hidden", 64, "Units of each hidden layer.", 1)
flags.DEFINE_integer("members", 4, "Tickets of the ensemble.", 2)
flags.DEFINE_float("sparsity", 0.8, "Sparsity of the tickets.", 0.01, 0.99)
flags.DEFINE_float("beta", 0.05, "Weight of the divergences.", 0.0)
flags.DEFINE_integer("samples", 40, "Samples of each model.", 2)
flags.DEFINE_bool("prior_through_z", False, "Prior of h_k through z_k.")
flags.DEFINE_integer("seed", 0, "Seed of everything.", 0, 2**31 - 1)


def load() -> tuple[multimodal.Modalities, multimodal.PixelScaler]:
    """Standardized images, and the scaler of the outcome."""
    if FLAGS.dataset == "toy":
        data = multimodal.toy_modalities(FLAGS.subjects, seed=FLAGS.seed)
    else:
        with run_directory.naming(f"--dataset={FLAGS.dataset}"):
            found = kft.datasets.load(
                FLAGS.dataset,
                batch_size=500,
                seed=FLAGS.seed,
                data_dir=FLAGS.data_dir,
                augment="none",  # one random shift of each would stay
            )
        images: list[np.ndarray] = []
        for batch, _ in found.train.as_numpy_iterator():
            images.extend(batch)
            if len(images) >= FLAGS.subjects:
                break
        data = multimodal.halves(np.stack(images[: FLAGS.subjects]))
    count = len(data.outcome) * 65 // 100
    scalers = [multimodal.PixelScaler(one[:count]) for one in data.images]
    scaler = multimodal.PixelScaler(data.outcome[:count])
    images = [s(one) for s, one in zip(scalers, data.images, strict=True)]
    return multimodal.Modalities(images, scaler(data.outcome)), scaler


def split(
    data: multimodal.Modalities,
) -> tuple[multimodal.Modalities, ...]:
    """65 % to train, 10 % to validate, the rest to test."""
    first = len(data.outcome) * 65 // 100
    second = len(data.outcome) * 75 // 100
    return (
        data.part(slice(0, first)),
        data.part(slice(first, second)),
        data.part(slice(second, None)),
    )


def stacked(data: multimodal.Modalities) -> multimodal.Modalities:
    """All modalities as one image."""
    return multimodal.Modalities(
        [np.concatenate(data.images, axis=2)], data.outcome
    )


def one(data: multimodal.Modalities, k: int) -> multimodal.Modalities:
    return multimodal.Modalities([data.images[k]], data.outcome)


def network(data: multimodal.Modalities, seed: int, **kwargs: Any) -> Any:
    keras.utils.set_random_seed(seed)
    return multimodal.inva(
        [image.shape[1:] for image in data.images],
        data.outcome.shape[1:],
        FLAGS.latent_size,
        (FLAGS.hidden, FLAGS.hidden),
        prior_through_z=FLAGS.prior_through_z,
        seed=seed,
        **kwargs,
    )


def fit(
    model: keras.Model,
    train: multimodal.Modalities,
    valid: multimodal.Modalities,
    callbacks: tuple[Any, ...] = (),
) -> keras.Model:
    """Stops where the outcome's validation error is lowest."""
    multimodal.compile_inva(model, jit_compile=False)
    name = f"val_{model.output_names[0]}_loss"
    stop = keras.callbacks.EarlyStopping(
        name if len(model.outputs) > 1 else "val_loss",
        mode="min",
        patience=max(5, FLAGS.epochs // 4),
        start_from_epoch=FLAGS.epochs // 5,
        restore_best_weights=not callbacks,
    )
    model.fit(
        train.images,
        [train.outcome, *train.images],
        batch_size=32,
        epochs=FLAGS.epochs,
        validation_data=(valid.images, [valid.outcome, *valid.images]),
        callbacks=[
            multimodal.KLRamp(FLAGS.beta, max(1, FLAGS.epochs // 5)),
            stop,
            *callbacks,
        ],
        verbose=0,
    )
    return model


def ticket(
    train: multimodal.Modalities, valid: multimodal.Modalities, seed: int
) -> keras.Model:
    sparse = kft.sparsify(
        network(train, seed),
        FLAGS.sparsity,
        filters=multimodal.MASKED,
        seed=seed,
    )
    steps = -(-len(train.outcome) // 32) * FLAGS.epochs
    rigl = kft.callbacks.RigL(
        update_interval=max(1, steps // 40), stop_step=3 * steps // 4
    )
    return fit(sparse, train, valid, (rigl,))


def row(
    name: str,
    test: multimodal.Modalities,
    found: multimodal.ImagePrediction,
    scaler: multimodal.PixelScaler,
    seconds: float,
) -> dict[str, Any]:
    """Scores in the outcome's own units."""
    scale = scaler.deviation
    y, mean = scaler.back(test.outcome), scaler.back(found.mean)
    low, high = scaler.back(found.lower), scaler.back(found.upper)
    variance = found.variance * scale**2
    ends = np.concatenate([low, high], axis=-1)
    pairs = np.concatenate([mean, variance], axis=-1)
    return {
        "model": name,
        "pmse": float(np.square(y - mean).mean()),
        "coverage": float(metrics.IntervalCoverage()(y, ends)),
        "length": float(metrics.IntervalLength()(y, ends)),
        "nll": float(metrics.GaussianNLL()(y, pairs)),
        "crps": float(metrics.CRPS()(y, pairs)),
        "within": float((found.within * scale**2).mean()),
        "between": float((found.between * scale**2).mean()),
        "seconds": seconds,
    }


def of_models(
    models: list[keras.Model],
    valid: multimodal.Modalities,
    test: multimodal.Modalities,
) -> multimodal.ImagePrediction:
    noise = multimodal.residual_variance(
        models, valid.images, valid.outcome, FLAGS.samples
    )
    return multimodal.predict_images(
        models, test.images, noise, FLAGS.samples, seed=FLAGS.seed
    )


def constant(
    mean: np.ndarray, error: float, test: multimodal.Modalities
) -> multimodal.ImagePrediction:
    """A prediction without samples: normal intervals of one variance."""
    mean = np.broadcast_to(mean, test.outcome.shape)
    half = 1.96 * np.sqrt(error)
    nothing = np.zeros_like(test.outcome)
    return multimodal.ImagePrediction(
        mean, mean - half, mean + half, nothing, nothing, error
    )


def ridge(
    train: multimodal.Modalities,
    valid: multimodal.Modalities,
    test: multimodal.Modalities,
) -> multimodal.ImagePrediction:
    """All pixels on all pixels; the penalty that validation prefers."""
    x, held_out, new = (
        np.concatenate([i.reshape(len(i), -1) for i in part.images], axis=1)
        for part in (train, valid, test)
    )
    y = train.outcome.reshape(len(x), -1)
    found = []
    for penalty in 10.0 ** np.arange(0, 6):
        matrix = x.T @ x + penalty * np.eye(x.shape[1])
        weights = np.linalg.solve(matrix, x.T @ y)
        wrong = held_out @ weights - valid.outcome.reshape(len(held_out), -1)
        found.append((float(np.square(wrong).mean()), weights))
    error, weights = min(found, key=lambda pair: pair[0])
    mean = (new @ weights).reshape(test.outcome.shape)
    return constant(mean, error, test)


def evaluate(
    data: multimodal.Modalities, scaler: multimodal.PixelScaler
) -> list[dict[str, Any]]:
    parts = split(data)
    train, valid, test = parts
    rows = []

    def add(name, found, begun):
        seconds = time.perf_counter() - begun
        rows.append(row(name, test, found, scaler, seconds))
        error = rows[-1]["pmse"]
        print(f"{name}: PMSE {error:.4f}, {seconds:.0f} s", flush=True)

    begun = time.perf_counter()
    error = float(np.square(valid.outcome).mean())
    add("mean image", constant(np.zeros(1), error, test), begun)
    begun = time.perf_counter()
    add("ridge", ridge(train, valid, test), begun)
    rivals: dict[str, Any] = {
        f"modality {k + 1} only": (lambda part, k=k: one(part, k), {})
        for k in range(len(data.images))
    }
    rivals["stacked images"] = stacked, {}
    rivals["without shared encoder"] = lambda p: p, {"shared_encoder": False}
    rivals["InVA"] = lambda part: part, {}
    for name, (view, settings) in rivals.items():
        views = [view(part) for part in parts]
        begun = time.perf_counter()
        model = network(views[0], FLAGS.seed, **settings)
        fit(model, *views[:2])
        add(name, of_models([model], *views[1:]), begun)
    tickets, all_begun = [], time.perf_counter()
    for i in range(FLAGS.members):
        begun = time.perf_counter()
        tickets.append(ticket(train, valid, 100 * FLAGS.seed + i))
        add(f"ticket {i + 1}", of_models(tickets[-1:], valid, test), begun)
    found = of_models(tickets, valid, test)
    add("tickets, pooled", found, all_begun)
    draw(test, found, tickets)
    return rows


def draw(
    test: multimodal.Modalities,
    found: multimodal.ImagePrediction,
    tickets: list[keras.Model],
) -> None:
    """Three subjects, and the pixels that the tickets read."""
    try:
        from matplotlib import figure
    except ImportError:
        print("No picture: pip install matplotlib")
        return
    # "compressed" leaves room for titles of images, whose shape is fixed.
    picture = figure.Figure(figsize=(11, 7), layout="compressed")
    draw_subjects(picture, test, found)
    picture.savefig(os.path.join(FLAGS.output_dir, "variance.png"), dpi=150)
    count = len(test.images)
    picture = figure.Figure(figsize=(4.5 * count, 4), layout="compressed")
    for k, axes in enumerate(np.atleast_1d(picture.subplots(1, count))):
        maps = [multimodal.input_saliency(one, k) for one in tickets]
        shown = axes.imshow(np.mean(maps, axis=0)[..., 0], cmap="magma")
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"What reads modality {k + 1}", fontsize=10)
        picture.colorbar(shown, ax=axes, label="sum of |weight|, mean ticket")
    picture.savefig(os.path.join(FLAGS.output_dir, "saliency.png"), dpi=150)


def draw_subjects(
    picture: Any,
    test: multimodal.Modalities,
    found: multimodal.ImagePrediction,
) -> None:
    """A row for each subject; each part of the variance has its scale."""
    columns = {
        "outcome": test.outcome,
        "mean": found.mean,
        "lower end": found.lower,
        "upper end": found.upper,
        "variance within": found.within,
        "variance between": found.between,
    }
    grid = picture.subplots(3, len(columns))
    ends = np.quantile(np.abs([found.lower[:3], found.upper[:3]]), 0.98)
    shown = []
    for j, (title, images) in enumerate(columns.items()):
        variance = title.startswith("variance")
        for i in range(3):
            one = grid[i, j].imshow(
                images[i, ..., 0],
                cmap="magma" if variance else "gray",
                vmin=0.0 if variance else -ends,
                vmax=images[:3].max() if variance else ends,
            )
            grid[i, j].set(xticks=[], yticks=[])
        grid[0, j].set_title(title, fontsize=10)
        shown.append(one)
    for i in range(3):
        grid[i, 0].set_ylabel(f"test subject {i + 1}")
    label = "pixel, standardized"
    picture.colorbar(
        shown[0], ax=grid[:, :4], location="bottom", label=label, aspect=40
    )
    for j in (4, 5):
        picture.colorbar(
            shown[j],
            ax=grid[:, j],
            location="bottom",
            label="squared",
            aspect=9,
        ).ax.tick_params(labelrotation=45)


def show(rows: list[dict[str, Any]]) -> None:
    keys = list(rows[0])
    cells = [[r["model"], *(f"{r[key]:.4f}" for key in keys[1:])] for r in rows]
    print(tables.aligned([keys, *cells]))
    print(f"Files: {FLAGS.output_dir}")


def main(argv: list[str]) -> None:
    run_directory.no_arguments(argv)
    logging.set_verbosity(logging.ERROR)
    path = os.path.join(FLAGS.output_dir, "metrics.json")
    run_directory.check_directory(FLAGS.output_dir, run_directory.config())
    done = run_directory.read_json(path)
    if done is None:
        data, scaler = load()
        run_directory.claim_directory(FLAGS.output_dir, run_directory.config())
        rows = evaluate(data, scaler)
        done = {"config": run_directory.config(), "rows": rows}
        run_directory.write_json(path, done)
    show(done["rows"])


if __name__ == "__main__":
    app.run(main)
