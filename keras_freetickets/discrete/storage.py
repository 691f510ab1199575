"""Codes of a finite set, packed into bytes."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_freetickets.arguments import is_real
from keras_freetickets.types import Array
from keras_freetickets.types import Tensor

_LARGEST = 256  # values that a byte distinguishes


def check_values(values: Any) -> tuple[float, ...]:
    """The finite set as a sorted tuple of floats.

    Args:
        values: Sequence of 2 to 256 different finite numbers.

    Raises:
        ValueError: If it is something else.

    Example:

    >>> check_values([1, -1, 0])
    (-1.0, 0.0, 1.0)
    """
    listed = list(values) if isinstance(values, (list, tuple, set)) else None
    if listed is None and isinstance(values, np.ndarray) and values.ndim == 1:
        listed = values.tolist()
    numbers = listed is not None and all(
        is_real(one) and np.isfinite(one) for one in listed
    )
    different = numbers and len(set(listed)) == len(listed)  # type: ignore
    if not different or not 2 <= len(listed) <= _LARGEST:  # type: ignore
        raise ValueError(
            "`values` must be 2 to 256 different finite numbers, such as "
            f"(-1, 0, 1). Received: values={values!r}"
        )
    return tuple(sorted(map(float, listed)))  # type: ignore


def bits_of(count: int) -> int:
    """Bits of one code of so many values: 1, 2, 4 or 8.

    Args:
        count: Integer, number of values, 2 to 256.

    Example:

    >>> bits_of(3)
    2
    """
    return next(bits for bits in (1, 2, 4, 8) if 2**bits >= count)


def num_bytes(size: int, count: int) -> int:
    """Bytes of so many packed codes.

    Args:
        size: Integer, number of codes.
        count: As for `bits_of`.

    Example:

    >>> num_bytes(9, 3)
    3
    """
    return -(-size * bits_of(count) // 8)


def pack(weights: Array, values: tuple[float, ...]) -> np.ndarray:
    """Packs weights of a finite set, the first into the lowest bits.

    Args:
        weights: Array of any shape, of members of `values`.
        values: Tuple of floats, as `check_values` returns it.

    Returns:
        Array of uint8, of `num_bytes` bytes.

    Raises:
        ValueError: If a weight is not one of the values.

    Example:

    >>> pack(np.array([-1.0, 0.0, 1.0, 1.0, 0.0]), (-1.0, 0.0, 1.0))
    array([164,   1], dtype=uint8)
    """
    flat = np.asarray(weights, "float64").ravel()
    known = np.asarray(values)
    codes = np.searchsorted(known, flat).clip(0, len(known) - 1)
    if not np.array_equal(known[codes], flat):
        foreign = flat[known[codes] != flat][0]
        raise ValueError(
            f"`weights` must be of the values {values}. Received: weights "
            f"with {foreign}"
        )
    bits = bits_of(len(values))
    each = 8 // bits
    padded = np.zeros(-(-len(codes) // each) * each, "uint8")
    padded[: len(codes)] = codes
    shifts = np.arange(each, dtype="uint8") * bits
    return np.bitwise_or.reduce(padded.reshape(-1, each) << shifts, axis=1)


def unpack(
    packed: Tensor, values: tuple[float, ...], shape: tuple[int, ...]
) -> Tensor:
    """What `pack` packed, in operations of Keras' backend.

    Args:
        packed: Tensor of uint8.
        values: As for `pack`.
        shape: Tuple of integers, shape of the weights.

    Returns:
        Tensor of float32 of that shape.

    Example:

    >>> weights = unpack(np.array([164, 1], "uint8"), (-1.0, 0.0, 1.0), (5,))
    >>> ops.convert_to_numpy(weights).tolist()
    [-1.0, 0.0, 1.0, 1.0, 0.0]
    """
    bits = bits_of(len(values))
    shifts = np.arange(8 // bits, dtype="int32") * bits
    wide = ops.expand_dims(ops.cast(packed, "int32"), 1)
    codes = ops.bitwise_and(ops.right_shift(wide, shifts), 2**bits - 1)
    codes = ops.reshape(codes, (-1,))[: int(np.prod(shape))]
    # A code that no value has does not occur; the table covers it.
    table = np.zeros(2**bits, "float32")
    table[: len(values)] = values
    table = ops.convert_to_tensor(table, dtype=keras.backend.floatx())
    return ops.reshape(ops.take(table, codes), shape)
