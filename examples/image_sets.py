"""The images of evaluate.py: known, corrupted and unknown ones."""

import dataclasses
from typing import Any

import classifiers
import numpy as np
import run_directory
from absl import flags

import keras_freetickets as kft

FLAGS = flags.FLAGS
# Standardized floats return to [0, 1] within rounding.
_ROUNDING = 1e-3


@dataclasses.dataclass
class Images:
    """Test images and their labels.

    Attributes:
        data: The dataset.
        x: Array `(examples, height, width, channels)`, standardized.
        pixels: The same images as uint8.
        labels: Array `(examples,)`.
    """

    data: Any
    x: np.ndarray
    pixels: np.ndarray
    labels: np.ndarray

    def standardized(self, pixels: np.ndarray) -> np.ndarray:
        values = (pixels / np.float32(255) - self.data.mean) / self.data.std
        return values.astype("float32")

    def corrupted(self, name: str, severities: tuple[int, ...]) -> np.ndarray:
        """Standardized images of a corruption, one severity after another."""
        if FLAGS.published_corruptions:
            made = [self._published(name, level) for level in severities]
            return np.concatenate(made)
        made = [
            kft.datasets.corrupt(self.pixels, name, level, FLAGS.seed)
            for level in severities
        ]
        return self.standardized(np.concatenate(made))

    def _published(self, name: str, severity: int) -> np.ndarray:
        flag = f"--published_corruptions --data_dir={FLAGS.data_dir}"
        with run_directory.naming(flag):
            batches = kft.datasets.load_corrupted(
                name,
                severity,
                like=self.data,
                batch_size=FLAGS.batch_size,
                data_dir=FLAGS.data_dir,
                download=FLAGS.download,
            )
        x, labels = read(flag, batches)
        if not np.array_equal(labels, self.labels):
            raise SystemExit(
                f"{flag} has other labels than the test images of "
                f"--dataset={FLAGS.dataset}"
            )
        return x


def load(shape: tuple[int, ...]) -> Images:
    """The test images of --dataset; refused if their shape is wrong."""
    height, width, _ = shape
    flag = f"--dataset={FLAGS.dataset}"
    with run_directory.naming(flag):
        data = kft.datasets.load(
            FLAGS.dataset,
            batch_size=FLAGS.batch_size,
            validation_fraction=FLAGS.validation_fraction,
            num_examples=FLAGS.num_examples,
            seed=FLAGS.seed,
            data_dir=FLAGS.data_dir,
            image_size=(height, width) if FLAGS.resize else None,
            download=FLAGS.download,
        )
    check_shape(flag, data.input_shape, shape)
    x, labels = read(flag, data.test)
    return Images(data, x, as_pixels(flag, x, data), labels)


def check_shape(
    flag: str, shape: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    if tuple(shape) != tuple(wanted):
        advice = "" if FLAGS.resize else " (--resize changes height and width)"
        raise SystemExit(
            f"{flag} has images of shape {tuple(shape)} and --model takes "
            f"{tuple(wanted)}{advice}"
        )


def read(flag: str, batches: Any) -> tuple[np.ndarray, np.ndarray]:
    """The first images and labels of a dataset as arrays."""
    images, labels, count = [], [], 0
    for x, y in [] if batches is None else batches.as_numpy_iterator():
        images.append(x)
        labels.append(y)
        count += len(x)
        if FLAGS.limit and count >= FLAGS.limit:
            break
    if not count:
        raise SystemExit(f"{flag} has no test images")
    first = slice(FLAGS.limit)
    return np.concatenate(images)[first], np.concatenate(labels)[first]


def as_pixels(flag: str, x: np.ndarray, data: Any) -> np.ndarray:
    """Standardized images as uint8."""
    values = x * np.float32(data.std) + np.float32(data.mean)
    low, high = values.min(), values.max()
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
        raise SystemExit(
            f"{flag} must have pixels from 0 to 255, and has them from "
            f"{255 * low:.4g} to {255 * high:.4g}"
        )
    return np.rint(255 * values.clip(0, 1)).astype("uint8")


def check_labels(
    labels: np.ndarray, networks: list[classifiers.Network]
) -> None:
    """Refuses labels that a model cannot predict, and those of one class."""
    flag = f"--dataset={FLAGS.dataset}"
    for network in networks:
        (classes,) = network.output_shape
        if labels.min() < 0 or labels.max() >= classes:
            raise SystemExit(
                f"{flag} has labels from {labels.min()} to {labels.max()}, "
                f"and {network.flag} predicts {classes} classes"
            )
    if len(np.unique(labels)) < 2:
        raise SystemExit(
            f"{flag} --limit={FLAGS.limit} has test images of one class only, "
            f"{labels[0]}; two or more are needed"
        )


def load_unknown(name: str, images: Images) -> np.ndarray:
    """Images of no known class: of another dataset, or noise."""
    if name == "noise":
        # As FreeTickets: normal, mean 1/2, deviation 1/4, clipped.
        generator = np.random.default_rng(FLAGS.seed)
        noise = generator.normal(0.5, 0.25, images.pixels.shape).clip(0, 1)
        return images.standardized(np.rint(255 * noise))
    flag = f"--ood={name}"
    shape = images.x.shape[1:]
    with run_directory.naming(flag):
        batches = kft.datasets.load_test(
            name,
            like=images.data,
            batch_size=FLAGS.batch_size,
            data_dir=FLAGS.data_dir,
            image_size=shape[:2] if FLAGS.resize else None,
            download=FLAGS.download,
        )
    check_shape(flag, batches.element_spec[0].shape[1:], shape)
    return read(flag, batches)[0]


def chosen_corruptions(pixels: np.ndarray) -> list[str]:
    """The corruptions of --corruptions; refused if they do not fit."""
    names = FLAGS.corruptions
    if FLAGS.published_corruptions and not names:
        raise SystemExit(
            "--published_corruptions needs --corruptions: names of them, or all"
        )
    names = kft.datasets.CORRUPTIONS if names == ["all"] else names
    for name in names:
        with run_directory.naming(f"--corruptions={name}"):
            kft.datasets.corrupt(pixels[:1], name, 1)
    return list(names)
