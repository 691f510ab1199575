"""Image sets for long runs: whole in memory, batches gathered by index.

The pipelines of `keras_freetickets.datasets` shuffle example by example,
which takes longer than a step of a small network. Here the order of an epoch
is a permutation by (seed, epoch), so that a resumed run sees the batches that
it would have seen; the last images of it, which fill no batch, are left out.
"""

import dataclasses
import functools
import time

import keras
import numpy as np
import tensorflow as tf

from keras_freetickets import datasets
from keras_freetickets.datasets import augmentations


@dataclasses.dataclass(frozen=True)
class Images:
    """The splits of a set: arrays of standardized images and of labels.

    Attributes:
        train: Pair of arrays.
        validation: Pair of arrays, the last tenth of the training images.
        test: Pair of arrays.
        augmentation: `Augmentation` of the training images.
    """

    train: tuple
    validation: tuple
    test: tuple
    augmentation: augmentations.Augmentation


@functools.cache
def load(name, augment="none", num_examples=None, data_dir=None):
    """Reads a set; the split of its training images is always the same."""

    def loaded(augment):
        return datasets.load(
            name,
            batch_size=1000,
            seed=0,
            augment=augment,
            num_examples=num_examples,
            data_dir=data_dir,
        )

    found = loaded("none")
    splits = [
        tuple(np.concatenate(part) for part in zip(*split, strict=True))
        for split in (
            list(one.as_numpy_iterator())
            for one in (found.train, found.validation, found.test)
        )
    ]
    return Images(*splits, loaded(augment).augmentation)


def batches(images, batch_size, seed):
    """The training data of one run, and the callback that tells the epoch."""
    x, y = (tf.constant(part) for part in images.train)
    steps = len(x) // batch_size
    with tf.device("CPU:0"):
        epoch = tf.Variable(0, dtype=tf.int64, trainable=False)

    def of_epoch(_):
        key = tf.stack([tf.cast(seed, tf.int64), epoch.read_value()])
        order = tf.random.experimental.stateless_shuffle(
            tf.range(len(x)), seed=key
        )
        order = tf.reshape(order[: steps * batch_size], (steps, batch_size))
        return (
            tf.data.Dataset.from_tensor_slices(order)
            .enumerate()
            .map(lambda index, chosen: _batch(index, chosen, key))
        )

    def _batch(index, chosen, key):
        key = tf.random.experimental.stateless_fold_in(key, index)
        taken = tf.gather(x, chosen)
        taken = augmentations.augment(taken, images.augmentation, key)
        return tf.ensure_shape(taken, (batch_size, *x.shape[1:])), tf.gather(
            y, chosen
        )

    data = tf.data.Dataset.range(1).flat_map(of_epoch)
    data = data.apply(tf.data.experimental.assert_cardinality(steps))
    options = tf.data.Options()
    options.autotune.enabled = False
    options.deterministic = True
    return data.prefetch(2).with_options(options), _Epoch(epoch), steps


class _Epoch(keras.callbacks.Callback):
    """Sets the epoch of the data before its first batch is drawn."""

    def __init__(self, epoch):
        super().__init__()
        self._epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch.assign(epoch)


class ProcessSeconds(keras.callbacks.Callback):
    """Logs the seconds that all threads of this process computed."""

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.process_time()

    def on_epoch_end(self, epoch, logs=None):
        logs["process_seconds"] = time.process_time() - self._start
