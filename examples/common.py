"""What the training scripts share: flags, directories, data, networks."""

import importlib.util
import json
import os
import runpy
import sys
import tempfile

from absl import app
from absl import flags

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


def _sparse_trainings():
    """What `keras_freetickets.recipes.sparse_training` takes.

    Read from its file: the package itself, and Keras with it, is imported
    only when the flags have been found right.
    """
    (folder,) = importlib.util.find_spec(
        "keras_freetickets"
    ).submodule_search_locations
    names = os.path.join(folder, "recipes", "sparse_training_names.py")
    return list(runpy.run_path(names)["SPARSE_TRAININGS"])


SPARSE_TRAININGS = _sparse_trainings()


def read_json(path):
    """Content of a JSON file, or `None`."""
    if not os.path.exists(path):
        return None
    with open(path) as file:
        return json.load(file)


def write_text(path, text):
    """Writes a file that is whole or not there, whenever it is killed."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(f"{path}.partial", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(f"{path}.partial", path)


def write_json(path, content):
    write_text(path, json.dumps(content, indent=2))


def no_arguments(argv):
    """Refuses arguments that are not flags, e.g. ones without dashes."""
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
        callbacks=[data.epoch_order(), *callbacks, backup],
    )
    return backup.history
