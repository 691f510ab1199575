"""What the example scripts share: data, networks, scores, tables."""

import json
import os
import sys
import tempfile
import time

from absl import app
from absl import flags
from absl import logging

FLAGS = flags.FLAGS

flags.DEFINE_integer(
    "seed", 0, "Seed of weights, masks and data order.", 0, 2**31 - 1
)
flags.DEFINE_integer(
    "batch_size", 128, "Images a batch (128: FreeTickets).", lower_bound=1
)
flags.DEFINE_integer(
    "verbose", 2, "0 silent, 1 progress bar, 2 a line an epoch.", 0, 2
)


# What `keras_freetickets.recipes.sparse_training` takes; the package itself is
# imported only when a flag has been found right.
SPARSE_TRAININGS = """
    agent cigl dense dst_ee gmp granet itop_rigl itop_set moon ndsnn nm rigl
    set snfs srigl static
""".split()


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


def no_arguments(argv):
    """Refuses what is no flag, such as a flag without its dashes."""
    if len(argv) > 1:
        raise app.UsageError(
            f"Unknown argument {argv[1]!r}; flags begin with --."
        )


def check_directory(directory, config):
    """Refuses a directory in which another configuration has begun.

    And one that cannot be made or written to; it leaves none behind.
    """
    check_writable(directory)
    known = read_json(os.path.join(directory, "config.json")) or config
    for name in sorted({**known, **config}):
        if known.get(name) != config.get(name):
            raise SystemExit(
                f"--output_dir={directory} holds a run with "
                f"--{name}={known.get(name)}, and this one has "
                f"--{name}={config.get(name)}. Give another directory."
            )


def check_writable(directory):
    """Refuses a directory that cannot be made or written to."""
    missing, path = [], os.path.abspath(directory)
    while not os.path.exists(path):
        missing.append(path)
        path = os.path.dirname(path)
    try:
        os.makedirs(directory, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise SystemExit(
            f"--output_dir={directory} cannot be written to: {error}"
        ) from error
    finally:
        for path in missing:
            if os.path.isdir(path):
                os.rmdir(path)


def claim_directory(directory, config):
    """Notes the configuration, once nothing speaks against beginning."""
    check_directory(directory, config)
    write_json(os.path.join(directory, "config.json"), config)


class Seconds:
    """A callback that counts the seconds of all epochs, killed runs' too.

    Add it to `fit` before `Backup`, which keeps the log `seconds`.
    """

    def __new__(cls):
        import keras

        class Clock(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                self.start_step = time.perf_counter()

            def on_epoch_end(self, epoch, logs=None):
                logs["seconds"] = time.perf_counter() - self.start_step

        return Clock()


_MODELS = (
    "small_cnn",
    "lenet_300_100",
    "wide_resnet",
    "spiking_cnn",
    "spiking_vgg16",
    "spiking_resnet19",
)


def define_training_flags(output_dir):
    """Flags of the training scripts; a wrong value is refused at once."""
    flags.DEFINE_string("output_dir", output_dir, "Where everything goes.")
    flags.DEFINE_string(
        "dataset", "optdigits", "A TFDS image-classification set, or optdigits."
    )
    flags.DEFINE_string("data_dir", None, "Where the prepared set lies.")
    flags.DEFINE_bool("download", False, "Let TFDS download and prepare it.")
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
        None,
        "Optimizer updates between topology updates. Default: a 40th of those "
        "in which the topology changes (all of a run; the first three quarters "
        "in train_sparse.py, the exploration in train_edst.py), at most 1000 "
        "(FreeTickets); in train_ensemble.py the method's own.",
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


def steps(data, epochs):
    """Optimizer updates of so many epochs."""
    return -(-data.num_train // FLAGS.batch_size) * epochs


def update_interval(steps):
    """Optimizer updates between topology updates, given or a 40th of steps."""
    given = FLAGS.update_interval
    return min(max(steps // 40, 1), 1000) if given is None else given


def check_interval(interval, phases):
    """Refuses a run without a topology update in one of its phases.

    Args:
        interval: Optimizer updates between topology updates.
        phases: Dict from the name of a phase to its optimizer updates.
    """
    for name, steps in phases.items():
        if interval > steps:
            raise SystemExit(
                f"--update_interval={interval} is longer than the {name}, "
                f"which has {steps} optimizer updates: no topology update "
                "would take place. Give a shorter interval or more epochs."
            )


_FREE = {"verbose", "output_dir", "data_dir", "download", "dry_run"}


def config():
    """The script's own flags that decide the result, for `claim_directory`.

    Libraries define flags of their own whenever they are imported; those say
    nothing about the run.
    """
    names = {flag.name for flag in FLAGS.get_key_flags_for_module(sys.argv[0])}
    return {name: getattr(flags.FLAGS, name) for name in sorted(names - _FREE)}


def load(seed=None, **kwargs):
    """The data set that the flags name, in the order of a seed."""
    import keras_freetickets as kft

    try:
        return kft.datasets.load(
            FLAGS.dataset,
            batch_size=FLAGS.batch_size,
            validation_fraction=FLAGS.validation_fraction,
            seed=FLAGS.seed if seed is None else seed,
            data_dir=FLAGS.data_dir,
            download=FLAGS.download,
            **kwargs,
        )
    except (OSError, ValueError) as error:
        raise SystemExit(
            f"--dataset={FLAGS.dataset} --data_dir={FLAGS.data_dir}: {error}"
        ) from error


def known_shape(dataset):
    """Image shape, classes and training images of a set, without reading it."""
    shapes = {
        "optdigits": ((8, 8, 1), 10, 1433),
        "mnist": ((28, 28, 1), 10, 60_000),
        "fashion_mnist": ((28, 28, 1), 10, 60_000),
        "cifar10": ((32, 32, 3), 10, 50_000),
        "cifar100": ((32, 32, 3), 100, 50_000),
    }
    if dataset not in shapes:
        raise SystemExit(
            f"--dry_run knows {sorted(shapes)}, not --dataset={dataset}"
        )
    shape, classes, images = shapes[dataset]
    return shape, classes, round(images * (1 - FLAGS.validation_fraction))


def network(input_shape, classes, seed=None):
    """The network that the flags describe, from a seed."""
    import keras

    keras.utils.set_random_seed(FLAGS.seed if seed is None else seed)
    return _network(input_shape, classes)


def mimo_body(input_shape, classes, members, seed):
    """The network with the inputs and the logits of several members."""
    import keras

    keras.utils.set_random_seed(seed)
    *size, channels = input_shape
    return _network(
        (*size, channels * members),
        classes * members,
        classifier_activation=None,
    )


def _network(input_shape, classes, **kwargs):
    import keras_freetickets as kft

    name = FLAGS.model
    if name == "lenet_300_100":
        return kft.applications.lenet_300_100(input_shape, classes, **kwargs)
    if name.startswith("spiking"):
        return getattr(kft.applications, name)(input_shape, classes, **kwargs)
    kwargs["weight_decay"] = FLAGS.weight_decay
    if name == "small_cnn":
        return kft.applications.small_cnn(input_shape, classes, **kwargs)
    return kft.applications.wide_resnet(
        FLAGS.depth, FLAGS.width, input_shape, classes, **kwargs
    )


def compile_model(model):
    import keras

    model.compile(
        keras.optimizers.SGD(FLAGS.learning_rate, FLAGS.momentum),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )


def step_decay(epochs):
    """A callback: a tenth of --learning_rate from 1/2 on, again from 3/4."""
    import keras

    from keras_freetickets import recipes

    factor = recipes.step_decay(epochs)
    rate = FLAGS.learning_rate
    return keras.callbacks.LearningRateScheduler(lambda e: rate * factor(e))


def fit(model, data, epochs, callbacks, backup_name):
    """Trains and returns the logs of all epochs, a killed run's too."""
    import keras_freetickets as kft

    directory = os.path.join(FLAGS.output_dir, backup_name)
    backup = kft.callbacks.Backup(directory)
    model.fit(
        data.train,
        validation_data=data.validation,
        epochs=epochs,
        shuffle=False,  # the pipeline does it
        verbose=FLAGS.verbose,
        callbacks=[data.epoch_order(), Seconds(), *callbacks, backup],
    )
    return backup.history


def save(model, path):
    from keras_freetickets.files import atomic_path

    with atomic_path(path) as temporary:
        model.save(temporary)


def export(model, path):
    from keras_freetickets.files import atomic_path

    logging.set_verbosity(logging.WARNING)  # TensorFlow tells of every file
    with atomic_path(path) as temporary:
        model.export(temporary, verbose=False)


def costs(dense, model, epochs, reference_epochs, growth, update_interval):
    """Parameters, and FLOPs relative to `reference_epochs` of dense."""
    from keras_freetickets.inspection.units import density_of
    from keras_freetickets.metrics import flops

    whole = flops.forward_flops(dense)
    used = flops.forward_flops(model, density_of(model))
    method = {"gradient": "rigl", "random": "set"}.get(growth, "dense")
    sample = flops.training_flops_per_sample(
        whole, used, method, update_interval=update_interval
    )
    reference = flops.training_flops_per_sample(whole, whole, "dense")
    return {
        "parameters": active_parameters(model),
        "inference_flops": used / whole,
        "train_flops": sample * epochs / (reference * reference_epochs),
        "mac_cost": used / whole * epochs / reference_epochs,
    }


def relative_flops(dense, model):
    """Theoretical FLOPs of a prediction, relative to the dense network."""
    from keras_freetickets.inspection.units import density_of
    from keras_freetickets.metrics import flops

    used = flops.forward_flops(model, density_of(model))
    return used / flops.forward_flops(dense)


def flag_costs(dense, model, epochs, interval):
    """`costs` with the flags of the training scripts."""
    return costs(
        dense,
        model,
        epochs,
        FLAGS.reference_epochs,
        FLAGS.growth,
        interval,
    )


def member_rows(
    ensemble, data, ends, seconds, cost_of, apart=False, names=None
):
    """Rows of each ticket and of the ensemble.

    `ends` are the epochs after which the tickets were there; `seconds` those
    of each epoch of one run or, if the tickets were trained apart, of each
    run; `cost_of` gives the costs of a model after so many epochs.
    """
    labels = labels_of(data.test)
    rows = []
    for i, member in enumerate(ensemble.predict_members(data.test)):
        model = ensemble.member(i)
        cost = {**of_topology(model), **cost_of(model, ends[i])}
        spent = seconds[i] if apart else sum(seconds[: ends[i]])
        name = names[i] if names else f"ticket {i}"
        row = {"model": name, **scores(member, labels), **cost}
        rows.append({**row, "seconds": spent})
    add = sum if apart else max
    rows.append(
        {
            "model": "ensemble",
            **scores(ensemble.predict(data.test, verbose=0), labels),
            "sparsity": sum(row["sparsity"] for row in rows) / len(rows),
            "parameters": sum(row["parameters"] for row in rows),
            "inference_flops": sum(row["inference_flops"] for row in rows),
            "train_flops": add(row["train_flops"] for row in rows),
            "seconds": add(row["seconds"] for row in rows),
        }
    )
    return rows


def finish(rows, history, config):
    """Writes `metrics.json`, the sign that all is done; prints the table."""
    path = os.path.join(FLAGS.output_dir, "metrics.json")
    write_json(path, {"config": config, "rows": rows, "history": history})
    print(table(rows))
    print(f"Files: {FLAGS.output_dir}")


def write_ensemble(ensemble):
    """The ensemble and one ticket, for Keras and for TF Serving."""
    import keras_freetickets as kft

    folder = FLAGS.output_dir
    save(ensemble, os.path.join(folder, "ensemble.keras"))
    export(ensemble, os.path.join(folder, "saved_model"))
    ticket = ensemble.member(0)
    if isinstance(ticket, kft.SparseModel):
        ticket = kft.strip(ticket)
    export(ticket, os.path.join(folder, "saved_model_ticket"))


def draw(predictions, labels, ensemble, edst, history, reference=None):
    """Pictures of an EDST run, where matplotlib is installed."""
    import importlib.util

    import keras_freetickets as kft

    if importlib.util.find_spec("matplotlib") is None:
        print("No pictures: pip install matplotlib")
        return
    from keras_freetickets import plots

    folder = os.path.join(FLAGS.output_dir, "pictures")
    plots.learning_curve(
        history,
        edst.phases,
        os.path.join(folder, "learning_curve.png"),
        reference=reference,
    )
    plots.reliability_diagram(
        labels, predictions, os.path.join(folder, "reliability.png")
    )
    rows = kft.sparsity_summary(ensemble.member(0), print_fn=False)
    plots.density_per_layer(rows, os.path.join(folder, "density.png"))


def of_topology(model):
    """How sparse a model is, and how often its topology was updated."""
    return {
        "sparsity": 1.0 - model.density,
        "updates": int(model.update_state.update_count.numpy()),
    }


def active_parameters(model):
    """Weights in use: active ones of masked kernels, all of the others."""
    import numpy as np

    total = sum(int(np.prod(w.shape)) for w in model.trainable_variables)
    for record in getattr(model, "masked_kernels", []):
        total -= record.size - int(record.mask.numpy().sum())
    return total


def scores(probabilities, labels, num_classes=None):
    """Accuracy, negative log-likelihood and calibration error.

    Where there are more outputs than classes, the others are of the unknown
    (MOON): never the predicted class, but part of the distribution.
    """
    import numpy as np

    import keras_freetickets as kft

    ece = kft.metrics.ExpectedCalibrationError(num_bins=15)
    ece.update_state(labels, probabilities)
    nll = kft.metrics.negative_log_likelihood(labels, probabilities)
    predicted = probabilities[:, :num_classes].argmax(-1)
    return {
        "accuracy": float((predicted == labels).mean()),
        "nll": float(np.mean(nll)),
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
    ("sparsity", "sparsity", "{:.4f}"),
    ("updates", "topology updates", "{:,}"),
    ("parameters", "active parameters", "{:,}"),
    ("train_flops", "train FLOPs x dense", "{:.3f}"),
    ("inference_flops", "inference FLOPs x dense", "{:.3f}"),
    ("seconds", "seconds", "{:.1f}"),
]


def table(rows):
    """Rows of scores as text; of columns those that a row has."""
    columns = [
        column
        for column in _COLUMNS
        if any(row.get(column[0]) is not None for row in rows)
    ]
    cells = [[head for _, head, _ in columns]]
    for row in rows:
        cells.append(
            [
                "" if row.get(key) is None else form.format(row[key])
                for key, _, form in columns
            ]
        )
    note = (
        "FLOPs are theoretical (two a multiply-accumulate) and relative to "
        "the dense model; masks simulate sparsity."
    )
    return f"{aligned(cells)}\n{note}"


def aligned(cells):
    """Lines of cells as text of fixed width, the first one ruled off."""
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(r, widths)).rstrip() for r in cells
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)
