import sys

import keras
import numpy as np
import pytest

from keras_freetickets import datasets
from keras_freetickets.datasets.augmentations import Augmentation

tfds = pytest.importorskip("tensorflow_datasets")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


def _load(data_dir, **kwargs):
    return datasets.load("optdigits", data_dir=data_dir, **kwargs)


def _epoch(data, epoch):
    """All images and labels of an epoch, in order."""
    data.epoch_order().on_epoch_begin(epoch)
    batches = list(data.train.as_numpy_iterator())
    return [np.concatenate(part) for part in zip(*batches, strict=True)]


def test_sizes(data_dir):
    data = _load(data_dir, batch_size=100)
    assert (data.num_train, data.num_validation) == (1290, 143)
    assert data.num_test == 364
    assert data.input_shape == (8, 8, 1)
    assert data.num_classes == 10
    assert int(data.train.cardinality()) == 13
    assert int(data.validation.cardinality()) == 2
    assert len(_epoch(data, 0)[1]) == 1290


def test_validation_is_the_last_part(data_dir):
    data = _load(data_dir, validation_fraction=0.25)
    split = tfds.load("optdigits", split="train", data_dir=data_dir)
    labels = [int(example["label"]) for example in split]
    kept = data.num_train
    assert kept == 1433 - 358
    found = np.concatenate([y for _, y in data.validation.as_numpy_iterator()])
    np.testing.assert_array_equal(found, labels[kept:])
    assert sorted(_epoch(data, 3)[1]) == sorted(labels[:kept])


def test_no_validation(data_dir):
    data = _load(data_dir, validation_fraction=0.0)
    assert data.validation is None
    assert (data.num_train, data.num_validation) == (1433, 0)


def test_standardized_by_the_training_split(data_dir):
    images, _ = _epoch(_load(data_dir), 0)
    assert images.mean() == pytest.approx(0.0, abs=1e-4)
    assert images.std() == pytest.approx(1.0, abs=1e-4)


def test_order_is_that_of_seed_and_epoch(data_dir):
    first, second = _load(data_dir, seed=3), _load(data_dir, seed=3)
    keras.utils.set_random_seed(1)
    expected = _epoch(first, 2)
    keras.utils.set_random_seed(2)
    for left, right in zip(expected, _epoch(second, 2), strict=True):
        np.testing.assert_array_equal(left, right)


def test_order_differs_by_epoch_and_by_seed(data_dir):
    data = _load(data_dir, seed=3)
    _, labels = _epoch(data, 0)
    assert not np.array_equal(labels, _epoch(data, 1)[1])
    assert not np.array_equal(labels, _epoch(_load(data_dir, seed=4), 0)[1])


def test_augmentation_is_that_of_seed_and_epoch(data_dir):
    data = _load(data_dir, augment="crop_flip")
    images, labels = _epoch(data, 5)
    again, _ = _epoch(_load(data_dir, augment="crop_flip"), 5)
    np.testing.assert_array_equal(images, again)
    plain, same_labels = _epoch(_load(data_dir, augment="none"), 5)
    np.testing.assert_array_equal(labels, same_labels)
    assert not np.array_equal(images, plain)


def _fit(data, weights, initial_epoch, epochs):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    if weights is not None:
        model.set_weights(weights)
    # SGD has no state, so weights are all there is to resume.
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(
        data.train,
        validation_data=data.validation,
        initial_epoch=initial_epoch,
        epochs=epochs,
        verbose=0,
        callbacks=[data.epoch_order()],
    )
    return model.get_weights()


def test_resumed_fit_equals_the_uninterrupted_one(data_dir):
    def fresh():
        return _load(data_dir, augment="crop_flip", batch_size=256)

    first = _fit(fresh(), None, 0, 1)
    whole = _fit(fresh(), first, 1, 4)
    part = _fit(fresh(), first, 1, 2)
    resumed = _fit(fresh(), part, 2, 4)
    for left, right in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(left, right)


class _Images(tfds.core.GeneratorBasedBuilder):
    """Colour images of 32x32, as CIFAR's."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos = {}
    splits = {"train": 20, "validation": 4, "test": 4}

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(32, 32, 3)),
                    "label": tfds.features.ClassLabel(num_classes=2),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {
            name: self._generate_examples(n) for name, n in self.splits.items()
        }

    def _generate_examples(self, count):
        generator = np.random.default_rng(count)
        for index in range(count):
            image = generator.integers(256, size=(32, 32, 3), dtype=np.uint8)
            yield index, {"image": image, "label": index % 2}


class ColourImages(_Images):
    """Has a validation split of its own."""


class TestImages(_Images):
    """Has a test split only."""

    __test__ = False
    splits = {"test": 4}


@pytest.fixture(scope="module")
def prepared(data_dir):
    for builder in (ColourImages, TestImages):
        builder(data_dir=data_dir).download_and_prepare()
    return data_dir


def test_colour_images_are_padded_cropped_and_flipped(prepared):
    data = datasets.load("colour_images", data_dir=prepared, batch_size=8)
    assert data.augmentation == Augmentation(4, "REFLECT", True)
    assert _epoch(data, 0)[0].shape == (20, 32, 32, 3)
    assert len(data.mean) == 3


def test_validation_split_of_the_set_is_used(prepared):
    data = datasets.load("colour_images", data_dir=prepared)
    assert (data.num_train, data.num_validation, data.num_test) == (20, 4, 4)


def test_image_size(prepared):
    data = datasets.load(
        "colour_images", data_dir=prepared, image_size=(16, 24)
    )
    assert data.input_shape == (16, 24, 3)
    assert _epoch(data, 0)[0].shape == (20, 16, 24, 3)


def test_test_split_alone(prepared):
    like = datasets.load("colour_images", data_dir=prepared)
    test = datasets.load_test("test_images", like, data_dir=prepared)
    images = np.concatenate([x for x, _ in test.as_numpy_iterator()])
    raw = tfds.load("test_images", split="test", data_dir=prepared)
    raw = np.stack([example["image"] for example in raw.as_numpy_iterator()])
    expected = (raw / 255.0 - like.mean) / like.std
    np.testing.assert_allclose(images, expected, atol=1e-5)
    with pytest.raises(ValueError, match="must have a split 'train'"):
        datasets.load("test_images", data_dir=prepared)
    with pytest.raises(ValueError, match="the same number of channels"):
        datasets.load_test("optdigits", like, data_dir=prepared)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be"),
        ({"batch_size": "x"}, "`batch_size` must be"),
        ({"validation_fraction": "x"}, "`validation_fraction` must be"),
        ({"seed": -1}, "`seed` must be a non-negative integer"),
        ({"seed": "x"}, "`seed` must be a non-negative integer"),
        ({"validation_fraction": 1.0}, "`validation_fraction` must be"),
        ({"validation_fraction": 1e-6}, "`validation_fraction` must leave"),
        ({"augment": "flip"}, "`augment` must be one of"),
    ],
)
def test_bad_arguments_are_refused(data_dir, kwargs, message):
    with pytest.raises(ValueError, match=message):
        _load(data_dir, **kwargs)


def test_unknown_and_unprepared_sets_are_refused(data_dir):
    with pytest.raises(ValueError, match="`name` must be a dataset of"):
        datasets.load("no_such_set", data_dir=data_dir)
    with pytest.raises(ValueError, match="`name` must be a dataset of"):
        datasets.load(5, data_dir=data_dir)
    with pytest.raises(ValueError, match="not prepared in `data_dir`"):
        datasets.load("cifar10", data_dir=data_dir)
    with pytest.raises(ValueError, match="`data_dir` must be an existing"):
        datasets.load("cifar10", data_dir=data_dir / "nowhere")


def test_missing_tfds_names_the_extra(data_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match="pip install 'tensorflow-datasets"):
        _load(data_dir)
