import numpy as np
import tensorflow as tf

from keras_freetickets.datasets import augmentations


def test_pad_crop_takes_a_window_of_the_padded_image():
    image = np.arange(16.0, dtype="float32").reshape(1, 4, 4, 1)
    padded = np.pad(image[0, ..., 0], 1, mode="reflect")
    windows = [
        padded[i : i + 4, j : j + 4].tolist()
        for i in range(3)
        for j in range(3)
    ]
    images = tf.constant(np.repeat(image, 200, axis=0))
    cropped = augmentations.pad_crop(images, 1, "REFLECT", tf.constant([1, 2]))
    found = [crop.tolist() for crop in cropped.numpy()[..., 0]]
    assert all(crop in windows for crop in found)
    assert all(window in found for window in windows)


def test_flip_mirrors_about_half():
    images = tf.constant(
        np.tile(np.array([[[1.0], [2.0]]]), (1000, 1, 1, 1)), tf.float32
    )
    first = augmentations.flip(images, tf.constant([1, 2]))[:, 0, 0, 0].numpy()
    assert set(first) == {1.0, 2.0}
    assert 400 < np.sum(first == 2.0) < 600
