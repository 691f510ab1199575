"""The published files of corrupted images, by this package's names."""

from typing import Any

from keras_freetickets.datasets import pipelines
from keras_freetickets.datasets.corruptions import check_corruption
from keras_freetickets.types import PathLike

# TFDS has other names for two of them.
_OF_TFDS = {
    "elastic_transform": "elastic",
    "glass_blur": "frosted_glass_blur",
}


def load_corrupted(
    corruption: str,
    severity: int,
    like: Any = None,
    name: str = "cifar10_corrupted",
    batch_size: int = 128,
    data_dir: PathLike | None = None,
    download: bool = False,
) -> Any:
    """Loads the published images of a corruption: CIFAR-10-C from TFDS.

    Args:
        corruption: String, one of `CORRUPTIONS`.
        severity: Integer from 1 to 5.
        like: `Datasets` that the model was trained on; its mean and standard
            deviation standardize the images. `None` for those of the images
            themselves.
        name: Name of the dataset. Defaults to `"cifar10_corrupted"`.
        batch_size: Positive integer. Defaults to 128, as for `load`.
        data_dir: Directory of prepared TFDS datasets. `None` for TFDS'
            default.
        download: Boolean, whether TFDS may download the dataset (2.7 GiB).

    Returns:
        A `tf.data.Dataset` of batches in the order on disk.

    Raises:
        ValueError: If an argument is out of range, or the dataset is not
            prepared and `download` is false.

    Example:

    ```python
    data = keras_freetickets.datasets.load("cifar10")
    for corruption in keras_freetickets.datasets.CORRUPTIONS:
        model.evaluate(load_corrupted(corruption, 3, like=data))
    ```

    Reference:
        Hendrycks and Dietterich, 2019, arXiv:1903.12261.
    """
    check_corruption(corruption, severity)
    theirs = _OF_TFDS.get(corruption, corruption)
    return pipelines.load_test(
        f"{name}/{theirs}_{severity}",
        like=like,
        batch_size=batch_size,
        data_dir=data_dir,
        download=download,
    )
