"""The data, network and training that the flags of a script describe."""

import os
from typing import Any

import keras
import run_directory
from absl import flags

import keras_freetickets as kft

FLAGS = flags.FLAGS
Shape = tuple[int, ...]
History = dict[str, list[Any]]

# Shape of an image, classes and training images.
_KNOWN: dict[str, tuple[Shape, int, int]] = {
    "optdigits": ((8, 8, 1), 10, 1433),
    "mnist": ((28, 28, 1), 10, 60_000),
    "fashion_mnist": ((28, 28, 1), 10, 60_000),
    "cifar10": ((32, 32, 3), 10, 50_000),
    "cifar100": ((32, 32, 3), 100, 50_000),
}


def load(seed: int | None = None, **kwargs: Any) -> kft.datasets.Datasets:
    """Loads --dataset; its order follows from the seed, by default --seed."""
    flag = f"--dataset={FLAGS.dataset} --data_dir={FLAGS.data_dir}"
    with run_directory.naming(flag):
        return kft.datasets.load(
            FLAGS.dataset,
            batch_size=FLAGS.batch_size,
            validation_fraction=FLAGS.validation_fraction,
            seed=FLAGS.seed if seed is None else seed,
            data_dir=FLAGS.data_dir,
            download=FLAGS.download,
            **kwargs,
        )


def known_shape(dataset: str) -> tuple[Shape, int, int]:
    """Image shape, classes and training images, without reading the data."""
    if dataset not in _KNOWN:
        raise SystemExit(
            f"--dry_run knows {sorted(_KNOWN)}, not --dataset={dataset}"
        )
    shape, classes, images = _KNOWN[dataset]
    return shape, classes, round(images * (1 - FLAGS.validation_fraction))


def steps(num_train: int, epochs: int = 1) -> int:
    """Optimizer updates in some epochs."""
    return -(-num_train // FLAGS.batch_size) * epochs


def network(
    input_shape: Shape, classes: int, seed: int | None = None
) -> keras.Model:
    """The dense network that the flags describe; the seed is by default --seed.

    Its weights follow from the seed.
    """
    keras.utils.set_random_seed(FLAGS.seed if seed is None else seed)
    return _network(input_shape, classes)


def mimo_body(
    input_shape: Shape, classes: int, members: int, seed: int
) -> keras.Model:
    """The network with the inputs and the logits of several members."""
    keras.utils.set_random_seed(seed)
    *size, channels = input_shape
    return _network(
        (*size, channels * members),
        classes * members,
        classifier_activation=None,
    )


def _network(input_shape: Shape, classes: int, **kwargs: Any) -> keras.Model:
    make = getattr(kft.applications, FLAGS.model)
    if FLAGS.model == "wide_resnet":
        kwargs |= {"depth": FLAGS.depth, "width": FLAGS.width}
    if FLAGS.model in ("small_cnn", "wide_resnet"):
        kwargs["weight_decay"] = FLAGS.weight_decay
    return make(input_shape=input_shape, classes=classes, **kwargs)


def sparse_network(
    input_shape: Shape, classes: int, **arguments: Any
) -> tuple[keras.Model, keras.Model]:
    """The dense network, and a sparse one of it whose table it prints."""
    dense = network(input_shape, classes)
    arguments = {
        "distribution": FLAGS.distribution,
        "storage": FLAGS.storage,
        **arguments,
    }
    model = kft.sparsify(dense, seed=FLAGS.seed, **arguments)
    kft.sparsity_summary(model)
    return dense, model


def compile_model(model: keras.Model) -> None:
    model.compile(
        keras.optimizers.SGD(FLAGS.learning_rate, FLAGS.momentum),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )


def step_decay(epochs: int) -> keras.callbacks.Callback:
    """A tenth of --learning_rate from 1/2 of the epochs on, again from 3/4."""
    factor = kft.recipes.step_decay(epochs)
    rate = FLAGS.learning_rate
    return keras.callbacks.LearningRateScheduler(lambda e: rate * factor(e))


def fit(
    model: keras.Model,
    data: kft.datasets.Datasets,
    epochs: int,
    callbacks: list[keras.callbacks.Callback],
    backup_name: str,
) -> History:
    """Trains, or resumes from the backup; returns the logs of all epochs."""
    backup = kft.callbacks.Backup(os.path.join(FLAGS.output_dir, backup_name))
    model.fit(
        data.train,
        validation_data=data.validation,
        epochs=epochs,
        shuffle=False,  # the pipeline does it
        verbose=FLAGS.verbose,
        callbacks=[data.epoch_order(), *callbacks, backup],
    )
    return backup.history
