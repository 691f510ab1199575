"""Input pipelines over TensorFlow Datasets.

TensorFlow Datasets is imported when a dataset is loaded, not with this package.
"""

from keras_freetickets.datasets.arrays import Batches
from keras_freetickets.datasets.arrays import from_arrays
from keras_freetickets.datasets.corruptions import CORRUPTIONS
from keras_freetickets.datasets.corruptions import corrupt
from keras_freetickets.datasets.corruptions import corrupt_dataset
from keras_freetickets.datasets.pipelines import Datasets
from keras_freetickets.datasets.pipelines import load
from keras_freetickets.datasets.pipelines import load_test
from keras_freetickets.datasets.published import load_corrupted

__all__ = [
    "CORRUPTIONS",
    "Batches",
    "Datasets",
    "corrupt",
    "corrupt_dataset",
    "from_arrays",
    "load",
    "load_corrupted",
    "load_test",
]
