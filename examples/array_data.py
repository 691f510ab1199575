"""Small data sets as arrays, for searches that look at all examples at once."""

import dataclasses
from typing import Any

import numpy as np
import run_directory
from absl import flags

import keras_freetickets as kft
from keras_freetickets.optional import import_optional

FLAGS = flags.FLAGS
Pair = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass
class Arrays:
    """Standardized inputs and integer labels.

    Attributes:
        train: Tuple of inputs `(examples, ...)` and labels `(examples,)`.
        validation: The same of examples for temperatures and selections.
        test: The same of examples that nothing else sees.
        num_classes: Integer.
    """

    train: Pair
    validation: Pair
    test: Pair
    num_classes: int


def iris(seed: int) -> Arrays:
    """Fisher's 150 flowers: 90 for training, 15 for validation, 45 to test."""
    data = import_optional("sklearn.datasets").load_iris()
    order = np.random.default_rng(seed).permutation(len(data.target))
    x, y = data.data[order], data.target[order]
    x = (x - x[:90].mean(axis=0)) / x[:90].std(axis=0)
    x = x.astype("float32")
    parts = slice(None, 90), slice(90, 105), slice(105, None)
    train, validation, test = ((x[part], y[part]) for part in parts)
    return Arrays(train, validation, test, num_classes=3)


def load(
    dataset: str, seed: int, num_examples: int | None = None, **settings: Any
) -> Arrays:
    """Iris, or the first images of a data set of `kft.datasets.load`.

    Images are as they are: in arrays, one random shift of each would stay.

    Args:
        dataset: "iris", or a name for `kft.datasets.load`.
        seed: Integer, of the order.
        num_examples: Integer, the first images to take; `None` for all.
        **settings: Further arguments of `kft.datasets.load`.
    """
    if dataset == "iris":
        return iris(seed)
    with run_directory.naming(f"--dataset={dataset}"):
        data = kft.datasets.load(
            dataset,
            batch_size=512,
            num_examples=num_examples,
            seed=seed,
            data_dir=FLAGS.data_dir,
            augment="none",
            **settings,
        )
    return Arrays(
        arrays(data.train),
        arrays(data.validation),
        arrays(data.test),
        num_classes=data.num_classes,
    )


def arrays(batches: Any) -> Pair:
    images, labels = zip(*batches.as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(labels)
