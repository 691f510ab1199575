"""Where pixels of a convolution's images lie in planes."""

import dataclasses
import typing
from collections.abc import Callable

Size = typing.Any  # an integer, or a tensor where it is not known yet


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Sizes of a convolution, and of the planes that it is computed on.

    Sizes of images, and what follows from them, may be integer tensors.

    Attributes:
        height: Integer, rows of an image.
        width: Integer, columns of an image.
        channels: Integer, of an image.
        kernel: Pair of integers, the kernel's height and width.
        strides: Pair of integers.
        top: Integer, rows of zeros before an image.
        left: Integer, columns of zeros before an image.
        out_height: Integer, rows of the output.
        out_width: Integer, columns of the output.
        rows: Integer, rows of a plane that an image takes.
        columns: Integer, columns of a plane.
    """

    height: Size
    width: Size
    channels: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    top: Size
    left: Size
    out_height: Size
    out_width: Size
    rows: Size
    columns: Size

    @classmethod
    def of(
        cls,
        shape: tuple[Size, Size, int],
        kernel: tuple[int, int],
        strides: tuple[int, int],
        padding: str,
        maximum: Callable[[Size, Size], Size] = max,
    ) -> "Geometry":
        """The geometry of a convolution.

        Args:
            shape: Height, width and channels of an image.
            kernel: Pair of integers.
            strides: Pair of integers.
            padding: `"same"`, `"valid"` or `"causal"`, as Keras has them.
            maximum: Function of two sizes; one of tensors if they are.

        Example:

        >>> # "same": 8 rows take 9, as zeros above are those below.
        >>> Geometry.of((8, 8, 1), (3, 3), (1, 1), "same").rows
        9
        """
        height, width, channels = shape
        down = _axis(height, kernel[0], strides[0], padding, maximum)
        right = _axis(width, kernel[1], strides[1], padding, maximum)
        return cls(
            *(height, width, channels, kernel, strides),
            *(down[0], right[0], down[1], right[1], down[2], right[2]),
        )

    def numbers(self) -> list[Size]:
        """All sizes as a list of 13 integers, as the kernels take them."""
        return [
            self.height,
            self.width,
            self.channels,
            *self.kernel,
            *self.strides,
            self.top,
            self.left,
            self.out_height,
            self.out_width,
            self.rows,
            self.columns,
        ]


def _axis(
    size: Size,
    kernel: int,
    stride: int,
    padding: str,
    maximum: Callable[[Size, Size], Size],
) -> tuple[Size, Size, Size]:
    """Zeros before an axis, its output's size, and its size in a plane."""
    if padding == "valid":
        before = after = 0
        made = maximum(0, (size - kernel + stride) // stride)
    elif padding == "causal":
        before, after = kernel - 1, 0
        made = (size + stride - 1) // stride
    else:
        made = (size + stride - 1) // stride
        total = maximum((made - 1) * stride + kernel - size, 0)
        before, after = total // 2, total - total // 2
    if stride == 1:
        return before, made, size + maximum(before, after)
    # A moved vector reads (kernel - 1) // stride further.
    whole = (size + before + after + stride - 1) // stride
    return before, made, maximum(whole, made + (kernel - 1) // stride)
