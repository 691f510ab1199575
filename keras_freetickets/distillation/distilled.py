"""Distilled sets: images of tiles, their labels, and files of them.

With a factor f, an image holds f x f tiles, each of which becomes an image of
full size for training (multi-formation).
"""

import dataclasses
import functools
import zipfile

import numpy as np
from keras import ops

from keras_freetickets.arguments import check_count
from keras_freetickets.files import atomic_path
from keras_freetickets.types import Array
from keras_freetickets.types import PathLike
from keras_freetickets.types import Tensor


@dataclasses.dataclass
class DistilledSet:
    """Distilled images with their labels.

    The arguments are the attributes.

    Args:
        images: Array `(examples, height, width, channels)`, in [0, 1].
        labels: Array of integers `(examples,)`.
        factor: Positive integer, the rows and columns of tiles in an image.
            Defaults to 1: an image is one example.

    Raises:
        ValueError: If the arrays do not fit together, or the factor does not
            divide the height and the width.

    Example:

    ```python
    distilled = DistilledSet.load("distilled.npz")
    x, y = distilled.decoded()
    model.fit(x, y, epochs=300)
    ```
    """

    images: Array
    labels: Array
    factor: int = 1

    def __post_init__(self) -> None:
        self.images = np.asarray(self.images, "float32")
        self.labels = np.asarray(self.labels)
        check_images("images", self.images, "labels", self.labels)
        check_factor(self.factor, self.images.shape)

    def decoded(self) -> tuple[np.ndarray, np.ndarray]:
        """The examples to train on, each tile enlarged to a full image.

        Returns:
            Tuple of images `(examples * factor**2, height, width, channels)`
            and labels `(examples * factor**2,)`: the tiles of the first image
            row by row, then those of the second.
        """
        x = ops.convert_to_numpy(decode(self.images, self.factor))
        return np.asarray(x), np.repeat(self.labels, self.factor**2)

    def save(self, path: PathLike) -> None:
        """Writes the arrays to a file that is complete or missing.

        Args:
            path: Path that ends in `.npz`.

        Raises:
            ValueError: If `path` ends otherwise.
        """
        write_arrays(
            path, images=self.images, labels=self.labels, factor=self.factor
        )

    @classmethod
    def load(cls, path: PathLike) -> "DistilledSet":
        """Reads a file that `save` wrote.

        Args:
            path: Path of the file.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it does not hold a distilled set.
        """
        found = read_arrays(path, ("images", "labels", "factor"))
        return cls(found["images"], found["labels"], int(found["factor"]))


def check_images(
    name: str, images: Array, name_of_labels: str, labels: Array
) -> None:
    """Raises unless arrays are images in [0, 1] and as many labels."""
    if images.ndim != 4 or not images.size:
        raise ValueError(
            f"`{name}` must be images (examples, height, width, channels). "
            f"Received: {name} of shape {images.shape}"
        )
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"`{name}` must be in [0, 1]. Received: {name} with values in "
            f"[{low:.4g}, {high:.4g}]"
        )
    integers = labels.ndim == 1 and labels.dtype.kind in "iu"
    if not integers or len(labels) != len(images) or labels.min() < 0:
        raise ValueError(
            f"`{name_of_labels}` must hold a class, an integer from 0 on, for "
            f"each of the {len(images)} images. Received: {name_of_labels} of "
            f"shape {labels.shape} and dtype {labels.dtype}"
        )


def check_factor(factor: int, shape: tuple[int, ...]) -> None:
    """Raises unless images of a shape can be cut into factor x factor tiles."""
    check_count("factor", factor)
    height, width = shape[1:3]
    if height % factor or width % factor:
        raise ValueError(
            "`factor` must divide the height and the width of the images, "
            f"{height} and {width}. Received: factor={factor}"
        )


def write_arrays(path: PathLike, **arrays: Array) -> None:
    """Writes arrays to an `.npz` file that is complete or missing."""
    if not str(path).endswith(".npz"):
        raise ValueError(
            f"`path` must end in '.npz'. Received: path={str(path)!r}"
        )
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def read_arrays(path: PathLike, names: tuple[str, ...]) -> dict[str, Array]:
    """Reads named arrays of an `.npz` file; objects are refused."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"`path` must be a file with the arrays {list(names)}. "
            f"Received: path={str(path)!r} ({error})"
        ) from error


@functools.cache
def _enlargement(size: int, tile: int) -> np.ndarray:
    """Matrix `(size, tile)` of linear interpolation.

    Pixels have centers at half numbers, as in `keras.ops.image.resize`.
    """
    # size = 4, tile = 2: the centers .5, 1.5, 2.5, 3.5 of the large image are
    # at .25, .75, 1.25, 1.75 of the tile, whose own are at .5 and 1.5.
    places = (np.arange(size) + 0.5) * tile / size - 0.5
    places = np.clip(places, 0, tile - 1)
    distance = np.abs(places[:, None] - np.arange(tile))
    return np.maximum(0, 1 - distance)


def decode(images: Tensor, factor: int) -> Tensor:
    """Cuts images into tiles and enlarges each to the size of an image.

    It is linear, so that gradients reach the images through it.

    Args:
        images: Float tensor `(examples, height, width, channels)`.
        factor: Positive integer that divides height and width.

    Returns:
        Tensor `(examples * factor**2, height, width, channels)`: of each image
        the tiles row by row, by linear interpolation.

    Raises:
        ValueError: If the factor does not divide height and width.

    Example:

    >>> image = np.arange(4, dtype="float32").reshape(1, 2, 2, 1)
    >>> tiles = decode(image, factor=2)
    >>> np.array(tiles)[:, 0, 0, 0].tolist()
    [0.0, 1.0, 2.0, 3.0]

    Reference:
        Zhang et al., 2023, arXiv:2212.06152, with factors 2 and 3.
    """
    images = ops.convert_to_tensor(images)
    shape = tuple(images.shape)
    check_factor(factor, shape)
    if factor == 1:
        return images
    height, width, channels = shape[1:]
    rows, columns = height // factor, width // factor
    tiles = ops.reshape(images, (-1, factor, rows, factor, columns, channels))
    tiles = ops.transpose(tiles, (0, 1, 3, 2, 4, 5))
    tiles = ops.reshape(tiles, (-1, rows, columns, channels))
    dtype = images.dtype
    taller = ops.convert_to_tensor(_enlargement(height, rows), dtype=dtype)
    wider = ops.convert_to_tensor(_enlargement(width, columns), dtype=dtype)
    tall = ops.einsum("ij,njwc->niwc", taller, tiles)
    return ops.einsum("ij,nhjc->nhic", wider, tall)


def _collages(images, factor):
    """Images of factor x factor real ones, each reduced by means of blocks."""
    count, height, width, channels = images.shape
    rows, columns = height // factor, width // factor
    blocks = images.reshape(-1, rows, factor, columns, factor, channels)
    small = blocks.mean(axis=(2, 4)).reshape(
        count // factor**2, factor, factor, rows, columns, channels
    )
    together = small.transpose(0, 1, 3, 2, 4, 5)
    return together.reshape(-1, height, width, channels)


def real_start(
    x: Array, y: Array, images_per_class: int, factor: int = 1, seed: int = 0
) -> DistilledSet:
    """Random real images as a distilled set: where distillation begins.

    It is also what a distilled set has to be better than.

    Args:
        x: Array of images `(examples, height, width, channels)`, in [0, 1].
        y: Array of integers `(examples,)`, their classes.
        images_per_class: Positive integer.
        factor: Positive integer that divides height and width. An image is a
            collage of as many rows and columns of real images. Defaults to 1.
        seed: Non-negative integer. Defaults to 0.

    Returns:
        A `DistilledSet`, class by class.

    Raises:
        ValueError: If an argument is out of range, arrays do not fit together,
            or a class has fewer than `images_per_class * factor**2` examples.

    Example:

    ```python
    start = real_start(x, y, images_per_class=10)
    ```
    """
    x, y = np.asarray(x, "float32"), np.asarray(y)
    check_images("x", x, "y", y)
    check_count("images_per_class", images_per_class)
    check_factor(factor, x.shape)
    check_count("seed", seed, least=0)
    wanted = images_per_class * factor**2
    generator = np.random.default_rng(seed)
    classes = int(y.max()) + 1
    found = []
    for label in range(classes):
        own = np.flatnonzero(y == label)
        if not len(own):
            raise ValueError(
                f"`y` must have examples of all classes from 0 to "
                f"{classes - 1}. Received: y without an example of class "
                f"{label}"
            )
        if len(own) < wanted:
            raise ValueError(
                "`images_per_class` times the square of `factor` must not "
                f"exceed the examples of a class, here {len(own)} of class "
                f"{label}: there would be more distilled images than real "
                f"ones. Received: images_per_class={images_per_class}, "
                f"factor={factor}"
            )
        chosen = generator.choice(own, wanted, replace=False)
        found.append(_collages(x[chosen], factor))
    labels = np.repeat(np.arange(classes), images_per_class)
    return DistilledSet(np.concatenate(found), labels, factor)
