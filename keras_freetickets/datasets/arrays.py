"""Batches of arrays, in an order that a resumed run sees again."""

import dataclasses
import typing
from typing import Any

import numpy as np

from keras_freetickets.arguments import check_count
from keras_freetickets.datasets import augmentations
from keras_freetickets.datasets import pipelines
from keras_freetickets.optional import tensorflow as tf
from keras_freetickets.types import Tensor

_PREFETCH = 2


@dataclasses.dataclass
class Batches:
    """Arrays as batches, shuffled by (seed, epoch).

    What `from_arrays` returns. The arguments are the attributes.

    Args:
        dataset: `tf.data.Dataset` of pairs of examples and targets.
        num_steps: Number of batches of an epoch.
        epoch: `tf.Variable`, the number of the epoch whose order the dataset
            has; set by the callback of `epoch_order`.

    Example:

    ```python
    batches = keras_freetickets.datasets.from_arrays(x, y, seed=1)
    callbacks = [batches.epoch_order()]
    model.fit(batches.dataset, epochs=10, callbacks=callbacks)
    ```
    """

    dataset: typing.Any
    num_steps: int
    epoch: typing.Any = dataclasses.field(repr=False)

    def epoch_order(self) -> Any:
        """Returns the callback that tells the dataset the epoch.

        Without it every epoch has the order of epoch 0.
        """
        return pipelines.EpochOrder(self.epoch)


def from_arrays(
    x: Tensor,
    y: Tensor,
    batch_size: int = 128,
    seed: int = 0,
    drop_remainder: bool = False,
    augmentation: Any = None,
) -> Batches:
    """Makes batches of arrays, in another order each epoch.

    The order is a function of the seed and the epoch alone, so that a run
    which is killed and resumed sees the batches it would have seen (`fit`
    with arrays and `shuffle=True` does not). Batches are gathered by index,
    which takes less time than the pipelines of `load` where networks are
    small.

    Args:
        x: Array of examples, `(examples, ...)`.
        y: Array of targets, `(examples, ...)`.
        batch_size: Positive integer. Defaults to 128, that of the FreeTickets
            scripts.
        seed: Non-negative integer. Defaults to 0.
        drop_remainder: Boolean, whether to leave out the last examples of an
            order that fill no batch, other ones in each epoch. Defaults to
            `False`.
        augmentation: The `augmentation` of a `Datasets` for images that are
            to be changed as there, or `None` (default).

    Returns:
        A `Batches`.

    Raises:
        ValueError: If an argument is out of range, there are no examples or
            not as many targets.
        ImportError: If TensorFlow is not installed.

    Example:

    ```python
    batches = keras_freetickets.datasets.from_arrays(x, y, batch_size=32)
    callbacks = [batches.epoch_order(), backup]
    model.fit(batches.dataset, epochs=10, callbacks=callbacks)
    ```
    """
    check_count("batch_size", batch_size)
    check_count("seed", seed, least=0)
    x, y = np.asarray(x), np.asarray(y)
    count = len(x) if x.ndim else 0
    if not count or not y.ndim or len(y) != count:
        raise ValueError(
            "`x` and `y` must be arrays of as many examples. "
            f"Received: x of shape {x.shape}, y of shape {y.shape}"
        )
    steps = count // batch_size if drop_remainder else -(-count // batch_size)
    if not steps:
        raise ValueError(
            f"`batch_size` must be in [1, {count}], the number of examples, "
            "where the remainder is dropped. "
            f"Received: batch_size={batch_size}"
        )
    epoch = pipelines.epoch_variable()
    plan = _Plan(
        tf.constant(x),
        tf.constant(y),
        batch_size,
        seed,
        drop_remainder,
        augmentation or augmentations.Augmentation(),
    )
    dataset = tf.data.Dataset.range(1).flat_map(
        lambda _: plan.one_epoch(epoch.read_value())
    )
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps))
    return Batches(pipelines.settled(dataset.prefetch(_PREFETCH)), steps, epoch)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What the batches of all epochs have in common."""

    x: typing.Any
    y: typing.Any
    batch_size: int
    seed: int
    drop_remainder: bool
    augmentation: augmentations.Augmentation

    def one_epoch(self, epoch: Any) -> Any:
        key = tf.stack([tf.cast(self.seed, tf.int64), epoch])
        order = tf.random.experimental.stateless_shuffle(
            tf.range(len(self.x)), seed=key
        )
        chosen = tf.data.Dataset.from_tensor_slices(order).batch(
            self.batch_size, drop_remainder=self.drop_remainder
        )
        return chosen.enumerate().map(
            lambda index, rows: self._batch(index, rows, key)
        )

    def _batch(self, index, rows, key):
        examples = tf.gather(self.x, rows)
        if self.augmentation != augmentations.Augmentation():
            key = tf.random.experimental.stateless_fold_in(key, index)
            shape = examples.shape
            examples = augmentations.augment(examples, self.augmentation, key)
            examples = tf.ensure_shape(examples, shape)
        return examples, tf.gather(self.y, rows)
