"""Pairs of modalities and outcomes: a toy, and halves of real images."""

import dataclasses

import numpy as np

from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import check_number
from keras_freetickets.types import Array


@dataclasses.dataclass
class Modalities:
    """Images of the same subjects.

    Args:
        images: List of arrays `(subjects, height, width, 1)`, one for each
            modality.
        outcome: Array `(subjects, height, width, 1)`.

    Example:

    ```python
    data = toy_modalities(subjects=400)
    train = data.part(slice(0, 260))
    ```
    """

    images: list[np.ndarray]
    outcome: np.ndarray

    def part(self, subjects: slice | Array) -> "Modalities":
        """Some of the subjects.

        Args:
            subjects: Slice or integer indices.
        """
        images = [one[subjects] for one in self.images]
        return Modalities(images, self.outcome[subjects])


def toy_modalities(
    subjects: int = 400, size: int = 16, noise: float = 0.15, seed: int = 0
) -> Modalities:
    """Two modalities that each know half of what decides the outcome.

    Four latent factors F1 to F4: modality 1 shows the first two, modality 2
    the last two, and each shows two private ones. An image is a sum of
    Gaussian bumps times factors. The outcome's are tanh(F1 F3), sin(F2),
    F4^2 / 2 - 1 / 2 and F1, so that it needs both modalities. The bumps of an
    image are at least a quarter of its size apart: factors of bumps at nearly
    the same place could not be told apart.

    Args:
        subjects: Positive integer. Defaults to 400.
        size: Integer, at least 4: height and width. Defaults to 16.
        noise: Non-negative float, standard deviation of a pixel's noise. Its
            square, 0.0225 by default, is the smallest possible error.
        seed: Non-negative integer; the bumps are those of 0 for any seed.

    Returns:
        `Modalities`, float32, not standardized.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> data = toy_modalities(10)
    >>> len(data.images), data.outcome.shape
    (2, (10, 16, 16, 1))
    """
    check_count("subjects", subjects)
    check_count("size", size, least=4)
    check_number("noise", noise, "[0, inf)")
    check_count("seed", seed, least=0)
    random = np.random.default_rng(seed)
    places = np.random.default_rng(0)
    bases = np.concatenate([_bumps(4, size, places) for _ in range(3)])
    f = random.normal(size=(subjects, 4))
    private = random.normal(size=(2, subjects, 2))
    shown = [
        np.concatenate([f[:, :2], private[0]], axis=1),
        np.concatenate([f[:, 2:], private[1]], axis=1),
        np.stack(
            [
                np.tanh(f[:, 0] * f[:, 2]),
                np.sin(f[:, 1]),
                f[:, 3] ** 2 / 2 - 0.5,
                f[:, 0],
            ],
            axis=1,
        ),
    ]
    images = [
        np.tensordot(factors, bases[4 * i : 4 * i + 4], axes=1)
        for i, factors in enumerate(shown)
    ]
    images = [
        (one + noise * random.normal(size=one.shape)).astype("float32")
        for one in images
    ]
    return Modalities(
        [one[..., None] for one in images[:2]], images[2][..., None]
    )


def _bumps(count, size, random):
    """Gaussian bumps `(count, size, size)` at random places, well apart."""
    while True:
        centers = random.uniform(0.15 * size, 0.85 * size, (count, 2))
        gaps = np.linalg.norm(centers[:, None] - centers, axis=-1)
        if (gaps + size * np.eye(count)).min() >= size / 4:
            break
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1)
    squares = ((grid - centers[:, None, None]) ** 2).sum(axis=-1)
    return np.exp(-squares / (2 * (0.16 * size) ** 2))


def halves(images: Array, blur: float = 1.0, noise: float = 0.0) -> Modalities:
    """Left and right halves of images, to predict the whole one turned.

    The outcome is the image, blurred and turned by 90 degrees against the
    clock.

    Args:
        images: Array `(images, size, size, 1)` in any units, `size` even.
        blur: Non-negative float, standard deviation of the Gaussian blur in
            pixels. Defaults to 1.
        noise: Non-negative float, standard deviation of noise that is added
            to the outcome. Zero by default.

    Returns:
        `Modalities` of two images `(images, size, size / 2, 1)`.

    Raises:
        ValueError: If images have another shape or an argument is out of
            range.

    Example:

    >>> data = halves(np.zeros((5, 28, 28, 1)))
    >>> data.images[0].shape, data.outcome.shape
    ((5, 28, 14, 1), (5, 28, 28, 1))
    """
    check_number("blur", blur, "[0, inf)")
    check_number("noise", noise, "[0, inf)")
    images = np.asarray(images, "float32")
    square = images.ndim == 4 and images.shape[1] == images.shape[2]
    if not square or images.shape[2] % 2 or images.shape[3] != 1:
        raise ValueError(
            "`images` must have the shape (images, size, size, 1), size even. "
            f"Received: images of shape {images.shape}"
        )
    size = images.shape[1]
    outcome = images
    if blur:
        steps = np.arange(size)
        kernel = np.exp(-((steps[:, None] - steps) ** 2) / (2 * blur**2))
        kernel /= kernel.sum(axis=1, keepdims=True)  # edges are repeated
        kernel = kernel.astype("float32")
        outcome = np.einsum("ab,nbcd->nacd", kernel, outcome)
        outcome = np.einsum("cb,nabd->nacd", kernel, outcome)
    outcome = np.rot90(outcome, axes=(1, 2))
    if noise:
        random = np.random.default_rng(0)
        outcome = outcome + noise * random.normal(size=outcome.shape)
    half = size // 2
    parts = [images[:, :, :half], images[:, :, half:]]
    return Modalities(parts, np.ascontiguousarray(outcome, "float32"))
