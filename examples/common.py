"""What the example scripts share: data, networks, scores, tables."""

import json
import os
import time

from absl import flags

flags.DEFINE_integer("seed", 0, "Seed of weights, masks and data order.")
flags.DEFINE_integer(
    "batch_size", 128, "Images a batch (128: FreeTickets).", lower_bound=1
)
flags.DEFINE_integer(
    "verbose", 2, "0 silent, 1 progress bar, 2 a line an epoch.", 0, 2
)


def read_json(path):
    """Content of a JSON file, or `None`."""
    if not os.path.exists(path):
        return None
    with open(path) as file:
        return json.load(file)


def write_json(path, content):
    from keras_freetickets.files import atomic_path

    with atomic_path(path) as temporary:
        with open(temporary, "w") as file:
            json.dump(content, file, indent=2)


def claim_directory(directory, config):
    """Refuses a directory in which another configuration has begun."""
    path = os.path.join(directory, "config.json")
    known = read_json(path)
    if known is None:
        write_json(path, config)
        return
    for name in sorted({**known, **config}):
        if known.get(name) != config.get(name):
            raise SystemExit(
                f"--output_dir={directory} holds a run with "
                f"--{name}={known.get(name)}, and this one has "
                f"--{name}={config.get(name)}. Give another directory."
            )


class Seconds:
    """A callback that counts the seconds of all epochs, killed runs' too.

    Add it to `fit` before `Backup`, which keeps the log `seconds`.
    """

    def __new__(cls):
        import keras

        class Clock(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                self.start = time.perf_counter()

            def on_epoch_end(self, epoch, logs=None):
                logs["seconds"] = time.perf_counter() - self.start

        return Clock()


_MODELS = ("small_cnn", "lenet_300_100", "wide_resnet")


def define_training_flags(output_dir):
    """Flags of the training scripts; a wrong value is refused at once."""
    flags.DEFINE_string("output_dir", output_dir, "Where everything goes.")
    flags.DEFINE_string(
        "dataset", "optdigits", "A TFDS image-classification set, or optdigits."
    )
    flags.DEFINE_string("data_dir", None, "Where the prepared set lies.")
    flags.DEFINE_float(
        "validation_fraction", 0.1, "Last part of training images.", 0.001, 0.9
    )
    flags.DEFINE_enum("model", "small_cnn", _MODELS, "The network.")
    flags.DEFINE_integer("depth", 28, "Of wide_resnet: 6n + 4.", lower_bound=10)
    flags.DEFINE_integer("width", 10, "Of wide_resnet.", lower_bound=1)
    flags.DEFINE_float("sparsity", 0.8, "Share of weights removed.", 0, 0.9999)
    flags.DEFINE_enum(
        "distribution",
        "erk",
        ["erk", "er", "uniform"],
        "How sparsity is spread over the layers.",
    )
    flags.DEFINE_enum(
        "growth", "gradient", ["gradient", "random"], "How connections grow."
    )
    flags.DEFINE_integer(
        "update_interval",
        1000,
        "Optimizer updates between topology updates (1000: FreeTickets).",
        lower_bound=1,
    )
    flags.DEFINE_float(
        "drop_fraction", 0.5, "Share replaced by an update.", 0.0, 1.0
    )
    flags.DEFINE_float("learning_rate", 0.1, "Rate of SGD.", lower_bound=1e-9)
    flags.DEFINE_float("momentum", 0.9, "Momentum of SGD.", 0.0, 0.9999)
    flags.DEFINE_float(
        "weight_decay", 2.5e-4, "L2 factor (PyTorch's 5e-4).", lower_bound=0.0
    )
    flags.register_validator(
        "depth", lambda depth: (depth - 4) % 6 == 0, "must be 6n + 4"
    )
    flags.register_validator(
        "dataset", lambda name: bool(name), "must name a data set"
    )


_FREE = {"verbose", "output_dir", "data_dir", "dry_run"}
_OF_ABSL = {"absl", "tensorflow", "keras"}


def config():
    """The flags that decide the result, for `claim_directory`."""
    modules = flags.FLAGS.flags_by_module_dict()
    names = {
        flag.name
        for module, defined in modules.items()
        if module.split(".")[0] not in _OF_ABSL
        for flag in defined
    }
    return {name: getattr(flags.FLAGS, name) for name in sorted(names - _FREE)}


def load():
    import keras_freetickets as kft

    return kft.datasets.load(
        flags.FLAGS.dataset,
        batch_size=flags.FLAGS.batch_size,
        validation_fraction=flags.FLAGS.validation_fraction,
        seed=flags.FLAGS.seed,
        data_dir=flags.FLAGS.data_dir,
    )


def known_shape(dataset):
    """Image shape and classes of a set, without reading it."""
    shapes = {
        "optdigits": ((8, 8, 1), 10),
        "mnist": ((28, 28, 1), 10),
        "fashion_mnist": ((28, 28, 1), 10),
        "cifar10": ((32, 32, 3), 10),
        "cifar100": ((32, 32, 3), 100),
    }
    if dataset not in shapes:
        raise SystemExit(
            f"--dry_run knows {sorted(shapes)}, not --dataset={dataset}"
        )
    return shapes[dataset]


def network(input_shape, classes):
    """The network that the flags describe."""
    import keras

    import keras_freetickets as kft

    keras.utils.set_random_seed(flags.FLAGS.seed)
    name = flags.FLAGS.model
    if name == "lenet_300_100":
        return kft.applications.lenet_300_100(input_shape, classes)
    penalty = {"weight_decay": flags.FLAGS.weight_decay}
    if name == "small_cnn":
        return kft.applications.small_cnn(input_shape, classes, **penalty)
    return kft.applications.wide_resnet(
        flags.FLAGS.depth, flags.FLAGS.width, input_shape, classes, **penalty
    )


def compile_model(model):
    import keras

    model.compile(
        keras.optimizers.SGD(flags.FLAGS.learning_rate, flags.FLAGS.momentum),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )


def fit(model, data, epochs, callbacks, backup_name):
    """Trains and returns the logs of all epochs, a killed run's too."""
    import keras_freetickets as kft

    directory = os.path.join(flags.FLAGS.output_dir, backup_name)
    backup = kft.callbacks.Backup(directory)
    model.fit(
        data.train,
        validation_data=data.validation,
        epochs=epochs,
        verbose=flags.FLAGS.verbose,
        callbacks=[data.epoch_order(), Seconds(), *callbacks, backup],
    )
    return backup.history


def save(model, path):
    from keras_freetickets.files import atomic_path

    with atomic_path(path) as temporary:
        model.save(temporary)


def costs(dense, model, epochs, reference_epochs):
    """Parameters, and FLOPs relative to `reference_epochs` of dense."""
    from keras_freetickets.metrics import flops

    whole = flops.forward_flops(dense)
    used = flops.forward_flops(model, density_of(model))
    method = "rigl" if flags.FLAGS.growth == "gradient" else "set"
    sample = flops.training_flops_per_sample(
        whole, used, method, update_interval=flags.FLAGS.update_interval
    )
    reference = flops.training_flops_per_sample(whole, whole, "dense")
    return {
        "parameters": active_parameters(model),
        "inference_flops": used / whole,
        "train_flops": sample * epochs / (reference * reference_epochs),
        "mac_cost": used / whole * epochs / reference_epochs,
    }


def member_rows(dense, ensemble, data, ends, seconds, apart=False):
    """Rows of each ticket and of the ensemble.

    `ends` are the epochs after which the tickets were there; `seconds` those
    of each epoch of one run or, if the tickets were trained apart, of each
    run.
    """
    labels = labels_of(data.test)
    rows = []
    for i, member in enumerate(ensemble.predict_members(data.test)):
        cost = costs(
            dense, ensemble.member(i), ends[i], flags.FLAGS.reference_epochs
        )
        spent = seconds[i] if apart else sum(seconds[: ends[i]])
        row = {"model": f"ticket {i}", **scores(member, labels), **cost}
        rows.append({**row, "seconds": spent})
    add = sum if apart else max
    rows.append(
        {
            "model": "ensemble",
            **scores(ensemble.predict(data.test, verbose=0), labels),
            "parameters": sum(row["parameters"] for row in rows),
            "inference_flops": sum(row["inference_flops"] for row in rows),
            "train_flops": add(row["train_flops"] for row in rows),
            "seconds": add(row["seconds"] for row in rows),
        }
    )
    return rows


def finish(rows, history):
    """Writes `metrics.json` and prints the table."""
    path = os.path.join(flags.FLAGS.output_dir, "metrics.json")
    write_json(path, {"config": config(), "rows": rows, "history": history})
    print(table(rows))
    print(f"Files: {flags.FLAGS.output_dir}")


def density_of(model):
    """A function from a kernel to its density."""
    import numpy as np

    shares = {
        id(record.kernel): float(np.mean(record.mask.numpy()))
        for record in getattr(model, "connections", [])
    }
    return lambda kernel: shares.get(id(kernel), 1.0)


def active_parameters(model):
    """Weights in use: active ones of masked kernels, all of the others."""
    import numpy as np

    total = sum(int(np.prod(w.shape)) for w in model.trainable_variables)
    for record in getattr(model, "connections", []):
        total -= record.size - int(record.mask.numpy().sum())
    return total


def scores(probabilities, labels):
    """Accuracy, negative log-likelihood and calibration error."""
    import numpy as np

    import keras_freetickets as kft

    ece = kft.metrics.ExpectedCalibrationError(num_bins=15)
    ece.update_state(labels, probabilities)
    picked = probabilities[np.arange(len(labels)), labels]
    return {
        "accuracy": float((probabilities.argmax(-1) == labels).mean()),
        "nll": float(-np.log(np.maximum(picked, 1e-12)).mean()),
        "ece": float(ece.result()),
    }


def labels_of(dataset):
    import numpy as np

    return np.concatenate([labels.numpy() for _, labels in dataset])


_COLUMNS = [
    ("model", "model", "{}"),
    ("accuracy", "accuracy", "{:.4f}"),
    ("nll", "NLL", "{:.4f}"),
    ("ece", "ECE", "{:.4f}"),
    ("parameters", "active parameters", "{:,}"),
    ("train_flops", "train FLOPs x dense", "{:.3f}"),
    ("inference_flops", "inference FLOPs x dense", "{:.3f}"),
    ("seconds", "seconds", "{:.1f}"),
]


def table(rows):
    """Rows of scores as text."""
    cells = [[head for _, head, _ in _COLUMNS]]
    for row in rows:
        cells.append(
            [
                "" if row.get(key) is None else form.format(row[key])
                for key, _, form in _COLUMNS
            ]
        )
    widths = [max(len(line[i]) for line in cells) for i in range(len(_COLUMNS))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths)) for r in cells]
    lines.insert(1, "-" * len(lines[0]))
    note = (
        "FLOPs are theoretical (two a multiply-accumulate) and relative to "
        "the dense model; masks simulate sparsity."
    )
    return "\n".join([*[line.rstrip() for line in lines], note])
