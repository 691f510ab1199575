"""The functions of the corruptions: NumPy, with TensorFlow for JPEG.

Each takes `x`, a float32 batch (images, height, width, channels) in [0, 1],
the `level` of a severity and `draw`, a `Draw`, and returns floats.
"""

import math
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_freetickets.optional import tensorflow as tf


class Draw:
    """Draws random numbers for each image of a batch from its own generator."""

    def __init__(self, seeds: Iterable[Any]) -> None:
        self.generators = [np.random.default_rng(seed) for seed in seeds]

    def __call__(self, kind: str, *args: Any) -> Any:
        return np.stack([getattr(g, kind)(*args) for g in self.generators])

    def each(self, kind: str, parameters: Iterable[Any]) -> np.ndarray:
        """As a call, with a parameter for each image."""
        pairs = zip(self.generators, parameters, strict=True)
        return np.stack([getattr(g, kind)(part) for g, part in pairs])


# Noise.


def _gaussian_noise(x, level, draw):
    return x + level * draw("normal", 0, 1, x.shape[1:])


def _shot_noise(x, level, draw):
    return draw.each("poisson", x * level) / level


def _impulse_noise(x, level, draw):
    chance = draw("random", x.shape[1:])
    x = np.where(chance < level / 2, 0.0, x)
    return np.where(chance > 1 - level / 2, 1.0, x)


# Blur. Blurs that are equal along rows and columns are matrices.


def _apply(matrix, x):
    """Multiplies rows and columns of each image and channel by a matrix.

    One product per image, so that rounding does not depend on the batch.
    """
    matrix = matrix.astype("float32")
    flat = matrix @ x.reshape(*x.shape[:2], -1).astype("float32")
    return matrix @ flat.reshape(len(x), len(matrix), *x.shape[2:])


def _gaussian_matrix(size, sigma, mode, truncate):
    """A matrix whose rows are the weights of a Gaussian around a pixel."""
    radius = int(truncate * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / max(sigma, 1e-9)) ** 2)
    weights /= weights.sum()
    places = np.pad(np.arange(size), radius, mode=mode)
    matrix = np.zeros((size, size))
    for i in range(size):
        np.add.at(matrix[i], places[i : i + 2 * radius + 1], weights)
    return matrix


def _defocus_blur(x, level, draw):
    del draw
    radius, alias = level
    # A disk, smoothed by a 3x3 Gaussian.
    reach = int(radius) + 1
    offsets = np.arange(-reach, reach + 1)
    disk = (offsets**2 + offsets[:, None] ** 2 <= radius**2).astype(float)
    smooth = np.exp(-0.5 * (np.arange(-1, 2) / alias) ** 2)
    smooth /= smooth.sum()
    for axis in (0, 1):
        disk = np.apply_along_axis(np.convolve, axis, disk, smooth, "same")
    disk /= disk.sum()
    padded = np.pad(x, [(0, 0), (reach,) * 2, (reach,) * 2, (0, 0)], "reflect")
    size, total = x.shape[1], np.zeros_like(x)
    for (i, j), weight in np.ndenumerate(disk):
        total += weight * padded[:, i : i + size, j : j + size]
    return total


def _glass_blur(x, level, draw):
    sigma, reach, rounds = level
    size = x.shape[1]
    blur = _gaussian_matrix(size, sigma, "edge", truncate=4)
    x = _apply(blur, x)
    inner = range(size - reach, reach, -1)
    moves = draw("integers", -reach, reach, (rounds, size, size, 2))
    every = np.arange(len(x))
    for turn in range(rounds):
        for i in inner:
            for j in inner:
                row = i + moves[:, turn, i - 1, j - 1, 0]
                column = j + moves[:, turn, i - 1, j - 1, 1]
                # As in the published images: the neighbor is copied. (Their
                # code is written as a swap, but does not swap.)
                x[:, i, j] = x[every, row, column]
    return _apply(blur, x)


def _streak(x, radius, sigma, degrees):
    """Averages along a ray from each pixel, at an angle for each image."""
    weights = np.exp(-0.5 * (np.arange(2 * radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    angle = np.deg2rad(degrees)
    size, total = x.shape[1], np.zeros_like(x)
    pixels = np.arange(size)
    every = np.arange(len(x))[:, None, None]
    for k, weight in enumerate(weights):
        if weight < 1e-4:
            break
        down = np.ceil(k * np.sin(angle) - 0.5).astype(int)
        right = np.ceil(k * np.cos(angle) - 0.5).astype(int)
        rows = np.clip(pixels + down[:, None], 0, size - 1)
        columns = np.clip(pixels + right[:, None], 0, size - 1)
        total += weight * x[every, rows[:, :, None], columns[:, None, :]]
    return total


def _motion_blur(x, level, draw):
    radius, sigma = level
    return _streak(x, radius, sigma, draw("uniform", -45, 45))


def _zoom_matrix(size, factor):
    """A matrix whose rows are the weights of an enlarged center's pixels."""
    crop = math.ceil(size / factor)
    top = (size - crop) // 2
    large = round(crop * factor)
    trim = (large - size) // 2
    places = top + np.arange(large) * (crop - 1) / (large - 1)
    places = places[trim : trim + size]
    matrix = np.zeros((size, size))
    low = np.minimum(places.astype(int), size - 2)
    every = np.arange(size)
    matrix[every, low] = 1 - (places - low)
    matrix[every, low + 1] = places - low
    return matrix


def _zoom_blur(x, level, draw):
    del draw
    factors = np.arange(1, level, 0.01)
    total = x.copy()
    for factor in factors:
        total += _apply(_zoom_matrix(x.shape[1], factor), x)
    return total / (len(factors) + 1)


# Weather.


def _snow(x, level, draw):
    mean, spread, zoom, threshold, radius, sigma, keep = level
    size = x.shape[1]
    flakes = draw("normal", mean, spread, (size, size, 1))
    flakes = _apply(_zoom_matrix(size, zoom), flakes)
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)
    flakes = _streak(flakes, radius, sigma, draw("uniform", -135, -45))
    whitened = np.maximum(x, 1.5 * _grey(x) + 0.5)
    x = keep * x + (1 - keep) * whitened
    return x + flakes + np.rot90(flakes, 2, axes=(1, 2))


def _grey(x):
    if x.shape[-1] == 1:
        return x
    return x @ np.array([[0.299], [0.587], [0.114]], "float32")


def _frost(x, level, draw):
    """Draws needles of ice: ridges of two noises, bluish white on dark."""
    keep, amount = level
    size = x.shape[1]
    coarse, fine = (
        _plasma(size, decay, draw)[..., None] for decay in (1.4, 1.2)
    )
    ridges = (1 - np.abs(2 * coarse - 1)) * (1 - np.abs(2 * fine - 1)) ** 2
    ice = 0.25 + 0.75 * np.sqrt(ridges)
    if x.shape[-1] == 3:
        ice = ice * np.array([0.85, 0.95, 1.0])
    return keep * x + amount * ice


def _fog(x, level, draw):
    amount, decay = level
    brightest = x.max(axis=(1, 2, 3), keepdims=True)
    fog = _plasma(x.shape[1], decay, draw)[..., None]
    return (x + amount * fog) * brightest / (brightest + amount)


def _plasma(size, decay, draw):
    """A cloud for each image, in [0, 1], by the diamond-square algorithm."""
    side = 2 ** math.ceil(math.log2(size))
    noise = draw("uniform", -1, 1, (2 * side, side))
    cloud = np.zeros((len(noise), side, side))
    step, amount = side, 1.0
    while step >= 2:
        half = step // 2
        near = np.roll
        corners = cloud[:, ::step, ::step]
        across = corners + near(corners, -1, 1)
        middle = (across + near(across, -1, 2)) / 4
        cloud[:, half::step, half::step] = (
            middle + amount * (noise[:, :side][:, half::step, half::step])
        )
        middles = cloud[:, half::step, half::step]
        rows = middles + near(middles, 1, 1) + corners + near(corners, -1, 2)
        columns = middles + near(middles, 1, 2) + corners + near(corners, -1, 1)
        more = noise[:, side:]
        cloud[:, ::step, half::step] = (
            rows / 4 + amount * (more[:, ::step, half::step])
        )
        cloud[:, half::step, ::step] = (
            columns / 4 + amount * (more[:, half::step, ::step])
        )
        step, amount = half, amount / decay**2
    cloud -= cloud.min(axis=(1, 2), keepdims=True)
    cloud /= cloud.max(axis=(1, 2), keepdims=True)
    return cloud[:, :size, :size]


def _brightness(x, level, draw):
    """Adds to the value (V) in the HSV color space."""
    del draw
    value = x.max(axis=-1, keepdims=True)
    brighter = np.minimum(value + level, 1)
    # Black has no hue; it becomes gray.
    scaled = x * brighter / np.maximum(value, 1e-9)
    return np.where(value > 0, scaled, brighter)


# Digital.


def _contrast(x, level, draw):
    del draw
    mean = x.mean(axis=(1, 2), keepdims=True)
    return (x - mean) * level + mean


def _elastic_transform(x, level, draw):
    strength, smoothness, jitter = (part * x.shape[1] for part in level)
    size = x.shape[1]
    x = _affine(x, jitter * draw("uniform", -1, 1, (3, 2)))
    shift = draw("uniform", -1, 1, (size, size, 2))
    if strength:
        blur = _gaussian_matrix(size, smoothness, "symmetric", truncate=3)
        shift = strength * _apply(blur, shift)
    else:
        shift = 0 * shift
    rows, columns = np.mgrid[:size, :size]
    return _sample(
        x, rows + shift[..., 0], columns + shift[..., 1], "symmetric"
    )


def _affine(x, jitter):
    """Applies the affine map that moves three points by `jitter`."""
    size = x.shape[1]
    center, reach = size // 2, size // 3
    source = np.array(
        [
            [center + reach, center + reach],
            [center + reach, center - reach],
            [center - reach, center - reach],
        ],
        float,
    )
    target = np.concatenate([source + jitter, np.ones((len(x), 3, 1))], axis=-1)
    # Where a pixel of the new image comes from: (x, y) = (x', y', 1) @ back.
    back = np.linalg.solve(target, np.broadcast_to(source, (len(x), 3, 2)))
    rows, columns = np.mgrid[:size, :size]
    places = (
        np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ (back[:, None])
    )
    return _sample(x, places[..., 1], places[..., 0], "reflect")


def _sample(x, rows, columns, mode):
    """Samples pixels at fractional places, bilinearly; mirrored outside."""
    size = x.shape[1]
    margin = 2 * size
    mirrored = np.pad(np.arange(size), margin, mode=mode)

    def at(places):
        low = np.clip(np.floor(places), -margin, size + margin - 2)
        low = low.astype(int)
        return low + margin, (places - low)[..., None]

    top, down = at(rows)
    left, right = at(columns)
    every = np.arange(len(x))[:, None, None]

    def pixel(i, j):
        return x[every, mirrored[top + i], mirrored[left + j]]

    upper = (1 - right) * pixel(0, 0) + right * pixel(0, 1)
    lower = (1 - right) * pixel(1, 0) + right * pixel(1, 1)
    return (1 - down) * upper + down * lower


def _box_matrix(size, new_size):
    """Pillow's box resizing: the mean of whole pixels under a new pixel."""
    scale = size / new_size
    matrix = np.zeros((new_size, size))
    for i in range(new_size):
        center, reach = (i + 0.5) * scale, 0.5 * max(scale, 1)
        under = np.arange(
            max(0, int(center - reach + 0.5)),
            min(size, int(center + reach + 0.5)),
        )
        place = (under - center + 0.5) / max(scale, 1)
        inside = under[(place > -0.5) & (place <= 0.5)]
        matrix[i, inside] = 1 / len(inside)
    return matrix


def _pixelate(x, level, draw):
    del draw
    size = x.shape[1]
    small = int(size * level)
    return _apply(_box_matrix(small, size) @ _box_matrix(size, small), x)


def _jpeg_compression(x, level, draw):
    del draw
    images = np.rint(255 * x).astype("uint8")
    coded = [
        tf.io.decode_jpeg(
            tf.io.encode_jpeg(image, quality=level),
            dct_method="INTEGER_ACCURATE",
        )
        for image in images
    ]
    return np.stack([image.numpy() for image in coded]) / 255


# Each with its parameters at the severities 1 to 5, from make_cifar_c.py.
DISTORTIONS: dict[str, tuple[Callable[..., np.ndarray], list[Any]]] = {
    "gaussian_noise": (_gaussian_noise, [0.04, 0.06, 0.08, 0.09, 0.10]),
    "shot_noise": (_shot_noise, [500, 250, 100, 75, 50]),
    "impulse_noise": (_impulse_noise, [0.01, 0.02, 0.03, 0.05, 0.07]),
    "defocus_blur": (
        _defocus_blur,
        [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],
    ),
    "glass_blur": (
        _glass_blur,
        [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)],
    ),
    "motion_blur": (
        _motion_blur,
        [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)],
    ),
    "zoom_blur": (_zoom_blur, [1.06, 1.11, 1.16, 1.21, 1.26]),
    "snow": (
        _snow,
        [
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ],
    ),
    "frost": (
        _frost,
        [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)],
    ),
    "fog": (_fog, [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)]),
    "brightness": (_brightness, [0.05, 0.1, 0.15, 0.2, 0.3]),
    "contrast": (_contrast, [0.75, 0.5, 0.4, 0.3, 0.15]),
    # In parts of the height: displacement, its smoothness, affine jitter.
    "elastic_transform": (
        _elastic_transform,
        [
            (0, 0, 0.08),
            (0.05, 0.2, 0.07),
            (0.08, 0.06, 0.06),
            (0.1, 0.04, 0.05),
            (0.1, 0.03, 0.03),
        ],
    ),
    "pixelate": (_pixelate, [0.95, 0.9, 0.85, 0.75, 0.65]),
    "jpeg_compression": (_jpeg_compression, [80, 65, 58, 50, 40]),
}
