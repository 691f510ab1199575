"""Tiles, collages and files of distilled sets."""

import keras
import numpy as np
import pytest

from keras_freetickets import distillation
from keras_freetickets.distillation import DistilledSet


def images(count=6, size=(6, 12), channels=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((count, *size, channels)).astype("float32")


def test_four_tiles_of_each_image_with_its_label():
    x = images(3)
    decoded, labels = DistilledSet(x, [5, 0, 2], factor=2).decoded()
    assert decoded.shape == (12, 6, 12, 2)
    assert labels.tolist() == [5] * 4 + [0] * 4 + [2] * 4
    tiles = [x[:, :3, :6], x[:, :3, 6:], x[:, 3:, :6], x[:, 3:, 6:]]
    for i, tile in enumerate(tiles):
        large = keras.ops.image.resize(
            tile, (6, 12), data_format="channels_last"
        )
        np.testing.assert_allclose(
            decoded[i::4], keras.ops.convert_to_numpy(large), atol=1e-6
        )


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_means_stay(factor):
    """A constant tile stays constant, whatever is beside it."""
    small = np.arange(2 * factor**2, dtype="float32").reshape(2, factor, factor)
    x = np.kron(small, np.ones((4, 4), "float32"))[..., None] / 20
    decoded, labels = DistilledSet(x, [1, 0], factor).decoded()
    assert len(decoded) == len(labels) == 2 * factor**2
    wanted = np.broadcast_to(small.reshape(-1, 1, 1, 1) / 20, decoded.shape)
    np.testing.assert_allclose(decoded, wanted, rtol=1e-6)


def test_a_collage_shows_as_many_real_images():
    x = np.repeat(np.linspace(0, 1, 16), 36).reshape(16, 6, 6, 1)
    y = np.repeat([0, 1], 8)
    start = distillation.real_start(x, y, images_per_class=2, factor=2, seed=3)
    assert start.labels.tolist() == [0, 0, 1, 1]
    decoded, labels = start.decoded()
    found = decoded.mean(axis=(1, 2, 3))
    # Each real image is there once, and in its class.
    np.testing.assert_allclose(np.sort(found), x[:, 0, 0, 0], atol=1e-6)
    assert (labels == (found > 0.5)).all()


def test_random_real_images_come_by_seed():
    x, y = images(40), np.arange(40) % 4
    first, again, other = (
        distillation.real_start(x, y, 3, seed=seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.images, again.images)
    assert (first.images != other.images).any()
    for image, label in zip(first.images, first.labels, strict=True):
        (place,) = np.flatnonzero((x == image).all(axis=(1, 2, 3)))
        assert y[place] == label


def test_save_and_load(tmp_path):
    distilled = DistilledSet(images(4), [3, 1, 0, 1], factor=3)
    path = tmp_path / "set.npz"
    distilled.save(path)
    again = DistilledSet.load(path)
    np.testing.assert_array_equal(again.images, distilled.images)
    np.testing.assert_array_equal(again.labels, distilled.labels)
    assert again.factor == 3 and again.images.dtype == "float32"
    with np.load(path, allow_pickle=False) as plain:
        assert set(plain) == {"images", "labels", "factor"}


def test_files_of_something_else(tmp_path):
    with pytest.raises(ValueError, match=r"must end in '\.npz'"):
        DistilledSet(images(1), [0]).save(tmp_path / "set.json")
    with pytest.raises(FileNotFoundError):
        DistilledSet.load(tmp_path / "missing.npz")
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", images=images(1))
    for name in ("text.npz", "other.npz"):
        with pytest.raises(ValueError, match="file with the arrays"):
            DistilledSet.load(tmp_path / name)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"images": np.zeros((2, 4, 4))}, "`images` must be images"),
        ({"images": images(2) + 1}, r"`images` must be in \[0, 1\]"),
        ({"images": np.full((2, 6, 6, 1), np.nan)}, r"in \[0, 1\]"),
        ({"labels": [0, 1, 2]}, "for each of the 2 images"),
        ({"labels": [0.0, 1.0]}, "a class, an integer"),
        ({"labels": [0, -1]}, "integer from 0"),
        ({"factor": 4}, "`factor` must divide"),
        ({"factor": 0}, "`factor` must be a positive integer"),
    ],
)
def test_arrays_that_do_not_fit(change, message):
    arguments = {"images": images(2), "labels": [0, 1], "factor": 2, **change}
    with pytest.raises(ValueError, match=message):
        DistilledSet(**arguments)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"y": np.repeat([0, 2], 10)}, "without an example of class 1"),
        ({"images_per_class": 11}, "more distilled images than real"),
        ({"images_per_class": 3, "factor": 2}, "10 of class 0"),
        ({"factor": 5}, "`factor` must divide"),
        ({"images_per_class": 0}, "`images_per_class` must be a positive"),
        ({"y": np.zeros(3, int)}, "each of the 20 images"),
        ({"seed": -1}, "`seed` must be a non-negative"),
    ],
)
def test_wrong_data(change, message):
    arguments = {
        "x": images(20),
        "y": np.repeat([0, 1], 10),
        "images_per_class": 1,
        **change,
    }
    with pytest.raises(ValueError, match=message):
        distillation.real_start(**arguments)
