r"""Ternary weights by coordinate descent (CoNNTrA), and what they are worth.

    python examples/conntra_ternary.py
    python examples/conntra_ternary.py --dataset=iris --hidden=8 \
        --epochs=80 --learning_rate=0.01 --sweeps=10
    python examples/conntra_ternary.py --dataset=fashion_mnist \
        --data_dir=../shared/tfds --hidden=300,100 --sparsity=0.95 \
        --batch_size=5000 --epochs=10 --sweeps=3

Trains the same network three times, for each member of an ensemble: with float
weights; with ternary weights and straight-through gradients; with ternary
weights found by search. With --sparsity the float network is a ticket (RigL):
the other two begin with its weights and stay inside its mask, and the search is
a ticket's last step. Otherwise the search begins with random values. The table
has errors, calibration before and after one temperature, bytes and seconds. If
the script is killed, start it again with the same flags: members that are done
are not made again.
"""

import os
import time
from typing import Any

import array_data
import keras
import numpy as np
import run_directory
import straight_through
import tables
from absl import app
from absl import flags
from absl import logging

import keras_freetickets as kft

FLAGS = flags.FLAGS
flags.DEFINE_string("output_dir", "runs/conntra", "Where all files go.")
flags.DEFINE_string(
    "dataset", "optdigits", "iris, optdigits or an image set of TFDS."
)
flags.DEFINE_string("data_dir", None, "Where the prepared dataset is.")
flags.DEFINE_integer(
    "num_examples", None, "Train on the first images only.", lower_bound=1
)
flags.DEFINE_list("hidden", ["64"], "Units of the hidden layers.")
flags.DEFINE_float(
    "sparsity", 0.0, "Sparsity of the tickets; 0: no masks.", 0.0, 0.999
)
flags.DEFINE_integer("members", 5, "Members of the ensembles.", lower_bound=1)
flags.DEFINE_integer(
    "epochs", 30, "Epochs of each training by gradients.", lower_bound=1
)
flags.DEFINE_float(
    "learning_rate", 0.001, "Learning rate of Adam.", lower_bound=1e-9
)
flags.DEFINE_integer("sweeps", 6, "Visits of each weight.", lower_bound=1)
flags.DEFINE_float(
    "penalty", 0.0, "Loss of a weight that is not zero (2e-4: useful).", 0.0
)
flags.DEFINE_integer(
    "batch_size",
    None,
    "Examples on which 2,048 weights are scored; all by default.",
    lower_bound=1,
)
flags.DEFINE_integer("seed", 0, "Seed of everything.", 0, 2**31 - 1)


def path(name: str) -> str:
    return os.path.join(FLAGS.output_dir, name)


def fit(model: keras.Model, data: array_data.Arrays, callbacks: Any) -> None:
    model.compile(
        keras.optimizers.Adam(FLAGS.learning_rate),
        "sparse_categorical_crossentropy",
    )
    model.fit(
        *data.train,
        batch_size=128 if len(data.train[0]) > 2000 else 32,
        epochs=FLAGS.epochs,
        callbacks=callbacks,
        verbose=0,
    )


def uncompiled(model: keras.Model) -> keras.Model:
    """A copy without the optimizer, whose slots would be in its file."""
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    return copy


def float_network(data: array_data.Arrays, seed: int) -> keras.Model:
    """The reference: dense, or a ticket by RigL."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input(data.train[0].shape[1:])])
    model.add(keras.layers.Flatten())
    for units in FLAGS.hidden:
        model.add(keras.layers.Dense(int(units), activation="relu"))
    model.add(keras.layers.Dense(data.num_classes, activation="softmax"))
    if not FLAGS.sparsity:
        fit(model, data, [])
        return model
    sparse = kft.sparsify(model, FLAGS.sparsity, seed=seed)
    fit(sparse, data, [kft.callbacks.RigL(update_interval=50)])
    return sparse


def search(
    model: keras.Model, data: array_data.Arrays, seed: int
) -> kft.discrete.DiscreteSearch:
    ticket = isinstance(model, kft.SparseModel)
    descent = kft.discrete.CoordinateDescent(
        start="nearest" if ticket else "uniform",
        biases="keep" if ticket else "search",
        sweeps=FLAGS.sweeps,
        penalty=FLAGS.penalty,
        screen=FLAGS.batch_size is not None,
        batch_size=FLAGS.batch_size,
        chunk_size=2048,
        seed=seed,
    )

    def progress(row: dict[str, Any]) -> None:
        if row["visits"] == row["coordinates"]:
            print(
                f"  sweep {row['sweep'] + 1}: loss {row['loss']:.4f}, "
                f"{row['trials']:,} trials, {row['seconds']:.0f} s",
                flush=True,
            )

    return descent.fit(model, *data.train, callback=progress)


def make(data: array_data.Arrays, member: int) -> dict[str, Any]:
    """Trains and stores the three networks of a member."""
    seed = FLAGS.seed * 1000 + member
    print(f"Member {member + 1} of {FLAGS.members}", flush=True)
    seconds, begun = {}, time.perf_counter()
    model = float_network(data, seed)
    seconds["float"] = time.perf_counter() - begun
    plain = kft.strip(model) if FLAGS.sparsity else uncompiled(model)
    begun = time.perf_counter()
    rival = straight_through.network(plain)
    if not FLAGS.sparsity:  # the search begins with random values too
        rival = straight_through.network(keras.models.clone_model(plain))
    fit(rival, data, [])
    seconds["straight-through"] = time.perf_counter() - begun
    begun = time.perf_counter()
    found = search(model, data, seed)
    seconds["CoNNTrA"] = time.perf_counter() - begun
    networks = {
        "float": plain,
        "straight-through": straight_through.discrete(rival),
        "CoNNTrA": found.model,
    }
    plain.save(path(f"float_{member}.keras"))
    for name in ("straight-through", "CoNNTrA"):
        kft.discrete.save(networks[name], path(f"{name}_{member}.keras"))
    return {"seconds": seconds, "history": found.history}


def row(
    name: str, data: array_data.Arrays, seconds: list[float]
) -> dict[str, Any]:
    """Scores of the members of a kind and of their ensemble."""
    files = [path(f"{name}_{i}.keras") for i in range(FLAGS.members)]
    models = [keras.saving.load_model(file) for file in files]
    parts = {"train": data.train, "valid": data.validation, "test": data.test}
    found = {
        part: np.stack([m.predict(x, 1024, verbose=0) for m in models])
        for part, (x, _) in parts.items()
    }

    def errors(part: str) -> float:
        wrong = found[part].argmax(axis=-1) != parts[part][1]
        return float(wrong.mean())

    labels = data.test[1]
    pooled = found["test"].mean(axis=0)
    scaling = kft.calibration.TemperatureScaling().fit(
        data.validation[1], found["valid"].mean(axis=0)
    )
    scaled = keras.ops.convert_to_numpy(scaling(pooled))
    ece = kft.metrics.expected_calibration_error
    nll = kft.metrics.negative_log_likelihood
    kernels = [layer.kernel for layer in models[0].layers if layer.weights]
    zeros = [keras.ops.convert_to_numpy(one) == 0 for one in kernels]
    return {
        "model": name,
        "train_error": errors("train"),
        "test_error": errors("test"),
        "ensemble_error": float((pooled.argmax(axis=-1) != labels).mean()),
        "ece": ece(labels, pooled),
        "ece_scaled": ece(labels, scaled),
        "nll_scaled": float(np.mean(nll(labels, scaled))),
        "zeros": float(np.concatenate([z.ravel() for z in zeros]).mean()),
        "bytes": int(np.mean([os.path.getsize(file) for file in files])),
        "seconds": float(np.mean(seconds)),
    }


def speed(data: array_data.Arrays, members: list[Any]) -> dict[str, float]:
    """Trials a second, and evaluations by Keras of the same network."""
    model = keras.saving.load_model(path("float_0.keras"))
    model.compile(loss="sparse_categorical_crossentropy")
    x, y = data.train
    x, y = x[: FLAGS.batch_size], y[: FLAGS.batch_size]
    model.evaluate(x, y, batch_size=len(x), verbose=0)
    begun = time.perf_counter()
    for _ in range(10):
        model.evaluate(x, y, batch_size=len(x), verbose=0)
    evaluations = 10 / (time.perf_counter() - begun)
    rows = [one for member in members for one in member["history"]]
    trials = sum(one["trials"] for one in rows)
    ends = [member["history"][-1]["seconds"] for member in members]
    return {"trials": trials / sum(ends), "evaluations": evaluations}


def draw(members: list[Any]) -> None:
    """The loss of the search against its trials."""
    try:
        from matplotlib import figure
    except ImportError:
        print("No picture: pip install matplotlib")
        return
    picture = figure.Figure(figsize=(6, 4), layout="constrained")
    axes = picture.subplots()
    for i, member in enumerate(members):
        trials = np.cumsum([one["trials"] for one in member["history"]])
        losses = [one["loss"] for one in member["history"]]
        axes.plot(trials, losses, "o-", label=f"member {i}")
    loss = "loss of the last batch" if FLAGS.batch_size else "training loss"
    axes.set(xlabel="trials", ylabel=loss)
    every = [one["loss"] for member in members for one in member["history"]]
    if min(every) > 0 and max(every) > 3 * min(every):
        axes.set_yscale("log")
    axes.set_title("One point for each sweep over the weights")
    axes.legend(fontsize=8)
    picture.savefig(path("sweeps.png"), dpi=150)


def show(done: dict[str, Any]) -> None:
    keys = [
        ("model", "{}"),
        ("train_error", "{:.4f}"),
        ("test_error", "{:.4f}"),
        ("ensemble_error", "{:.4f}"),
        ("ece", "{:.4f}"),
        ("ece_scaled", "{:.4f}"),
        ("nll_scaled", "{:.4f}"),
        ("zeros", "{:.3f}"),
        ("bytes", "{:,}"),
        ("seconds", "{:.1f}"),
    ]
    cells = [[form.format(r[key]) for key, form in keys] for r in done["rows"]]
    print(tables.aligned([[key for key, _ in keys], *cells]))
    found = done["speed"]
    print(
        f"{found['trials']:,.0f} trials a second; a loop of model.evaluate "
        f"makes {found['evaluations']:.0f}.\nFiles: {FLAGS.output_dir}"
    )


def main(argv: list[str]) -> None:
    run_directory.no_arguments(argv)
    logging.set_verbosity(logging.ERROR)
    if not all(units.isdigit() and int(units) for units in FLAGS.hidden):
        raise SystemExit(f"--hidden={','.join(FLAGS.hidden)} must be integers")
    run_directory.check_directory(FLAGS.output_dir, run_directory.config())
    done = run_directory.read_json(path("metrics.json"))
    if done is None:
        data = array_data.load(FLAGS.dataset, FLAGS.seed, FLAGS.num_examples)
        run_directory.claim_directory(FLAGS.output_dir, run_directory.config())
        members = []
        for i in range(FLAGS.members):
            file = path(f"member_{i}.json")
            if run_directory.read_json(file) is None:
                run_directory.write_json(file, make(data, i))
            members.append(run_directory.read_json(file))
        rows = [
            row(name, data, [one["seconds"][name] for one in members])
            for name in members[0]["seconds"]
        ]
        done = {
            "config": run_directory.config(),
            "rows": rows,
            "speed": speed(data, members),
        }
        draw(members)
        run_directory.write_json(path("metrics.json"), done)
    show(done)


if __name__ == "__main__":
    app.run(main)
