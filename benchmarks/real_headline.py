r"""Three compressed tickets against one dense network and three, on images.

```shell
python benchmarks/real_headline.py --data_dir=../shared/tfds \
    --output_dir=headline --output=headline.json
```

A wide MLP, `--units` x3, learns Fashion-MNIST by Adam: `dense`; `dense x3`, an
ensemble of three; and EDST with three tickets at each `--sparsity`, compressed.
The learning rate of each is the one of `--rates` with the better NLL on 10,000
validation images with the first seed; test images choose nothing. EDST explores
for a third of `--epochs` and refines each ticket for two ninths, so that its
three tickets take as many epochs as one dense network.

Every run is a process of its own: its seconds are those of `fit`, its memory is
the peak that training adds to the process with data and libraries. Predictions
are of the faster of Keras and NumPy for dense networks, and of
`serving.SparsePredictor` for tickets. A run that is finished is not run again:
start the command again after a kill.
"""

import json
import os
import resource
import subprocess
import sys
import time

import common
import keras
import numpy as np
from absl import app
from absl import flags
from common import FLAGS
from common import new_report
from common import save
from common import spread

import keras_freetickets as kft
from keras_freetickets import files
from keras_freetickets.metrics import reliability

flags.adopt_module_key_flags(common)
flags.DEFINE_string("data_dir", None, "Directory of TFDS.")
flags.DEFINE_string("output_dir", "headline", "Directory of finished runs.")
flags.DEFINE_integer("examples", 0, "Training images; 0 for all 50,000.")
flags.DEFINE_integer("units", 2048, "Units of each hidden layer.")
flags.DEFINE_integer("epochs", 9, "Epochs of one network.")
flags.DEFINE_integer("batch", 32, "Images in a batch.")
flags.DEFINE_integer("interval", 200, "Steps between updates of masks.")
flags.DEFINE_multi_float("sparsity", [0.9, 0.95, 0.98], "Sparsities.")
flags.DEFINE_multi_float("rates", [1e-3, 3e-4], "Learning rates to try.")
flags.DEFINE_integer("seeds", 3, "Number of seeds.")
flags.DEFINE_integer("turns", 50, "Predictions to take the time of.")
flags.DEFINE_string("run", None, "JSON of the only run to make, by itself.")

DENSE, THREE = "dense", "dense x3"


def images(split):
    import tensorflow_datasets as tfds

    data = tfds.load(
        "fashion_mnist", split=split, batch_size=-1, data_dir=FLAGS.data_dir
    )
    x = np.asarray(data["image"]).reshape(-1, 784).astype("float32") / 255
    return x, np.asarray(data["label"])


def network():
    hidden = [
        keras.layers.Dense(FLAGS.units, activation="relu") for _ in range(3)
    ]
    return keras.Sequential(
        [
            keras.Input((784,)),
            *hidden,
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def compiled(model, rate):
    model.compile(
        keras.optimizers.Adam(rate), "sparse_categorical_crossentropy"
    )
    return model


def peak():
    """Megabytes, the most that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def train(kind, sparsity, rate, seed, x, y):
    """The members after training, as a list of models."""
    options = {"batch_size": FLAGS.batch, "verbose": 0}
    if kind in (DENSE, THREE):
        members = []
        for i in range(1 if kind == DENSE else 3):
            keras.utils.set_random_seed(3 * seed + i)
            model = compiled(network(), rate)
            model.fit(x, y, epochs=FLAGS.epochs, **options)
            members.append(model)
        return members
    keras.utils.set_random_seed(seed)
    model = kft.sparsify(network(), sparsity, storage="compressed", seed=seed)
    compiled(model, rate)
    edst = kft.callbacks.EDST(
        exploration_epochs=max(1, FLAGS.epochs // 3),
        refinement_epochs=max(1, 2 * FLAGS.epochs // 9),
        num_tickets=3,
        update_interval=FLAGS.interval,
        monitor=None,
        directory=os.path.join(FLAGS.output_dir, f"{sparsity}_{rate}_{seed}"),
    )
    model.fit(x, y, epochs=edst.epochs, callbacks=[edst], **options)
    ensemble = edst.ensemble()
    return [ensemble.member(i) for i in range(3)]


def quality(predictor, x, y):
    predictions = np.asarray(predictor(x), "float64")
    right = predictions[np.arange(len(y)), y]
    ece = reliability.expected_calibration_error(y, predictions)
    return {
        "accuracy": float(np.mean(np.argmax(predictions, axis=1) == y)),
        "nll": float(-np.mean(np.log(np.maximum(right, 1e-12)))),
        "ece": float(ece),
    }


def in_numpy(members):
    """Mean prediction of dense members by BLAS alone."""
    weights = [[np.asarray(w) for w in m.get_weights()] for m in members]

    def predict(x):
        total = 0.0
        for own in weights:
            h = x
            for kernel, bias in zip(own[:-2:2], own[1:-2:2], strict=True):
                h = np.maximum(h @ kernel + bias, 0)
            logits = h @ own[-2] + own[-1]
            e = np.exp(logits - logits.max(axis=1, keepdims=True))
            total = total + e / e.sum(axis=1, keepdims=True)
        return total / len(weights)

    return predict


def milliseconds(predict, x):
    predict(x)
    found = []
    for _ in range(FLAGS.turns):
        start = time.perf_counter()
        predict(x)
        found.append(1000 * (time.perf_counter() - start))
    return spread(found)


def one_run(kind, sparsity, rate, seed, test):
    """A row: quality on validation and, if asked for, all of the rest."""
    count = FLAGS.examples or 50_000
    x, y = images(f"train[:{count}]")
    compiled(network(), rate).fit(x[:64], y[:64], verbose=0)  # libraries
    keras.backend.clear_session()
    before, start = peak(), time.perf_counter()
    members = train(kind, sparsity, rate, seed, x, y)
    row = {
        "kind": kind,
        "sparsity": sparsity,
        "rate": rate,
        "seed": seed,
        "training_seconds": time.perf_counter() - start,
        "training_megabytes": peak() - before,
    }
    ensemble = kft.EnsembleModel(members)
    path = os.path.join(FLAGS.output_dir, f"{kind}_{sparsity}_{seed}.npz")
    ensemble.save_packed(path)
    row["file_bytes"] = os.path.getsize(path)
    ways = [ensemble.predict_on_batch, in_numpy(members)]
    if kind not in (DENSE, THREE):
        ways = [kft.serving.SparsePredictor.load(path).predict]
    row["validation"] = quality(ways[0], *images("train[50000:]"))
    if test:
        row["test"] = quality(ways[0], *images("test"))
        for batch in (1, 256):
            times = [milliseconds(way, x[:batch]) for way in ways]
            row[f"milliseconds_{batch}"] = min(
                times, key=lambda one: one["median"]
            )
    return row


def finished(kind, sparsity, rate, seed, test):
    """The row of a run, which is made by a process if it is not there."""
    what = [kind, sparsity, rate, seed, test]
    name = "_".join(str(one).replace(" ", "") for one in what)
    path = os.path.join(FLAGS.output_dir, f"{name}.json")
    if not os.path.exists(path):
        given = [
            f"--{one.name}={one.value}"
            for one in FLAGS.get_key_flags_for_module(sys.modules["__main__"])
            if one.name not in ("run", "output", "sparsity", "rates")
            and one.value is not None
        ]
        command = [sys.executable, os.path.abspath(__file__), *given]
        subprocess.run([*command, f"--run={json.dumps(what)}"], check=True)
    with open(path) as file:
        return json.load(file)


def main(_):
    os.makedirs(FLAGS.output_dir, exist_ok=True)
    if FLAGS.run:
        what = json.loads(FLAGS.run)
        row = one_run(*what)
        name = "_".join(str(one).replace(" ", "") for one in what)
        path = os.path.join(FLAGS.output_dir, f"{name}.json")
        with files.atomic_path(path) as temporary, open(temporary, "w") as file:
            json.dump(row, file)
        return
    report = new_report()
    kinds = [(DENSE, 0.0), (THREE, 0.0), *(("edst", s) for s in FLAGS.sparsity)]
    for kind, sparsity in kinds:
        alone = DENSE if kind == THREE else kind
        tried = {
            rate: finished(alone, sparsity, rate, 0, False)
            for rate in FLAGS.rates
        }
        rate = min(tried, key=lambda r: tried[r]["validation"]["nll"])
        for seed in range(FLAGS.seeds):
            row = finished(kind, sparsity, rate, seed, True)
            report["rows"].append(row)
            shown = {k: round(v, 4) for k, v in row["test"].items()}
            print(
                f"{kind} {sparsity} seed {seed}: {shown}, "
                f"{row['training_seconds']:.1f} s, "
                f"{row['training_megabytes']:.0f} MB, "
                f"{row['file_bytes']:,} bytes, "
                f"{row['milliseconds_1']['median']:.3f} and "
                f"{row['milliseconds_256']['median']:.2f} ms"
            )
            save(report)


if __name__ == "__main__":
    app.run(main)
