import numpy as np
import pytest

tfds = pytest.importorskip("tensorflow_datasets")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="module")
def builder(data_dir):
    from keras_freetickets.datasets.optdigits import Optdigits

    builder = Optdigits(data_dir=data_dir)
    builder.download_and_prepare()
    return builder


def _arrays(builder, split):
    examples = list(builder.as_dataset(split=split).as_numpy_iterator())
    images = np.stack([example["image"] for example in examples])
    return images, np.array([example["label"] for example in examples])


def test_sizes_and_types(builder):
    images, labels = _arrays(builder, "train")
    assert images.shape == (1433, 8, 8, 1)
    assert images.dtype == np.uint8
    assert images.min() == 0 and images.max() == 255
    assert len(_arrays(builder, "test")[1]) == 364
    assert sorted(set(labels)) == list(range(10))


def test_splits_are_disjoint_and_hold_the_digits_of_scikit_learn(builder):
    from sklearn.datasets import load_digits

    images = np.concatenate(
        [_arrays(builder, split)[0] for split in ("train", "test")]
    )
    levels = np.rint(images.reshape(-1, 64) / 255 * 16)
    expected = load_digits().data
    assert sorted(map(tuple, levels)) == sorted(map(tuple, expected))


def test_split_is_stratified(builder):
    _, train = _arrays(builder, "train")
    _, test = _arrays(builder, "test")
    # One of five of each class, rounded up.
    total = np.bincount(train) + np.bincount(test)
    np.testing.assert_array_equal(np.bincount(test), -(-total // 5))


def test_known_to_tfds_by_name(builder, data_dir):
    loaded = tfds.load("optdigits", split="test", data_dir=data_dir)
    assert len(loaded) == 364
