"""Pairs and labelled images of which some are wrong."""

import dataclasses
from typing import Any

import array_data
import numpy as np
import run_directory
from absl import flags

from keras_freetickets import contrastive

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "dataset", "optdigits", ["optdigits", "fashion_mnist"], "The images."
)
flags.DEFINE_string("data_dir", None, "Where the prepared dataset is.")
flags.DEFINE_integer("num_examples", 1200, "Examples to train on.", 1)
flags.DEFINE_integer("num_test", 300, "Test examples.", 10)
flags.DEFINE_float("noise", 0.3, "Share of wrong examples.", 0.0, 0.9)
flags.DEFINE_integer("context", 8, "Tokens of a caption.", 1)

CLASSES = {
    "optdigits": "zero one two three four five six seven eight nine",
    "fashion_mnist": (
        "tshirt trouser pullover dress coat sandal shirt sneaker bag boot"
    ),
}
CAPTIONS = (
    "a picture of the {}",
    "this is a small {}",
    "here we see one {}",
    "{} on a dark background",
    "the {} in gray pixels",
    "someone drew a {}",
)
DOCUMENTS = (
    "the {} is next to the {}",
    "a {} and a small {}",
    "one {} looks like a {}",
    "here is a {} and here a {}",
)


@dataclasses.dataclass
class Examples:
    """Training examples of which some are wrong, and test examples.

    Attributes:
        x: Dict of arrays, or an array, of training inputs.
        y: Array of labels, some of them wrong, or `None` for pairs.
        wrong: Array of booleans, the training examples that are wrong; for the
            report.
        test_x: As `x`, without wrong examples.
        test_y: Array of the classes of the test images.
        calibration: Pair of images and right labels, that nothing trains on.
        documents: Array of tokens of unpaired documents.
        held_out: Array of tokens of documents that nothing trains on.
        vocabulary: The words of captions and documents.
    """

    x: Any
    y: np.ndarray | None
    wrong: np.ndarray
    test_x: Any
    test_y: np.ndarray
    calibration: tuple[np.ndarray, np.ndarray]
    documents: np.ndarray
    held_out: np.ndarray
    vocabulary: contrastive.Vocabulary


def load(task: str, seed: int) -> Examples:
    """The examples of a task, made of the images of --dataset."""
    images, labels = _images(seed)
    train, held, test = _parts(len(labels))
    generator = np.random.default_rng((seed, 1))
    wrong = _chosen(generator, len(labels[train]))
    vocabulary, documents, held_out = _documents(generator)
    y = None
    x: Any
    test_x: Any
    if task == "labels":
        x, test_x = images[train], images[test]
        y = labels[train].copy()
        classes = labels.max() + 1
        shift = generator.integers(1, classes, len(y))
        y[wrong] = ((y + shift) % classes)[wrong]
    else:
        right = _right_sides(task, images, labels, vocabulary, generator)
        x = {name: one[train].copy() for name, one in right.items()}
        test_x = {name: one[test] for name, one in right.items()}
        places = np.flatnonzero(wrong)
        # A cycle, so that none of them gets its own partner.
        x["text"][places] = x["text"][np.roll(places, 1)]
    return Examples(
        x,
        y,
        wrong,
        test_x,
        labels[test],
        (images[held], labels[held]),
        documents,
        held_out,
        vocabulary,
    )


def _right_sides(
    task: str,
    images: np.ndarray,
    labels: np.ndarray,
    vocabulary: contrastive.Vocabulary,
    generator: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Both sides of right pairs; what stands for the text is the left half."""
    if task == "halves":
        middle = images.shape[2] // 2
        return {"text": images[:, :, :middle], "image": images[:, :, middle:]}
    names = CLASSES[FLAGS.dataset].split()
    templates = generator.integers(0, len(CAPTIONS), len(labels))
    captions = [
        CAPTIONS[i].format(names[label])
        for i, label in zip(templates, labels, strict=True)
    ]
    with run_directory.naming(f"--context={FLAGS.context}"):
        tokens = vocabulary.encode(captions, FLAGS.context)
    return {"text": tokens, "image": images}


def _documents(
    generator: np.random.Generator,
) -> tuple[contrastive.Vocabulary, np.ndarray, np.ndarray]:
    """The words, and unpaired documents to train on and to hold out."""
    names = CLASSES[FLAGS.dataset].split()
    texts = [
        text.format(one, other)
        for text in DOCUMENTS
        for one in names
        for other in names
    ]
    captions = [text.format(name) for text in CAPTIONS for name in names]
    vocabulary = contrastive.Vocabulary([*texts, *captions])
    with run_directory.naming(f"--context={FLAGS.context}"):
        tokens = vocabulary.encode(texts, FLAGS.context)
    tokens = tokens[generator.permutation(len(tokens))]
    return vocabulary, tokens[100:], tokens[:100]


def _chosen(generator: np.random.Generator, count: int) -> np.ndarray:
    wrong = np.zeros(count, bool)
    wrong[generator.permutation(count)[: round(FLAGS.noise * count)]] = True
    return wrong


def _parts(count: int) -> tuple[slice, slice, slice]:
    """Places of training, calibration and test images."""
    held = FLAGS.num_examples + 200
    if held + FLAGS.num_test > count:
        raise SystemExit(
            f"--dataset={FLAGS.dataset} has {count} images, fewer than "
            f"--num_examples={FLAGS.num_examples}, 200 for a temperature and "
            f"--num_test={FLAGS.num_test}"
        )
    return (
        slice(0, FLAGS.num_examples),
        slice(FLAGS.num_examples, held),
        slice(held, held + FLAGS.num_test),
    )


def _images(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """All images, in an order of the seed, and their classes."""
    data = array_data.load(FLAGS.dataset, 0)
    parts = (data.train, data.validation, data.test)
    images, labels = (
        np.concatenate([part[i] for part in parts]) for i in (0, 1)
    )
    order = np.random.default_rng(seed).permutation(len(labels))
    return images[order], labels[order].astype(int)
