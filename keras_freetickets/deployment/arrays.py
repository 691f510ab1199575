"""Arrays of weights: which are kernels, and their zeros."""

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
