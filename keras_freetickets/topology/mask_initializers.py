"""Initial masks: random, by magnitude, N of M, constant fan-in.

A mask initializer is a callable `(kernel, count, generator) -> mask` of NumPy
arrays; the mask has exactly `count` true entries. If the initializer has a
method `active_count(shape, density)`, that decides `count`.
"""

import typing
from collections.abc import Callable

import keras
import numpy as np

from keras_freetickets.arguments import is_integer
from keras_freetickets.arguments import named_or_callable
from keras_freetickets.types import Config


def random_mask(
    kernel: np.ndarray, count: int, generator: np.random.Generator
) -> np.ndarray:
    """Keeps exactly `count` entries, uniformly at random."""
    # As `generator.permutation`, in half of the memory.
    places = np.arange(kernel.size, dtype=np.min_scalar_type(-kernel.size))
    generator.shuffle(places)
    mask = np.zeros(kernel.size, dtype=bool)
    mask[places[:count]] = True
    return mask.reshape(kernel.shape)


def magnitude_mask(
    kernel: np.ndarray, count: int, generator: np.random.Generator
) -> np.ndarray:
    """Keeps the `count` entries of largest magnitude; random ties."""
    size = np.abs(np.asarray(kernel, np.float32)).ravel()
    size = np.where(np.isfinite(size), size, -1.0)
    order = np.lexsort((generator.permutation(size.size), -size))
    mask = np.zeros(size.size, dtype=bool)
    mask[order[:count]] = True
    return mask.reshape(kernel.shape)


def check_pattern(n: typing.Any, m: typing.Any) -> None:
    """Raises unless `n` and `m` are an N:M pattern."""
    if not is_integer(n) or not is_integer(m) or not 1 <= n < m:
        raise ValueError(
            "`n` and `m` must be integers with 1 <= n < m: n of every m "
            f"consecutive weights are kept. Received: n={n}, m={m}"
        )


def check_divisible(
    name: str, shape: tuple[int, ...], m: int, axis: int
) -> None:
    """Raises unless a kernel's axis is a multiple of `m`."""
    rank = len(shape)
    if not -rank <= axis < rank or shape[axis] % m:
        raise ValueError(
            f"The size of axis {axis} of kernel '{name}' must be a multiple of "
            f"m={m}. Exclude the layer with `sparsify(..., filters=...)`, or "
            "choose another `axis`. "
            f"Received: a kernel of shape {tuple(shape)}"
        )


def _largest(rows: np.ndarray, count: int) -> np.ndarray:
    """The mask of the `count` largest entries of each row."""
    order = np.argsort(-rows, axis=1, kind="stable")
    mask = np.zeros(rows.shape, bool)
    np.put_along_axis(mask, order[:, :count], True, axis=1)
    return mask


class _StructuredMask:
    """Base of masks of a pattern: by magnitude, or at random."""

    magnitude: bool

    def scores(
        self, kernel: np.ndarray, generator: np.random.Generator
    ) -> np.ndarray:
        """Array of the kernel's shape; the largest of a group are kept."""
        if self.magnitude:
            return np.abs(kernel)
        return generator.random(kernel.shape)

    @classmethod
    def from_config(cls, config: Config) -> typing.Any:
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class NMMask(_StructuredMask):
    """Initial masks that keep `n` of every `m` consecutive weights.

    Args:
        n: Positive integer, how many weights of a group are kept.
        m: Integer greater than `n`, the size of a group.
        axis: Integer, the kernel's axis along which groups lie. Defaults to
            -2, the inputs of Dense and convolution kernels, as hardware with
            2:4 sparsity requires.
        magnitude: Whether to keep the largest weights of each group. Defaults
            to `False`: random ones.

    Raises:
        ValueError: If the size of a kernel's axis is not a multiple of `m`, or
            the sparsity is not `1 - n / m`.

    Example:

    ```python
    mask = NMMask(2, 4)
    model = keras_freetickets.sparsify(
        dense, sparsity=mask.sparsity, distribution="uniform",
        mask_initializer=mask,
    )
    model.attach(NM(2, 4))
    ```
    """

    def __init__(
        self, n: int, m: int, axis: int = -2, magnitude: bool = False
    ) -> None:
        check_pattern(n, m)
        self.n, self.m, self.axis, self.magnitude = n, m, axis, magnitude

    @property
    def sparsity(self) -> float:
        return 1.0 - self.n / self.m

    def __call__(
        self, kernel: np.ndarray, count: int, generator: np.random.Generator
    ) -> np.ndarray:
        check_divisible("to be masked", kernel.shape, self.m, self.axis)
        if count != kernel.size // self.m * self.n:
            raise ValueError(
                f"`sparsity` must be {self.sparsity} for every layer, with "
                'distribution="uniform", when `mask_initializer` keeps '
                f"{self.n} of {self.m}. Received: {count} of {kernel.size} "
                "weights"
            )
        scores = self.scores(kernel, generator)
        moved = np.moveaxis(scores, self.axis, -1)
        mask = _largest(moved.reshape(-1, self.m), self.n)
        return np.moveaxis(mask.reshape(moved.shape), -1, self.axis)

    def get_config(self) -> Config:
        return {
            "n": self.n,
            "m": self.m,
            "axis": self.axis,
            "magnitude": self.magnitude,
        }


@keras.saving.register_keras_serializable(package="keras_freetickets")
class ConstantFanInMask(_StructuredMask):
    """Initial masks with the same number of inputs for every output unit.

    The units are the kernel's last axis. The density of a layer is rounded so
    that each unit has an integer number of inputs, at least one.

    Args:
        magnitude: Whether to keep the largest weights of each unit. Defaults
            to `False`: random ones.

    Example:

    ```python
    model = keras_freetickets.sparsify(
        dense, sparsity=0.9, mask_initializer=ConstantFanInMask()
    )
    model.attach(SRigL())
    ```

    Reference:
        Lasby et al., 2024, arXiv:2305.02299 (SRigL).
    """

    def __init__(self, magnitude: bool = False) -> None:
        self.magnitude = magnitude

    def active_count(self, shape: tuple[int, ...], density: float) -> int:
        """The number of weights of a kernel that are kept."""
        units = shape[-1]
        inputs = int(np.prod(shape[:-1]))
        return units * min(inputs, max(1, round(inputs * density)))

    def __call__(
        self, kernel: np.ndarray, count: int, generator: np.random.Generator
    ) -> np.ndarray:
        units = kernel.shape[-1]
        rows = self.scores(kernel, generator).reshape(-1, units).T
        return _largest(rows, count // units).T.reshape(kernel.shape)

    def get_config(self) -> Config:
        return {"magnitude": self.magnitude}


_INITIALIZERS = {"random": random_mask, "magnitude": magnitude_mask}


def get(identifier: typing.Any) -> Callable[..., np.ndarray]:
    """Returns the mask initializer for a name or a callable.

    Args:
        identifier: `"random"`, `"magnitude"` or a callable
            `(kernel, count, generator) -> mask`.

    Raises:
        ValueError: If it is neither.

    Example:

    >>> mask = get("magnitude")(np.array([3.0, -1.0, 0.5, 2.0]), 2,
    ...                         np.random.default_rng(0))
    >>> mask.tolist()
    [True, False, False, True]
    """
    return named_or_callable(
        "mask_initializer",
        identifier,
        _INITIALIZERS,
        "a callable (kernel, count, generator) -> mask",
    )
