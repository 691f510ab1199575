"""Images of half the size, and kernels that fit them."""

import math

import keras
from keras import ops

from keras_freetickets.arguments import check_choice
from keras_freetickets.types import Tensor

GAINS = ("average", "area", "exact")


def pooled_size(size: int) -> int:
    """The size of a kernel for images of half the size, along one axis.

    Args:
        size: Positive integer.

    Example:

    >>> [pooled_size(size) for size in (1, 2, 3, 5, 7)]
    [1, 1, 2, 3, 4]
    """
    return (size + 1) // 2


def pool_kernel(kernel: Tensor, gain: str = "area") -> Tensor:
    """Averages neighbouring taps of convolution kernels.

    Along each axis a kernel of 3 has windows of two taps, one apart (2 taps
    remain), and one of 5 windows of three taps (3 remain). One of 7 gets a
    zero in front and has windows of two taps, two apart (4 remain), as have
    other sizes. One tap stays one tap. The gradient flows back to the kernel.

    Args:
        kernel: Tensor `(height, width, input_channels, filters)`.
        gain: What the mean is multiplied by. `"average"`: 1. `"area"`
            (default): the ratio of the numbers of taps, 9/4 for 3x3, so that
            the response to a constant patch keeps its scale. `"exact"`: 1,
            and the same number is added to all taps of a filter and channel so
            that their sum is that of the kernel.

    Returns:
        Tensor `(pooled_size(height), pooled_size(width), input_channels,
        filters)`.

    Raises:
        ValueError: If `gain` is unknown or `kernel` is not of rank 4.

    Example:

    ```python
    pool_kernel(keras.ops.ones((3, 3, 16, 32)))  # (2, 2, 16, 32), of 2.25
    ```

    Reference:
        Poulos et al., 2019, arXiv:1910.06548. Its abstract alone was read:
        windows and gains are ours.
    """
    check_choice("gain", gain, GAINS)
    if len(kernel.shape) != 4:
        raise ValueError(
            "`kernel` must be (height, width, input_channels, filters). "
            f"Received: kernel of shape {tuple(kernel.shape)}"
        )
    pooled = kernel
    for axis in range(2):
        pooled = _pooled_axis(pooled, axis)
    if pooled is kernel:
        return kernel
    taps, left = (math.prod(one.shape[:2]) for one in (kernel, pooled))
    if gain == "area":
        return pooled * (taps / left)
    if gain == "exact":
        total, sums = (
            ops.sum(one, axis=(0, 1), keepdims=True) for one in (kernel, pooled)
        )
        return pooled + (total - sums) / left
    return pooled


def _pooled_axis(kernel: Tensor, axis: int) -> Tensor:
    size = kernel.shape[axis]
    if size == 1:
        return kernel
    window, stride = {3: (2, 1), 5: (3, 1)}.get(size, (2, 2))
    if stride == 2 and size % 2:
        padding = [(0, 0)] * 4
        padding[axis] = (1, 0)
        kernel = ops.pad(kernel, padding)
    count = pooled_size(size)
    total = 0.0
    for first in range(window):
        stop = first + (count - 1) * stride + 1
        part = [slice(None)] * 4
        part[axis] = slice(first, stop, stride)
        total = total + kernel[tuple(part)]
    return total / window


def downsample(images: Tensor) -> Tensor:
    """Halves the sides of images by the mean over 2x2 pixels.

    A side of an odd number of pixels is rounded up; its last pixels are means
    of those that are there.

    Args:
        images: Tensor of rank 4, `(examples, height, width, channels)`, or as
            `keras.config.image_data_format()` says. Integers become floats.

    Returns:
        Tensor `(examples, ceil(height / 2), ceil(width / 2), channels)`.

    Raises:
        ValueError: If `images` is not one tensor of rank 4.

    Example:

    ```python
    downsample(keras.ops.ones((8, 64, 64, 3)))  # (8, 32, 32, 3)
    ```
    """
    if not hasattr(images, "shape") or len(images.shape) != 4:
        raise ValueError(
            "`images` must be one tensor of rank 4, (examples, height, width, "
            "channels). Received: images of "
            f"{getattr(images, 'shape', type(images).__name__)}"
        )
    if "float" not in keras.backend.standardize_dtype(images.dtype):
        images = ops.cast(images, keras.config.floatx())
    return ops.average_pool(images, 2, strides=2, padding="same")
