"""Files of distilled sets as data sets of TensorFlow Datasets.

Importing this file imports TensorFlow Datasets.
"""

import hashlib
import os
from typing import Any
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from keras_freetickets.distillation.distilled import DistilledSet
from keras_freetickets.types import PathLike


class Distilled(tfds.core.GeneratorBasedBuilder):
    """Builder of the decoded images of a file that `DistilledSet.save` wrote.

    The split is `"train"`; images stay floats in [0, 1]. What is prepared is
    named by the file and its content, so that one `data_dir` holds many sets.

    Args:
        path: Path of the file.
        **kwargs: Further arguments of a builder, such as `data_dir`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it does not hold a distilled set.

    Example:

    ```python
    builder = Distilled(path="distilled.npz", data_dir="data")
    builder.download_and_prepare()
    train = builder.as_dataset(split="train", as_supervised=True)
    ```
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}
    # Nothing is downloaded; see datasets/optdigits.py.
    url_infos: ClassVar[dict[str, Any]] = {}

    def __init__(self, *, path: PathLike, **kwargs: Any) -> None:
        self._set = DistilledSet.load(path)
        with open(path, "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()[:12]
        stem = os.path.splitext(os.path.basename(path))[0]
        config = tfds.core.BuilderConfig(
            name=f"{stem}_{digest}", version=self.VERSION
        )
        super().__init__(config=config, **kwargs)

    def _info(self):
        shape = self._set.images.shape[1:]
        classes = int(np.max(self._set.labels)) + 1
        return tfds.core.DatasetInfo(
            builder=self,
            description="Images that were distilled by keras_freetickets.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(
                        shape=shape, dtype=np.float32
                    ),
                    "label": tfds.features.ClassLabel(num_classes=classes),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # Nothing to download.
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i, (image, label) in enumerate(
            zip(*self._set.decoded(), strict=True)
        ):
            yield i, {"image": image, "label": int(label)}
