"""The 15 corruptions of CIFAR-10-C, applied to clean images.

For 32x32 color images the parameters are those of the public code of
CIFAR-10-C (hendrycks/robustness, ImageNet-C/create_c/make_cifar_c.py). Lengths
scale with the height, mainly for 28x28 gray images. The implementation is our
own and uses NumPy, and TensorFlow for JPEG. The noise of an image depends only
on (seed, corruption, index of the image) and is the same at all severities, so
the result does not depend on the batches.

Differences from the published files: pixels are rounded and not truncated,
random numbers differ, and frost is drawn because we do not ship photographs.
Use these images to compare models with each other, not with figures for
CIFAR-10-C. TFDS has the published files as `cifar10_corrupted`.
"""

import functools
from typing import Any

import numpy as np

from keras_freetickets.arguments import check_choice
from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import is_integer
from keras_freetickets.datasets import distortions
from keras_freetickets.optional import tensorflow as tf
from keras_freetickets.types import Tensor

CORRUPTIONS = tuple(distortions.DISTORTIONS)
_PARALLEL_CALLS = 2


def corrupt(
    images: Tensor,
    corruption: str,
    severity: int,
    seed: int = 0,
    first_index: int = 0,
) -> np.ndarray:
    """Corrupts images.

    Args:
        images: Array of uint8 `(images, height, width, channels)`, square,
            with sides of 16 pixels or more and 1 or 3 channels.
        corruption: String, one of `CORRUPTIONS`.
        severity: Integer from 1 to 5.
        seed: Non-negative integer.
        first_index: Integer, the index of the first image in its dataset; the
            noise of an image depends on its index.

    Returns:
        Array of uint8 of the same shape.

    Raises:
        ValueError: If an argument is out of range, or the images have the
            wrong shape or type.

    Example:

    ```python
    foggy = corrupt(x_test, "fog", severity=3)
    ```

    Reference:
        Hendrycks and Dietterich, 2019, arXiv:1903.12261.
    """
    check_corruption(corruption, severity, seed)
    images = np.asarray(images)
    _check_images(images)
    if not len(images):
        return images
    function, levels = distortions.DISTORTIONS[corruption]
    number = CORRUPTIONS.index(corruption)
    draw = distortions.Draw(
        (seed, number, first_index + i) for i in range(len(images))
    )
    clean = images.astype("float32") / 255
    corrupted = function(clean, levels[severity - 1], draw)
    corrupted = np.clip(corrupted, 0, 1) * 255
    return np.rint(corrupted).astype("uint8")


def corrupt_dataset(
    dataset: Any,
    corruption: str,
    severity: int,
    seed: int = 0,
    like: Any = None,
) -> Any:
    """Corrupts the images of a dataset of batches.

    Args:
        dataset: `tf.data.Dataset` of batches of images and labels, in a fixed
            order, such as `load_test` and `Datasets.test`.
        corruption: String, one of `CORRUPTIONS`.
        severity: Integer from 1 to 5.
        seed: Non-negative integer.
        like: `Datasets` whose mean and standard deviation standardized the
            images; the result is standardized in the same way. `None` for
            images of uint8, or floats in [0, 1].

    Returns:
        `tf.data.Dataset` of batches of the same shapes and types, the same
        each time it is read.

    Raises:
        ValueError: If an argument is out of range, or the images have the
            wrong shape.

    Example:

    ```python
    data = keras_freetickets.datasets.load("fashion_mnist")
    foggy = corrupt_dataset(data.test, "fog", severity=3, like=data)
    ensemble.evaluate(foggy)
    ```
    """
    check_corruption(corruption, severity, seed)
    images = dataset.element_spec[0]
    _check_shape(images.shape)
    mean, std = (0.0, 1.0) if like is None else (like.mean, like.std)
    mean, std = tf.constant(mean, tf.float32), tf.constant(std, tf.float32)

    def number(first, batch):
        count = tf.shape(batch[0], out_type=tf.int64)[0]
        return first + count, (first, batch)

    def change(first, batch):
        values = batch[0]
        if images.dtype != tf.uint8:
            values = tf.cast(values, tf.float32) * std + mean
        run = functools.partial(_run, corruption, severity, seed)
        values = tf.numpy_function(run, [values, first], tf.uint8)
        values = tf.ensure_shape(values, images.shape)
        if images.dtype != tf.uint8:
            values = (tf.cast(values, tf.float32) / 255 - mean) / std
            values = tf.cast(values, images.dtype)
        return (values, *batch[1:])

    numbered = dataset.scan(tf.constant(0, tf.int64), number)
    return numbered.map(change, num_parallel_calls=_PARALLEL_CALLS).prefetch(2)


def _run(corruption, severity, seed, images, first_index):
    if images.dtype != np.uint8:
        images = _as_pixels(images)
    return corrupt(images, corruption, severity, seed, int(first_index))


def _as_pixels(images):
    # Undoing the standardization is exact up to rounding.
    if not (images.min() >= -1e-3 and images.max() <= 1 + 1e-3):
        raise ValueError(
            "`dataset` must have images in [0, 1], or such images standardized "
            "with the mean and standard deviation of `like`. Received: images "
            f"that would be in [{images.min():.4g}, {images.max():.4g}]"
        )
    return np.rint(255 * np.clip(images, 0, 1)).astype("uint8")


def check_corruption(corruption: str, severity: int, seed: int = 0) -> None:
    """Raises unless the arguments name a corruption and a severity."""
    check_choice("corruption", corruption, sorted(CORRUPTIONS))
    if not is_integer(severity) or not 1 <= severity <= 5:
        raise ValueError(
            "`severity` must be an integer from 1 to 5. "
            f"Received: severity={severity!r}"
        )
    check_count("seed", seed, least=0)


def _check_images(images):
    if images.dtype != np.uint8:
        raise ValueError(
            "`images` must have the dtype uint8, from 0 to 255. "
            f"Received: images of {images.dtype}"
        )
    _check_shape(images.shape)


def _check_shape(shape):
    shape = tuple(shape)
    fits = (
        len(shape) == 4
        and None not in shape[1:]
        and shape[1] == shape[2] >= 16
        and shape[3] in (1, 3)
    )
    if not fits:
        raise ValueError(
            "Images must have the shape (images, size, size, 1 or 3) with a "
            f"size of 16 or more. Received: images of shape {shape}"
        )
