"""Images in [0, 1], small networks for them, and training of these."""

import dataclasses
from typing import Any

import array_data
import keras
import numpy as np
import run_directory
from absl import flags

import keras_freetickets as kft
from keras_freetickets import distillation

FLAGS = flags.FLAGS
flags.DEFINE_string("dataset", "optdigits", "optdigits or images of TFDS.")
flags.DEFINE_integer("num_examples", None, "Real images, at most.", 1)
flags.DEFINE_integer("width", 32, "Channels of a network's convolutions.", 1)
flags.DEFINE_integer("depth", 2, "Convolutions; each halves the image.", 2)
flags.DEFINE_integer("images_per_class", 1, "Distilled images.", 1)
flags.DEFINE_integer("factor", 1, "Tiles a side of each image.", 1)
flags.DEFINE_integer("outer_steps", 4, "Networks drawn from the bank.", 1)
flags.DEFINE_integer("inner_steps", 20, "Steps on each network.", 1)
flags.DEFINE_float("learning_rate", 0.001, "Of the images.", 1e-9)
flags.DEFINE_integer(
    "train_examples", 256, "On which a network trains between steps.", 0
)
flags.DEFINE_bool("augment", True, "Colors, shifts and cutout while matching.")
flags.DEFINE_integer("bank_size", 5, "Networks in the bank.", 1)
flags.DEFINE_integer("bank_steps", 40, "Steps of training of each.", 1)
flags.DEFINE_integer(
    "train_steps", 300, "Steps of a network on a distilled set.", 1
)
flags.DEFINE_float("sparsity", 0.8, "Of sparse networks.", 0.0, 0.99)

BATCH = 64
RATE = 3e-3  # of Adam, on distilled images
BANK_RATE = 1e-3


@dataclasses.dataclass
class Images:
    """A data set, images in [0, 1].

    Attributes:
        train: Tuple of images and labels.
        validation: The same, for choices.
        test: The same, for scores alone.
        mean: Array, of each channel of training images.
        std: Array, the same.
        classes: Integer.
    """

    train: array_data.Pair
    validation: array_data.Pair
    test: array_data.Pair
    mean: np.ndarray
    std: np.ndarray
    classes: int

    def standardized(self, x: np.ndarray) -> np.ndarray:
        return ((x - self.mean) / self.std).astype("float32")

    def targets(self, y: np.ndarray) -> np.ndarray:
        return np.eye(self.classes, dtype="float32")[y]


def load(seed: int) -> Images:
    """Images as they are: in arrays, one random shift of each would stay."""
    with run_directory.naming(f"--dataset={FLAGS.dataset}"):
        data = kft.datasets.load(
            FLAGS.dataset,
            batch_size=512,
            num_examples=FLAGS.num_examples,
            seed=seed,
            data_dir=FLAGS.data_dir,
            augment="none",
        )

    def raw(batches: Any) -> array_data.Pair:
        x, y = array_data.arrays(batches)
        return np.clip(x * data.std + data.mean, 0, 1).astype("float32"), y

    return Images(
        train=raw(data.train),
        validation=raw(data.validation),
        test=raw(data.test),
        mean=np.asarray(data.mean, "float32"),
        std=np.asarray(data.std, "float32"),
        classes=data.num_classes,
    )


def network(images: Images, seed: int) -> keras.Model:
    """A convolutional network with instance normalization."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input(images.train[0].shape[1:])])
    for _ in range(FLAGS.depth):
        model.add(keras.layers.Conv2D(FLAGS.width, 3, padding="same"))
        model.add(keras.layers.GroupNormalization(groups=-1))
        model.add(keras.layers.ReLU())
        model.add(keras.layers.AveragePooling2D(2, padding="same"))
    model.add(keras.layers.Flatten())
    model.add(keras.layers.Dense(images.classes, activation="softmax"))
    return model


def batches(
    images: Images, x: np.ndarray, y: np.ndarray, steps: int, seed: int
) -> kft.curation.MixedBatches:
    """Epochs of so many steps; images in [0, 1] are standardized."""
    return kft.curation.MixedBatches(
        images.standardized(x),
        images.targets(y),
        batch_size=min(BATCH, max(2, len(x))),
        steps_per_epoch=steps,
        seed=seed,
    )


def compiled(model: keras.Model, rate: float, steps: int) -> keras.Model:
    model.compile(
        keras.optimizers.Adam(rate),
        "categorical_crossentropy",
        steps_per_execution=min(steps, 20),
    )
    return model


def dense_bank(images: Images, seed: int) -> distillation.NetworkBank:
    """Networks of different seeds, each trained for a few steps."""
    bank = distillation.NetworkBank()
    learner = Learner(images, BANK_RATE, FLAGS.bank_steps)
    for number in range(FLAGS.bank_size):
        bank.add(learner.train(*images.train, seed=1000 * seed + number))
    return bank


def sparse_bank(images: Images, seed: int) -> distillation.NetworkBank:
    """The first epochs of one sparse run: other masks in each."""
    steps = -(-FLAGS.bank_steps // 2)
    model = kft.sparsify(network(images, seed), FLAGS.sparsity, seed=seed)
    bank = distillation.NetworkBank()
    data = batches(images, *images.train, steps, seed)
    rigl = kft.callbacks.RigL(update_interval=max(1, steps // 2))
    compiled(model, BANK_RATE, 1).fit(
        data,
        epochs=FLAGS.bank_size,
        callbacks=[rigl, data.epoch_order(), bank.collector()],
        verbose=0,
    )
    return bank


class Learner:
    """Trains networks one after the other; compiled once.

    Args:
        images: `Images` that say what networks look like.
        rate: Float, the learning rate of Adam.
        steps: Integer, the length of a training.
    """

    def __init__(self, images: Images, rate: float, steps: int) -> None:
        self.images, self.steps = images, steps
        self.model = compiled(network(images, 0), rate, steps)
        self.model.optimizer.build(self.model.trainable_variables)
        self._slots = [
            keras.ops.convert_to_numpy(one)
            for one in self.model.optimizer.variables
        ]

    def train(self, x: np.ndarray, y: np.ndarray, seed: int) -> keras.Model:
        """A new network, trained; it lasts until the next call."""
        fresh = network(self.images, seed)
        self.model.set_weights(fresh.get_weights())
        for slot, value in zip(
            self.model.optimizer.variables, self._slots, strict=True
        ):
            slot.assign(value)
        data = batches(self.images, x, y, self.steps, seed)
        self.model.fit(data, epochs=1, verbose=0)
        return self.model


def predictions(
    images: Images, model: keras.Model, x: np.ndarray
) -> np.ndarray:
    return model.predict(images.standardized(x), batch_size=512, verbose=0)


def matching(
    images: Images, seed: int, **settings: Any
) -> distillation.GradientMatching:
    """The settings of the flags, but for those that are given."""
    augment = distillation.SharedAugmentation() if FLAGS.augment else None
    from_flags: dict[str, Any] = {
        "images_per_class": FLAGS.images_per_class,
        "factor": FLAGS.factor,
        "outer_steps": FLAGS.outer_steps,
        "inner_steps": FLAGS.inner_steps,
        "learning_rate": FLAGS.learning_rate,
        "train_examples": FLAGS.train_examples,
        "augmentation": augment,
        "batch_size": BATCH,
        "mean": images.mean,
        "std": images.std,
        "seed": seed,
    }
    return distillation.GradientMatching(**(from_flags | settings))
