r"""Three compressed tickets against one dense network and three, on images.

```shell
python benchmarks/real_headline.py --data_dir=../shared/tfds \
    --output_dir=headline --output=headline.json
```

The network is a wide MLP of three hidden layers of `--units`, a small
convolutional network or a wide residual network of 10 layers. It learns by
Adam: `dense`; `dense x3`, that network and two more of other seeds, an ensemble
(unless `--nodense_ensemble`); and EDST with three tickets at each `--sparsity`,
compressed. The learning rate of each is the one of `--rates` with the better
NLL on held-out training images, a sixth, with the first seed; test images
choose nothing. The dense network's rate falls to a tenth at half and at three
quarters of `--epochs`. EDST explores for a third of `--ticket_epochs` and
refines each ticket for two ninths, with the paper's rates: more epochs than the
dense network's, which are cheaper.

Every run is a process of its own: its seconds are those of `fit`, by the clock
and of the processor. Its memory is the peak that making and training the
network adds to a process that has the data, as tensors, and has trained a
narrow network in the same way before. `sparsify` makes a dense network sparse,
so that both are there for a while; so another process reads the network from a
file and trains it in the same way, on `--memory_steps` batches an epoch: what
that adds is `training_bytes_from_file`. A third takes the time of predictions
from the packed file (remove `times_*.json` to take it again, and with the
`rows_*.json` of a run): of Keras, or
of NumPy where that is faster, for dense networks; for tickets of
`serving.SparsePredictor`, or of Keras where it does not have the layers. A run
that is finished is not run again: start the command again after a kill.
"""

import gc
import json
import os
import shutil
import subprocess
import sys
import time

import common
import keras
import numpy as np
from absl import app
from absl import flags
from common import FLAGS
from common import forget_peak
from common import images
from common import new_report
from common import resident
from common import save
from common import spread

import keras_freetickets as kft
from keras_freetickets import files
from keras_freetickets.metrics import reliability

flags.adopt_module_key_flags(common)
flags.DEFINE_enum(
    "dataset",
    "fashion_mnist",
    ["fashion_mnist", "cifar10", "digits"],
    "Images.",
)
flags.DEFINE_enum("network", "mlp", ["mlp", "cnn", "resnet"], "Network.")
flags.DEFINE_string("data_dir", None, "Directory of TFDS.")
flags.DEFINE_string("output_dir", "headline", "Directory of finished runs.")
flags.DEFINE_integer(
    "units",
    None,
    "Units of each hidden layer, or channels of the first block. None for 1024 "
    "of an MLP, 64 of a small convolutional network and 32 of a residual one.",
)
flags.DEFINE_integer("images", None, "Training images. None for all.")
flags.DEFINE_integer("epochs", 9, "Epochs of one dense network.", 4)
flags.DEFINE_integer("ticket_epochs", 27, "Epochs of a run of EDST.", 9)
flags.DEFINE_integer("batch", 128, "Images in a batch.")
flags.DEFINE_integer("interval", 100, "Steps between updates of masks.")
flags.DEFINE_multi_float("sparsity", [0.9, 0.95, 0.98], "Sparsities.")
flags.DEFINE_multi_float("rates", [1e-2, 3e-3, 1e-3], "Learning rates to try.")
flags.DEFINE_bool("dense_ensemble", True, "Whether there is `dense x3`.")
flags.DEFINE_integer("seeds", 3, "Number of seeds.")
flags.DEFINE_integer("turns", 50, "Predictions to take the time of.")
flags.DEFINE_integer("memory_steps", 64, "Of an epoch, from a file.", 8)
flags.DEFINE_string("run", None, "JSON of the only run to make, by itself.")

TICKETS = 3


def data():
    """Images and labels: training, validation and test ones.

    An MLP reads images as rows.
    """
    (x, y), test = images(FLAGS.dataset, FLAGS.data_dir)
    count = len(x) - len(x) // 6
    parts = (x[:count], y[:count]), (x[count:], y[count:]), test
    if FLAGS.images:
        parts = tuple(array[: FLAGS.images] for array in parts[0]), *parts[1:]
    if FLAGS.network == "mlp":
        return tuple((x.reshape(len(x), -1), y) for x, y in parts)
    return parts


def mlp(shape, units):
    hidden = [keras.layers.Dense(units, activation="relu") for _ in range(3)]
    return keras.Sequential(
        [
            keras.Input(shape),
            *hidden,
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def cnn(shape, units):
    return kft.applications.small_cnn(shape, 10, filters=(units, 2 * units))


def resnet(shape, units):
    return kft.applications.wide_resnet(
        10, units // 16, shape, weight_decay=0.0
    )


# How to make one of a shape of images and a width; the width of one that is
# measured, and of the one trained before.
NETWORKS = {
    "mlp": (mlp, 1024, 64),
    "cnn": (cnn, 64, 32),
    "resnet": (resnet, 32, 16),
}


def network(batches, narrow):
    shape = tuple(batches.element_spec[0].shape[1:])
    make, units, units_before = NETWORKS[FLAGS.network]
    return make(shape, units_before if narrow else FLAGS.units or units)


def compiled(model, rate):
    model.compile(
        keras.optimizers.Adam(rate), "sparse_categorical_crossentropy"
    )
    return model


def decaying(epoch, rate):
    """A tenth from half of the epochs on, and again from three quarters on."""
    turns = (FLAGS.epochs // 2, 3 * FLAGS.epochs // 4)
    return rate / 10 if epoch in turns else rate


def batches_of(x, y):
    """Shuffled batches without TensorFlow's autotuning.

    Which, with TensorFlow 2.21, may wait after the last step of `fit`.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    places = tf.data.Dataset.range(len(y)).shuffle(len(y), seed=FLAGS.seed)
    pairs = places.batch(FLAGS.batch).map(
        lambda i: (tf.gather(x, i), tf.gather(y, i))
    )
    return pairs.prefetch(2).with_options(options)


class Cost:
    """What has been spent since it was made."""

    def __init__(self):
        gc.collect()
        forget_peak()
        self.resident = resident("VmRSS")
        self.clock, self.processor = time.perf_counter(), time.process_time()

    def so_far(self):
        return {
            "training_seconds": time.perf_counter() - self.clock,
            "training_processor_seconds": time.process_time() - self.processor,
            "training_bytes": resident("VmHWM") - self.resident,
        }


def initial(kind, sparsity, seed, batches, narrow=False):
    """An untrained network, not compiled in Keras' sense."""
    keras.utils.set_random_seed(seed)
    model = network(batches, narrow)
    if kind == "edst":
        model = kft.sparsify(model, sparsity, storage="compressed", seed=seed)
    return model


def trained_dense(model, rate, batches):
    compiled(model, rate).fit(
        batches,
        epochs=FLAGS.epochs,
        callbacks=[keras.callbacks.LearningRateScheduler(decaying)],
        verbose=0,
    )
    return model


def trained_tickets(model, rate, batches, name):
    """The ensemble of three tickets; they are kept below a name."""
    compiled(model, rate)
    edst = kft.callbacks.EDST(
        exploration_epochs=FLAGS.ticket_epochs // 3,
        refinement_epochs=2 * FLAGS.ticket_epochs // 9,
        num_tickets=TICKETS,
        update_interval=FLAGS.interval,
        monitor=None,
        directory=os.path.join(FLAGS.output_dir, name),
    )
    model.fit(batches, epochs=edst.epochs, callbacks=[edst], verbose=0)
    return edst.ensemble()


def dense(rate, seed, batches, narrow=False):
    """Trains dense networks one after another, with the cost so far."""
    cost = Cost()
    while True:
        model = initial("dense", 0.0, seed, batches, narrow)
        yield trained_dense(model, rate, batches), cost.so_far()
        seed += 1


def tickets(sparsity, rate, seed, batches, narrow=False):
    """Three tickets of one run of EDST, and what they cost."""
    cost = Cost()
    model = initial("edst", sparsity, seed, batches, narrow)
    name = f"{sparsity}_{rate}_{seed}{'_narrow' if narrow else ''}"
    made = trained_tickets(model, rate, batches, name)
    return made, cost.so_far()


def quality(predictor, x, y):
    parts = [predictor(x[i : i + 1000]) for i in range(0, len(x), 1000)]
    predictions = np.concatenate(parts).astype("float64")
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


def ways_of_tickets(model, path):
    """How to predict with a packed file, or with its model in Keras."""
    try:
        return [kft.serving.SparsePredictor.load(path).predict]
    except ValueError:  # its layers are not among those it has
        return [model.predict_on_batch]


def ways_of_dense(model, members):
    alone = members[0] if len(members) == 1 else model
    if FLAGS.network == "mlp":
        return [alone.predict_on_batch, in_numpy(members)]
    return [alone.predict_on_batch]


def packed_path(kind, sparsity, rate, seed):
    name = f"{kind}_{sparsity}_{rate}_{seed}.npz".replace(" ", "")
    return os.path.join(FLAGS.output_dir, name)


def row_of(kind, model, members, sparsity, rate, seed, cost, parts):
    """What an ensemble costs, and how good it is."""
    path = packed_path(kind, sparsity, rate, seed)
    model.save_packed(path)
    row = {"kind": kind, "sparsity": sparsity, "rate": rate, "seed": seed}
    row.update(cost, file_bytes=os.path.getsize(path))
    if members is None:
        predict = ways_of_tickets(model, path)[0]
    else:
        predict = ways_of_dense(model, members)[0]
    _, validation, (x, y) = parts
    row["validation"] = quality(predict, *validation)
    row["test"] = quality(predict, x, y)
    return row


def times_of(kind, sparsity, rate, seed):
    """Milliseconds of predictions from a packed file."""
    _, _, (x, _) = data()
    path = packed_path(kind, sparsity, rate, seed)
    model = kft.EnsembleModel.from_packed(path)
    if kind == "edst":
        ways = ways_of_tickets(model, path)
    else:
        members = [model.member(i) for i in range(model.num_members)]
        ways = ways_of_dense(model, members)
    found = {}
    for batch in (1, 256):
        times = [milliseconds(way, x[:batch]) for way in ways]
        fastest = min(times, key=lambda one: one["median"])
        found[f"milliseconds_{batch}"] = fastest
    return found


def prepared(kind, sparsity, rate, seed):
    """All data, and batches; what a first training costs is spent.

    It belongs to no row.
    """
    parts = (x, y), *_ = data()
    batches = batches_of(*map(keras.ops.convert_to_tensor, (x, y)))
    for _ in batches:  # TensorFlow copies the images
        pass
    if kind == "edst":
        tickets(sparsity, rate, seed, batches.take(8), narrow=True)
    else:
        next(dense(rate, seed, batches.take(8), narrow=True))
    keras.backend.clear_session()
    return parts, batches


def rows_of(kind, sparsity, rate, seed, count):
    """The rows of a run: of several dense networks, of one and of all."""
    parts, batches = prepared(kind, sparsity, rate, seed)
    rest = sparsity, rate, seed
    if kind == "edst":
        model, cost = tickets(sparsity, rate, seed, batches)
        return [row_of(kind, model, None, *rest, cost, parts)]
    runs = dense(rate, TICKETS * seed, batches)
    first, cost = next(runs)
    one = kft.EnsembleModel([first])
    rows = [row_of(kind, one, [first], *rest, cost, parts)]
    if count > 1:
        members = [first]
        for _ in range(count - 1):
            model, cost = next(runs)
            members.append(model)
        model = kft.EnsembleModel(members)
        rows.append(
            row_of(f"{kind} x{count}", model, members, *rest, cost, parts)
        )
    return rows


def untrained_path(kind, sparsity, seed):
    return os.path.join(FLAGS.output_dir, f"{kind}_{sparsity}_{seed}.keras")


def save_untrained(kind, sparsity, seed):
    (x, y), *_ = data()
    model = initial(kind, sparsity, seed, batches_of(x, y))
    model.save(untrained_path(kind, sparsity, seed))


def bytes_from_file(kind, sparsity, rate, seed):
    """What reading and training a network adds to a process."""
    _, batches = prepared(kind, sparsity, rate, seed)
    batches = batches.take(FLAGS.memory_steps)
    name = f"from_file_{sparsity}_{rate}_{seed}"  # what a killed run left
    shutil.rmtree(os.path.join(FLAGS.output_dir, name), ignore_errors=True)
    cost = Cost()
    model = keras.models.load_model(untrained_path(kind, sparsity, seed))
    if kind == "edst":
        trained_tickets(model, rate, batches, name)
    else:
        trained_dense(model, rate, batches)
    return cost.so_far()["training_bytes"]


RUNS = {
    "rows": rows_of,
    "file": save_untrained,
    "bytes": bytes_from_file,
    "times": times_of,
}


def path_of(what):
    name = "_".join(map(str, what))
    return os.path.join(FLAGS.output_dir, f"{name}.json")


def finished(*what):
    """What a run gives, which is made by a process if it is not there.

    Args:
        *what: A name in `RUNS`, and arguments.
    """
    path = path_of(what)
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
        made = RUNS[what[0]](*what[1:])
        with (
            files.atomic_path(path_of(what)) as temporary,
            open(temporary, "w") as file,
        ):
            json.dump(made, file)
        return
    report = new_report()
    report["tried"] = []
    for kind, sparsity, count in [
        *(("edst", sparsity, TICKETS) for sparsity in FLAGS.sparsity),
        ("dense", 0.0, TICKETS if FLAGS.dense_ensemble else 1),
    ]:
        alone = TICKETS if kind == "edst" else 1
        tried = [
            finished("rows", kind, sparsity, rate, 0, alone)[0]
            for rate in FLAGS.rates
        ]
        report["tried"] += tried
        rate = min(tried, key=lambda row: row["validation"]["nll"])["rate"]
        for seed in range(FLAGS.seeds):
            rows = finished("rows", kind, sparsity, rate, seed, count)
            finished("file", kind, sparsity, seed)
            rows[0]["training_bytes_from_file"] = finished(
                "bytes", kind, sparsity, rate, seed
            )
            for row in rows:
                row.update(finished("times", row["kind"], sparsity, rate, seed))
                report["rows"].append(row)
                shown = {k: round(v, 4) for k, v in row["test"].items()}
                print(
                    f"{row['kind']} {sparsity} rate {rate} seed {seed}: "
                    f"{shown}, {row['training_seconds']:.1f} s "
                    f"({row['training_processor_seconds']:.1f}), "
                    f"{row['training_bytes'] / 1e6:.0f} MB, "
                    f"{row['file_bytes']:,} bytes, "
                    f"{row['milliseconds_1']['median']:.3f} and "
                    f"{row['milliseconds_256']['median']:.2f} ms",
                    flush=True,
                )
                save(report)


if __name__ == "__main__":
    app.run(main)
