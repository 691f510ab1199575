"""Changes of images that real and distilled ones share, and CutMix."""

import dataclasses

import numpy as np
from keras import ops

from keras_freetickets.arguments import check_number
from keras_freetickets.types import Array
from keras_freetickets.types import Tensor

# Names -> arrays that say how a batch is changed.
Change = dict[str, Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharedAugmentation:
    """Random color, shift and cutout, one draw for all images of a batch.

    Gradients of real and distilled images can be compared only if both are
    changed alike. `draw` draws a change, `apply` applies it to any batch, and
    gradients reach the images through it. Images are not flipped: digits have
    a direction.

    Args:
        brightness: Non-negative float; up to this is added to each pixel, or
            subtracted. Defaults to 0.25.
        contrast: Float in [0, 1]; distances from an image's mean are
            multiplied by 1 plus or minus up to this. Defaults to 0.5.
        saturation: Float in [0, 1], the same of the distances from a pixel's
            mean over channels. Defaults to 0.5; of no effect on gray images.
        shift: Float in [0, 1), the largest shift, as a share of height and
            width. What moves in is 0. Defaults to 0.125.
        cutout: Float in [0, 1), the side of the square that is set to 0, as a
            share of height and width. Defaults to 0.25.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    augmentation = SharedAugmentation(cutout=0.0)
    change = augmentation.draw((28, 28, 1), np.random.default_rng(0))
    changed = augmentation.apply(x, change)
    ```

    Reference:
        The published code of arXiv:2212.06152 changes color, crops and cuts
        out; the sizes are ours.
    """

    brightness: float = 0.25
    contrast: float = 0.5
    saturation: float = 0.5
    shift: float = 0.125
    cutout: float = 0.25

    def __post_init__(self) -> None:
        check_number("brightness", self.brightness, "[0, inf)")
        check_number("contrast", self.contrast)
        check_number("saturation", self.saturation)
        check_number("shift", self.shift, "[0, 1)")
        check_number("cutout", self.cutout, "[0, 1)")

    def draw(
        self, shape: tuple[int, ...], generator: np.random.Generator
    ) -> Change:
        """Draws a change.

        Args:
            shape: Shape of an image, `(height, width, channels)`.
            generator: A `numpy.random.Generator`, which moves on.

        Returns:
            Dict of arrays, for `apply`.
        """
        height, width = shape[:2]

        def around_one(reach):
            return np.float32(1 + generator.uniform(-reach, reach))

        bright = generator.uniform(-self.brightness, self.brightness)
        return {
            "brightness": np.float32(bright),
            "contrast": around_one(self.contrast),
            "saturation": around_one(self.saturation),
            "rows": _shift(height, self.shift, generator),
            "columns": _shift(width, self.shift, generator),
            "kept": _hole(height, width, self.cutout, generator),
        }

    def apply(self, images: Tensor, change: Change) -> Tensor:
        """Changes a batch of images.

        Args:
            images: Float tensor `(examples, height, width, channels)`.
            change: What `draw` returned for this height and width.

        Returns:
            Tensor of the same shape; values may leave [0, 1].
        """
        by = {name: ops.cast(v, images.dtype) for name, v in change.items()}
        gray = ops.mean(images, axis=-1, keepdims=True)
        images = gray + (images - gray) * by["saturation"]
        mean = ops.mean(images, axis=(1, 2, 3), keepdims=True)
        images = mean + (images - mean) * by["contrast"] + by["brightness"]
        images = ops.einsum("ij,njwc->niwc", by["rows"], images)
        images = ops.einsum("ij,nhjc->nhic", by["columns"], images)
        return images * by["kept"]


def _shift(size, reach, generator):
    """Matrix that moves rows by a random whole number of pixels."""
    reach = int(size * reach)
    return np.eye(size, k=generator.integers(-reach, reach + 1), dtype="f4")


def _hole(height, width, share, generator):
    """Array `(height, width, 1)`: 1, but 0 in a square around a pixel."""
    kept = np.ones((height, width, 1), "float32")
    sides = int(height * share), int(width * share)
    middle = generator.integers(height), generator.integers(width)
    spans = [
        slice(max(0, at - side // 2), at - side // 2 + side)
        for at, side in zip(middle, sides, strict=True)
    ]
    kept[tuple(spans)] = 0
    return kept


def cutmix(
    x: Array, targets: Array, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Puts a rectangle of another image into each image of a batch (CutMix).

    Args:
        x: Array of images `(examples, height, width, channels)`.
        targets: Float array `(examples, classes)`, their labels, one-hot.
        generator: A `numpy.random.Generator`, which moves on.

    Returns:
        Tuple of the mixed images and their targets, weighted by area. The
        share of the rectangle is uniform in [0, 1], the same for all images.

    Example:

    >>> x = np.stack([np.zeros((4, 4, 1)), np.ones((4, 4, 1))])
    >>> mixed, targets = cutmix(x, np.eye(2), np.random.default_rng(0))
    >>> np.allclose(mixed.mean(axis=(1, 2, 3)), targets[:, 1])
    True

    Reference:
        Yun et al., 2019, arXiv:1905.04899.
    """
    x, targets = np.asarray(x), np.asarray(targets)
    height, width = x.shape[1:3]
    side = np.sqrt(generator.uniform())
    tall, wide = round(height * side), round(width * side)
    top = generator.integers(height - tall + 1)
    left = generator.integers(width - wide + 1)
    order = generator.permutation(len(x))
    mixed = x.copy()
    inside = slice(top, top + tall), slice(left, left + wide)
    mixed[:, *inside] = x[order][:, *inside]
    share = tall * wide / (height * width)
    blended = (1 - share) * targets + share * targets[order]
    return mixed, blended.astype(targets.dtype)
