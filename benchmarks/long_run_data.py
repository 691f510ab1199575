"""Image sets for long runs, whole in memory; and the seconds computed."""

import dataclasses
import functools
import time
import typing

import keras
import numpy as np

from keras_freetickets import datasets


@dataclasses.dataclass(frozen=True)
class Images:
    """The splits of a set: pairs of standardized images and labels.

    Attributes:
        train: Pair of arrays.
        validation: Pair of arrays, the last tenth of the training images.
        test: Pair of arrays.
        augmentation: `Augmentation` of the training images.
    """

    train: tuple
    validation: tuple
    test: tuple
    augmentation: typing.Any

    def batches(self, batch_size, seed):
        """Training images, but for those that fill no batch."""
        return datasets.from_arrays(
            *self.train,
            batch_size,
            seed,
            drop_remainder=True,
            augmentation=self.augmentation,
        )


@functools.cache
def load(name, augment, num_examples=None, data_dir=None):
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
        tuple(np.concatenate(part) for part in zip(*batches, strict=True))
        for batches in (
            list(split.as_numpy_iterator())
            for split in (found.train, found.validation, found.test)
        )
    ]
    return Images(*splits, loaded(augment).augmentation)


class ProcessSeconds(keras.callbacks.Callback):
    """Logs the seconds that all threads of this process computed."""

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.process_time()

    def on_epoch_end(self, epoch, logs=None):
        logs["process_seconds"] = time.process_time() - self._start
