"""Random augmentations of training images, each a function of a key."""

import dataclasses
from typing import Any

from keras_freetickets.optional import tensorflow as tf
from keras_freetickets.types import Tensor

AUGMENTATIONS = ("auto", "none", "crop", "crop_flip")
# Glyphs: a mirrored digit is a different sign, and glyphs are centered.
_GLYPHS = (
    "binarized_mnist",
    "emnist",
    "kmnist",
    "mnist",
    "mnist_corrupted",
    "omniglot",
    "optdigits",
    "svhn_cropped",
)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random augmentation of training images.

    Attributes:
        padding: Integer, pixels added on each side before a random crop.
        mode: `"REFLECT"` or `"CONSTANT"`, how the added pixels are filled.
        flip: Boolean, whether half the images are mirrored left to right.
    """

    padding: int = 0
    mode: str = "REFLECT"
    flip: bool = False


def choose_augmentation(augment: str, source: Any) -> Augmentation:
    """The augmentation for a name; `"auto"` depends on the dataset."""
    height, _, channels = source.input_shape
    # 4 of CIFAR's 32 pixels, 2 of Fashion-MNIST's 28.
    padding = max(1, height // 8) if channels > 1 else max(1, height // 14)
    if augment == "auto":
        glyphs = source.family in _GLYPHS
        augment = "none" if glyphs else "crop_flip"
    if augment == "none":
        return Augmentation()
    cifar100 = source.family == "cifar100"
    mode = "CONSTANT" if cifar100 else "REFLECT"
    return Augmentation(padding, mode, flip=augment == "crop_flip")


def pad_crop(images: Tensor, padding: int, mode: str, key: Any) -> Tensor:
    """Pads a batch and crops each image at a different place."""
    shape = tf.shape(images)
    sides = [[0, 0], [padding] * 2, [padding] * 2, [0, 0]]
    padded = tf.pad(images, sides, mode=mode)
    corners = tf.random.stateless_uniform(
        [2, shape[0], 1], key, 0, 2 * padding + 1, tf.int32
    )
    rows = corners[0] + tf.range(shape[1])
    columns = corners[1] + tf.range(shape[2])
    cropped = tf.gather(padded, rows, axis=1, batch_dims=1)
    cropped = tf.gather(cropped, columns, axis=2, batch_dims=1)
    return tf.ensure_shape(cropped, images.shape)


def flip(images: Tensor, key: Any) -> Tensor:
    shape = [tf.shape(images)[0], 1, 1, 1]
    mirrored = tf.random.stateless_uniform(shape, key) < 0.5
    return tf.where(mirrored, images[:, :, ::-1], images)


def augment(images: Tensor, augmentation: Augmentation, key: Any) -> Tensor:
    """Augments a batch of images with randomness from a key."""
    keys = tf.unstack(tf.random.experimental.stateless_split(key, 2))
    if augmentation.padding:
        images = pad_crop(
            images, augmentation.padding, augmentation.mode, keys[0]
        )
    return flip(images, keys[1]) if augmentation.flip else images
