"""Distilled sets as data sets of TFDS."""

import numpy as np
import pytest

from keras_freetickets.distillation import DistilledSet

pytest.importorskip("tensorflow_datasets")


def distilled(seed):
    images = np.random.default_rng(seed).random((3, 4, 4, 1))
    return DistilledSet(images, [2, 0, 1], factor=2)


def test_the_decoded_images_and_labels(tmp_path):
    from keras_freetickets.distillation.builder import Distilled

    builders = []
    for seed in (0, 1):
        distilled(seed).save(tmp_path / str(seed) / "set.npz")
        builder = Distilled(
            path=tmp_path / str(seed) / "set.npz", data_dir=tmp_path / "data"
        )
        builder.download_and_prepare()
        builders.append(builder)
    # In one directory, under one name: each is its own.
    for seed, builder in enumerate(builders):
        assert builder.info.features["label"].num_classes == 3
        found = list(
            builder.as_dataset(
                split="train", as_supervised=True
            ).as_numpy_iterator()
        )
        x, y = distilled(seed).decoded()
        assert len(found) == len(x) == 12
        order = sorted(range(12), key=lambda i: (y[i], x[i].tolist()))
        found.sort(key=lambda pair: (pair[1], pair[0].tolist()))
        for (image, label), i in zip(found, order, strict=True):
            np.testing.assert_array_equal(image, x[i])
            assert label == y[i]


def test_other_files_are_refused(tmp_path):
    from keras_freetickets.distillation.builder import Distilled

    with pytest.raises(FileNotFoundError):
        Distilled(path=tmp_path / "missing.npz", data_dir=tmp_path)
