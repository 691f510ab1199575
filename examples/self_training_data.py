"""Few labelled images, many unlabelled ones, and foreign ones among these."""

import dataclasses
from typing import Any

import numpy as np
import run_directory
from absl import flags

from keras_freetickets import curation

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "dataset", "optdigits", ["optdigits", "fashion_mnist"], "The images."
)
flags.DEFINE_integer("labels_per_class", 6, "Labels to train on.", 1)
flags.DEFINE_integer("calibration_per_class", 5, "Labels for a temperature.", 1)
flags.DEFINE_integer("num_unlabelled", 10_000, "Most unlabelled images.", 1)
flags.DEFINE_integer("num_foreign", 4_000, "Most foreign images of these.", 0)
flags.DEFINE_string("data_dir", None, "Directory of TFDS data sets.")


@dataclasses.dataclass
class Images:
    """What a student may see, and what it is scored by.

    Attributes:
        x: Array of labelled images, in [0, 1].
        targets: Array of their labels, one-hot.
        calibration_x: Array of held-out images.
        calibration_y: Array of their labels.
        unlabelled: Array of unlabelled images, the foreign ones last.
        hidden: Array of their labels, -1 for foreign ones; for the report.
        test_x: Array of test images.
        test_y: Array of their labels.
        classes: Integer.
    """

    x: np.ndarray
    targets: np.ndarray
    calibration_x: np.ndarray
    calibration_y: np.ndarray
    unlabelled: np.ndarray
    hidden: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    classes: int

    def quality_of(self, chosen: curation.PseudoLabels) -> dict[str, float]:
        """What was selected: how many, foreign ones, right labels."""
        labels = self.hidden[chosen.indices]
        known = labels >= 0
        right = chosen.labels[known] == labels[known]
        return {
            "kept": len(chosen) / len(self.hidden),
            "foreign": float(np.mean(~known)) if len(chosen) else 0.0,
            "label_accuracy": float(np.mean(right)) if known.any() else 0.0,
        }


def load(seed: int) -> Images:
    """The images of --dataset, split by a seed."""
    made = _digits(seed) if FLAGS.dataset == "optdigits" else _fashion()
    x, y, foreign, test_x, test_y = made
    generator = np.random.default_rng(seed)
    with run_directory.naming(f"--dataset={FLAGS.dataset}"):
        split = curation.split_labels(
            y, FLAGS.labels_per_class, FLAGS.calibration_per_class, seed
        )
    count = min(FLAGS.num_foreign, FLAGS.num_unlabelled)
    foreign = foreign[generator.permutation(len(foreign))[:count]]
    rest = generator.permutation(split.unlabelled)
    rest = rest[: FLAGS.num_unlabelled - len(foreign)]
    if len(rest) + len(foreign) < FLAGS.batch_size:
        raise SystemExit(
            f"--num_unlabelled={FLAGS.num_unlabelled} leaves "
            f"{len(rest) + len(foreign)} images, fewer than a batch of "
            f"--batch_size={FLAGS.batch_size}"
        )
    classes = int(y.max()) + 1
    return Images(
        x[split.labelled],
        np.eye(classes, dtype="float32")[y[split.labelled]],
        x[split.calibration],
        y[split.calibration],
        np.concatenate([x[rest], foreign]),
        np.concatenate([y[rest], np.full(len(foreign), -1)]),
        test_x,
        test_y,
        classes,
    )


def _digits(seed: int) -> tuple[np.ndarray, ...]:
    """Classes 0 to 7; 8 and 9 are foreign; 400 test images."""
    from sklearn.datasets import load_digits

    found = load_digits()
    x, y = (found.images[..., None] / 16.0).astype("float32"), found.target
    known = np.flatnonzero(y < 8)
    known = np.random.default_rng(seed).permutation(known)
    test, rest = known[:400], known[400:]
    return x[rest], y[rest], x[y >= 8], x[test], y[test]


def _fashion() -> tuple[np.ndarray, ...]:
    """Fashion-MNIST; test images of MNIST and KMNIST are foreign."""
    x, y = _tfds("fashion_mnist", "train")
    test_x, test_y = _tfds("fashion_mnist", "test")
    foreign = [_tfds(name, "test")[0] for name in ("mnist", "kmnist")]
    return x, y, np.concatenate(foreign), test_x, test_y


def _tfds(name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    import tensorflow_datasets as tfds

    with run_directory.naming(f"--data_dir={FLAGS.data_dir}"):
        found: Any = tfds.load(
            name, split=split, data_dir=FLAGS.data_dir, batch_size=-1
        )
    arrays = tfds.as_numpy(found)
    images = (arrays["image"] / np.float32(255)).astype("float32")
    return images, arrays["label"]
