"""Arrays of weights: which are kernels, their zeros, half precision."""

import typing
from collections.abc import Iterable

import numpy as np

from keras_freetickets.types import Array


def is_kernel(shape: Iterable[int]) -> bool:
    """Whether an array has two axes that are longer than one.

    Biases, scales and the like have one such axis, whatever a converter
    reshapes them to.

    Example:

    >>> is_kernel((3, 1, 4)), is_kernel((1, 4))
    (True, False)
    """
    return sum(size > 1 for size in shape) > 1


def zeros_and_size(kernels: Iterable[Array]) -> tuple[int, int]:
    """How many zeros there are in some arrays, and how many values."""
    zeros = size = 0
    for kernel in kernels:
        zeros += kernel.size - int(np.count_nonzero(kernel))
        size += kernel.size
    return zeros, size


def halved(values: typing.Any, name: str) -> Array:
    """Wider floats rounded to float16, other values as they are.

    Args:
        values: Array.
        name: What to call it in an error.

    Raises:
        ValueError: If a value does not fit into float16.
    """
    values = np.asarray(values)
    if values.dtype.kind != "f" or values.dtype.itemsize <= 2:
        return values
    with np.errstate(over="ignore"):
        rounded = values.astype("float16")
    lost = np.isfinite(values) & ~np.isfinite(rounded)
    if lost.any():
        raise ValueError(
            "`dtype` must not be 'float16' for weights beyond 65,504 in size. "
            f"Received: dtype='float16' for {name!r} that holds "
            f"{values[lost][0]}"
        )
    return rounded
