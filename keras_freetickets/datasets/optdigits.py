"""The handwritten digits of scikit-learn as a TFDS builder.

Importing this file imports TensorFlow Datasets and registers the builder:
`tfds.load("optdigits")` then works without a download.
"""

from typing import Any
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from keras_freetickets.optional import import_optional

_DESCRIPTION = """\
Handwritten digits of 8x8 pixels with 17 gray levels, scaled to 0..255: the
1,797 images of the test part of "Optical Recognition of Handwritten Digits",
as scikit-learn ships them. One fifth of each class is the test split.
"""
_CITATION = """\
@misc{optdigits,
  author = {Alpaydin, E. and Kaynak, C.},
  title = {Optical Recognition of Handwritten Digits},
  year = {1998},
  publisher = {UCI Machine Learning Repository},
  doi = {10.24432/C50P49}
}
"""
# Every fifth example of each class is for testing.
_TEST_EVERY = 5


def _is_test(labels):
    """Marks every fifth example of each class, the first included."""
    marks = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        marks[np.flatnonzero(labels == label)[::_TEST_EVERY]] = True
    return marks


def _read_digits():
    digits = import_optional("sklearn.datasets").load_digits()
    # Gray levels are 0 to 16: 16 becomes 255.
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return images[..., np.newaxis], digits.target.astype(np.int64)


class Optdigits(tfds.core.GeneratorBasedBuilder):
    """Builder of scikit-learn's digits: 1,433 for training, 364 for testing.

    Example:

    ```python
    builder = Optdigits(data_dir="data")
    builder.download_and_prepare()
    train = builder.as_dataset(split="train", as_supervised=True)
    ```

    Reference:
        Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI
        Machine Learning Repository, https://doi.org/10.24432/C50P49
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    # Nothing is downloaded. Without this, TFDS would look for a checksum file,
    # for which it needs importlib_resources, which it does not install.
    url_infos: ClassVar[dict[str, Any]] = {}

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://doi.org/10.24432/C50P49",
            citation=_CITATION,
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # Nothing to download.
        return {
            "train": self._generate_examples(test=False),
            "test": self._generate_examples(test=True),
        }

    def _generate_examples(self, test):
        images, labels = _read_digits()
        for index in np.flatnonzero(_is_test(labels) == test):
            yield (
                int(index),
                {"image": images[index], "label": int(labels[index])},
            )
