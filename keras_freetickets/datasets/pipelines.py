"""Image classification datasets of TensorFlow Datasets as input pipelines.

The order and augmentation of an epoch depend only on (seed, epoch), so a run
that is killed and resumed sees the same batches as an uninterrupted one. Keras
uses the same pipeline for all epochs. The pipeline therefore reads the epoch
from a variable when the first batch of an epoch is requested. The callback of
`Datasets.epoch_order` sets the variable.
"""

import dataclasses
import math
import typing
from typing import Any

import keras
import numpy as np

from keras_freetickets.arguments import check_choice
from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import check_number
from keras_freetickets.arguments import is_integer
from keras_freetickets.datasets import augmentations
from keras_freetickets.datasets import sources
from keras_freetickets.optional import tensorflow as tf
from keras_freetickets.types import PathLike

# Mean and standard deviation of the channels, from the FreeTickets scripts.
_STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": (
        (0.50708, 0.48655, 0.44092),
        (0.26733, 0.25644, 0.27615),
    ),
}
_STATISTICS_EXAMPLES = 50_000
_SHUFFLE_BUFFER = 10_000
_PREFETCH = 2


@dataclasses.dataclass
class Datasets:
    """The splits of a dataset as batches of standardized images and labels.

    `load` returns it. The arguments are also the attributes.

    Args:
        name: String, name of the dataset.
        train: `tf.data.Dataset`, shuffled and augmented by (seed, epoch).
        validation: `tf.data.Dataset` in fixed order, or `None`.
        test: `tf.data.Dataset` in fixed order, or `None`.
        input_shape: Tuple, shape of one image.
        num_classes: Integer, number of classes.
        num_train: Integer, number of training examples.
        num_validation: Integer, number of validation examples.
        num_test: Integer, number of test examples.
        mean: Tuple, mean of each channel of images in [0, 1].
        std: Tuple, standard deviation of each channel.
        augmentation: `Augmentation` of the training images.
        epoch: `tf.Variable`, the epoch that decides the order and
            augmentation of `train`; the callback of `epoch_order` sets it.

    Example:

    ```python
    data = keras_freetickets.datasets.load("optdigits")
    model = build(data.input_shape, data.num_classes)
    model.fit(data.train, epochs=10, callbacks=[data.epoch_order()])
    ```
    """

    name: str
    train: typing.Any
    validation: typing.Any
    test: typing.Any
    input_shape: tuple
    num_classes: int
    num_train: int
    num_validation: int
    num_test: int
    mean: tuple
    std: tuple
    augmentation: augmentations.Augmentation
    epoch: typing.Any = dataclasses.field(repr=False)

    def epoch_order(self) -> Any:
        """Returns the callback that sets the epoch of `train`; pass it to fit.

        Without it every epoch has the order and augmentation of epoch 0.
        """
        return EpochOrder(self.epoch)


class EpochOrder(keras.callbacks.Callback):
    """Sets the epoch of a pipeline before its first batch is drawn."""

    def __init__(self, epoch: Any) -> None:
        super().__init__()
        self._epoch = epoch

    def on_epoch_begin(
        self, epoch: Any, logs: dict[str, Any] | None = None
    ) -> None:
        self._epoch.assign(epoch)


def _statistics(source, images):
    """Mean and standard deviation of the channels of images in [0, 1]."""
    if source.family in _STATISTICS:
        return _STATISTICS[source.family]
    total: Any = 0.0
    square: Any = 0.0
    pixels = 0
    images = settled(images.batch(1000))
    for batch, _ in images.as_numpy_iterator():
        batch = batch.reshape(-1, batch.shape[-1]) / 255.0
        total = total + batch.sum(axis=0)
        square = square + np.square(batch).sum(axis=0)
        pixels += len(batch)
    mean = total / pixels
    std = np.sqrt(np.maximum(square / pixels - np.square(mean), 0.0))
    # A constant channel is not scaled.
    std = np.where(std > 0.0, std, 1.0)
    return tuple(map(float, mean)), tuple(map(float, std))


def _standardize(images, mean, std):
    images = tf.cast(images, tf.float32) / 255.0
    return (images - tf.constant(mean, tf.float32)) / tf.constant(
        std, tf.float32
    )


def settled(dataset: Any) -> Any:
    """Disables options that make pipelines nondeterministic, or hang."""
    options = tf.data.Options()
    options.autotune.enabled = False
    options.deterministic = True
    return dataset.with_options(options)


def epoch_variable() -> Any:
    """The variable that tells a pipeline the epoch."""
    # On the CPU, where `tf.data` functions run.
    with tf.device("CPU:0"):
        return tf.Variable(0, dtype=tf.int64, trainable=False, name="epoch")


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The settings that the pipelines of a dataset share."""

    batch_size: int
    seed: int
    mean: tuple
    std: tuple
    augmentation: augmentations.Augmentation

    def evaluation(self, examples: Any) -> Any:
        """Batches in the order on disk."""
        batches = examples.batch(
            self.batch_size, num_parallel_calls=sources.PARALLEL_CALLS
        ).map(
            lambda images, labels: (self._standardized(images), labels),
            num_parallel_calls=sources.PARALLEL_CALLS,
        )
        return settled(batches.prefetch(_PREFETCH))

    def training(
        self, examples: Any, count: int, buffer: int, epoch: Any
    ) -> Any:
        """Batches in the order of (seed, epoch)."""
        batches = tf.data.Dataset.range(1).flat_map(
            lambda _: self._one_epoch(examples, buffer, epoch.read_value())
        )
        steps = math.ceil(count / self.batch_size)
        batches = batches.apply(tf.data.experimental.assert_cardinality(steps))
        return settled(batches.prefetch(_PREFETCH))

    def _one_epoch(self, examples, buffer, epoch):
        # In the function of `flat_map` this sets only the seed of its graph,
        # so that the order does not depend on the user's global seed. Any
        # number works except 0, with which `shuffle` accepts no tensor seed.
        tf.random.set_seed(1)
        key = tf.stack([tf.cast(self.seed, tf.int64), epoch])
        order = tf.random.stateless_uniform(
            [], key, minval=None, maxval=None, dtype=tf.int64
        )
        batches = examples.shuffle(
            buffer, seed=order, reshuffle_each_iteration=False
        ).batch(self.batch_size, num_parallel_calls=sources.PARALLEL_CALLS)
        return batches.enumerate().map(
            lambda index, batch: self._augmented(index, batch, key),
            num_parallel_calls=sources.PARALLEL_CALLS,
        )

    def _augmented(self, index, batch, key):
        images, labels = batch
        key = tf.random.experimental.stateless_fold_in(key, index)
        images = augmentations.augment(images, self.augmentation, key)
        return self._standardized(images), labels

    def _standardized(self, images):
        return _standardize(images, self.mean, self.std)


def _check(batch_size, validation_fraction=0.0, augment="none", seed=0):
    check_count("batch_size", batch_size)
    check_number("validation_fraction", validation_fraction, "[0, 1)")
    check_count("seed", seed, least=0)
    check_choice("augment", augment, augmentations.AUGMENTATIONS)


def load(
    name: str,
    batch_size: int = 128,
    validation_fraction: float = 0.1,
    seed: int = 0,
    data_dir: PathLike | None = None,
    augment: str = "auto",
    image_size: tuple[int, int] | None = None,
    download: bool = False,
    num_examples: int | None = None,
) -> Datasets:
    """Loads an image classification dataset of TensorFlow Datasets (TFDS).

    Images are standardized with the mean and standard deviation of each
    channel over the training examples (for datasets that do not fit into
    memory, over the first 50,000). CIFAR uses the values of the FreeTickets
    scripts.

    Args:
        name: Name of a TFDS dataset with images and one label each, or
            `"optdigits"`: 1,797 digits of 8x8 pixels from scikit-learn, which
            are prepared without a download.
        batch_size: Positive integer. Defaults to 128 (FreeTickets scripts).
        validation_fraction: Float in [0, 1), the share of the training
            examples, the last ones, used for validation if the dataset has no
            validation split. Defaults to 0.1 (the 5,000 images of CIFAR that
            the FreeTickets scripts hold out).
        seed: Non-negative integer. It and the epoch are the only sources of
            randomness.
        data_dir: Directory of prepared TFDS datasets. `None` for TFDS'
            default.
        augment: `"crop_flip"`: pad, crop at random, mirror half the images;
            `"crop"`: without mirroring; `"none"`; or `"auto"` (default):
            `"none"` for digits and letters, else `"crop_flip"`. The padding is
            an eighth of the height (CIFAR: 4), or a fourteenth for gray images
            (Fashion-MNIST: 2). It is filled by reflection, for CIFAR-100 with
            zeros.
        image_size: Tuple (height, width) to resize images to. `None` for
            their original size.
        download: Boolean, whether TFDS may download the dataset.
        num_examples: Positive integer, the number of training examples to
            use, the first ones. `None` for all.

    Returns:
        A `Datasets`. Pass its `epoch_order()` to the callbacks of `fit`.

    Raises:
        ValueError: If an argument is out of range, or the dataset is unknown,
            not prepared in `data_dir`, has no training split or has no images
            with labels.
        ImportError: If TensorFlow or TensorFlow Datasets is not installed.

    Example:

    ```python
    data = keras_freetickets.datasets.load("optdigits")
    model.fit(
        data.train,
        validation_data=data.validation,
        epochs=10,
        callbacks=[data.epoch_order()],
    )
    ```
    """
    _check(batch_size, validation_fraction, augment, seed)
    _check_num_examples(num_examples)
    source = sources.open_source(name, data_dir, download, image_size)
    sources.require(source, "train", "; `load_test` reads test splits alone")
    train_split, validation_split = sources.split_names(
        source, validation_fraction
    )
    examples = source.read(train_split)
    count = source.count(train_split)
    if num_examples is not None:
        count = min(count, num_examples)
        examples = examples.take(count)
    cached = source.fits_memory(train_split)
    # If images are cached, read all of them, so that this fills the cache.
    sample = examples if cached else examples.take(_STATISTICS_EXAMPLES)
    mean, std = _statistics(source, sample)
    augmentation = augmentations.choose_augmentation(augment, source)
    plan = _Plan(batch_size, seed, mean, std, augmentation)
    epoch = epoch_variable()
    buffer = count if cached else _SHUFFLE_BUFFER
    validation, num_validation = _evaluation(plan, source, validation_split)
    test, num_test = _evaluation(plan, source, "test")
    return Datasets(
        name=name,
        train=plan.training(examples, count, buffer, epoch),
        validation=validation,
        test=test,
        input_shape=source.input_shape,
        num_classes=source.num_classes,
        num_train=count,
        num_validation=num_validation,
        num_test=num_test,
        mean=mean,
        std=std,
        augmentation=augmentation,
        epoch=epoch,
    )


def _evaluation(plan, source, split):
    """Batches of a split and its number of examples, or `(None, 0)`."""
    if split is None or not source.has(split.partition("[")[0]):
        return None, 0
    return plan.evaluation(source.read(split)), source.count(split)


def _check_num_examples(number):
    if number is not None and (not is_integer(number) or number < 1):
        raise ValueError(
            "`num_examples` must be a positive integer or None. "
            f"Received: num_examples={number}"
        )


def load_test(
    name: str,
    like: Any = None,
    batch_size: int = 128,
    data_dir: PathLike | None = None,
    image_size: tuple[int, int] | None = None,
    download: bool = False,
) -> Any:
    """Loads the test split of a dataset, e.g. as out-of-distribution data.

    Args:
        name: Name of the dataset, as for `load`.
        like: `Datasets` that the model was trained on; its mean and standard
            deviation standardize the images. `None` for those of the images
            themselves.
        batch_size: Positive integer. Defaults to 128, as for `load`.
        data_dir: Directory of prepared TFDS datasets. `None` for TFDS'
            default.
        image_size: Tuple (height, width) to resize images to. `None` for
            their original size.
        download: Boolean, whether TFDS may download the dataset.

    Returns:
        A `tf.data.Dataset` of batches in the order on disk.

    Raises:
        ValueError: If the dataset is unknown, not prepared or has no test
            split, or its images have a different number of channels from
            those of `like`.
        ImportError: If TensorFlow or TensorFlow Datasets is not installed.

    Example:

    ```python
    data = keras_freetickets.datasets.load("fashion_mnist")
    strange = keras_freetickets.datasets.load_test("kmnist", like=data)
    ```
    """
    _check(batch_size)
    source = sources.open_source(name, data_dir, download, image_size)
    sources.require(source, "test", "")
    examples = source.read("test")
    if like is None:
        mean, std = _statistics(source, examples)
    else:
        mean, std = like.mean, like.std
    if len(mean) != source.input_shape[-1]:
        raise ValueError(
            "`like` must have the same number of channels as the images. "
            f"Received: {len(mean)} channels for {source.input_shape}"
        )
    plan = _Plan(batch_size, 0, mean, std, augmentations.Augmentation())
    return plan.evaluation(examples)
