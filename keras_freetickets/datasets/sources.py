"""Prepared image classification datasets of TensorFlow Datasets on disk."""

import dataclasses
import math
import os
import typing
from typing import Any

from keras_freetickets.optional import import_optional
from keras_freetickets.optional import tensorflow as tf
from keras_freetickets.types import PathLike

# Decoded images up to this size are kept in memory and shuffled as a whole.
_CACHE_BYTES = 2**30
# Fixed, because autotuning of `tf.data` is off: on TensorFlow 2.21 it can hang.
PARALLEL_CALLS = 4


def _import_tfds():
    # TFDS can be imported without TensorFlow; the extra brings both.
    import_optional("tensorflow", extra="examples")
    tfds = import_optional("tensorflow_datasets")
    # Datasets are prepared without progress bars.
    tfds.disable_progress_bar()
    return tfds


def _optdigits_builder(data_dir):
    tfds = _import_tfds()
    from keras_freetickets.datasets.optdigits import Optdigits

    builder = Optdigits(data_dir=data_dir)
    # TFDS writes to a temporary directory and renames it when it is complete.
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
    return builder


def _prepared_builder(name, data_dir, download):
    """The builder of a TFDS dataset that is prepared on disk."""
    tfds = _import_tfds()
    if data_dir is not None and not download and not os.path.isdir(data_dir):
        raise ValueError(
            "`data_dir` must be an existing directory with prepared TFDS "
            "datasets, unless `download=True`. "
            f"Received: data_dir={data_dir!r}"
        )
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError as error:
        raise ValueError(
            "`name` must be a dataset of TensorFlow Datasets or 'optdigits'. "
            f"Received: name={name!r}"
        ) from error
    if download:
        builder.download_and_prepare()
    if not builder.info.splits:
        raise ValueError(
            f"Dataset '{name}' is not prepared in `data_dir`. Pass "
            "`download=True`, or the directory in which it was prepared. "
            f"Received: data_dir={data_dir!r}, looked in {builder.data_dir}"
        )
    return builder


def _builder_of(name, data_dir, download):
    if not isinstance(name, str):
        raise ValueError(
            "`name` must be a dataset of TensorFlow Datasets or 'optdigits'. "
            f"Received: name={name!r}"
        )
    if data_dir is not None:
        data_dir = os.path.expanduser(os.fspath(data_dir))
    if name == "optdigits":
        return _optdigits_builder(data_dir)
    return _prepared_builder(name, data_dir, download)


@dataclasses.dataclass
class Source:
    """A prepared dataset, the source of images and labels."""

    name: str
    builder: typing.Any
    image_size: typing.Any

    def __post_init__(self):
        tfds = _import_tfds()
        info = self.builder.info
        self.keys = info.supervised_keys or ("image", "label")
        known = dict(info.features.items())
        features: list[Any] = [known.get(key) for key in self.keys[:2]]
        kinds = (tfds.features.Image, tfds.features.ClassLabel)
        if not all(map(isinstance, features, kinds)):
            raise ValueError(
                "`name` must be a dataset of images with one class label each. "
                f"Received: name={self.name!r} with the features "
                f"{list(known)}"
            )
        self.input_shape = self._shape(features[0].shape)
        self.num_classes = features[1].num_classes

    def _shape(self, shape):
        if self.image_size is not None:
            return (*self.image_size, shape[-1])
        if None in shape:
            raise ValueError(
                f"The images of '{self.name}' differ in size: `image_size` "
                "must be a tuple (height, width). Received: image_size=None"
            )
        return tuple(shape)

    @property
    def family(self) -> str:
        """The name alone: `"emnist"` for `"emnist/letters:3.1.0"`."""
        return self.name.split("/")[0].split(":")[0]

    def splits(self) -> Any:
        return self.builder.info.splits

    def count(self, split: str) -> int:
        return self.splits()[split].num_examples

    def has(self, split: str) -> bool:
        return split in self.splits() and self.count(split) > 0

    def read(self, split: str) -> Any:
        """Images and labels of a split, in the order on disk."""
        tfds = _import_tfds()
        image, label = self.keys[:2]
        examples = self.builder.as_dataset(
            split=split,
            shuffle_files=False,
            read_config=tfds.ReadConfig(try_autocache=False),
        ).map(
            lambda example: (self._image(example[image]), example[label]),
            num_parallel_calls=PARALLEL_CALLS,
        )
        return examples.cache() if self.fits_memory(split) else examples

    def _image(self, image):
        if self.image_size is None:
            return tf.ensure_shape(image, self.input_shape)
        resized = tf.image.resize(image, self.image_size, antialias=True)
        return tf.cast(tf.round(resized), tf.uint8)

    def fits_memory(self, split: str) -> bool:
        size = self.count(split) * math.prod(self.input_shape)
        return size <= _CACHE_BYTES


def split_names(source: Any, validation_fraction: float) -> Any:
    """Names of the training and validation splits; `None` for no validation.

    Validation examples are the last ones, as in the FreeTickets scripts: with
    a fraction of 0.1 the first 45,000 of CIFAR's 50,000 images are for
    training.
    """
    if source.has("validation"):
        return "train", "validation"
    if not validation_fraction:
        return "train", None
    total = source.count("train")
    held_out = round(total * validation_fraction)
    if not 0 < held_out < total:
        raise ValueError(
            "`validation_fraction` must leave at least one example for "
            "training and one for validation. Received: "
            f"validation_fraction={validation_fraction} of {total} examples"
        )
    kept = total - held_out
    return f"train[:{kept}]", f"train[{kept}:]"


def open_source(
    name: str,
    data_dir: PathLike | None,
    download: bool,
    image_size: tuple[int, int] | None,
) -> Source:
    """The `Source` of a dataset; arguments as for `load`."""
    return Source(name, _builder_of(name, data_dir, download), image_size)


def require(source: Any, split: str, advice: str) -> Any:
    """Raises unless a dataset has examples in a split."""
    if not source.has(split):
        raise ValueError(
            f"Dataset '{source.name}' must have a split '{split}'{advice}. "
            f"Received: the splits {list(source.splits())}"
        )
