"""How arrays are stored in packed files: places by gaps, values in few bits.

Functions of arrays alone; docs/packed_file.md describes what they make.
"""

import typing
import zlib

import numpy as np

# A byte of this value counts to the gap and does not end it.
_LONG = 255
# Sparser arrays have gaps, others bits: where a quarter is set, the codes of
# gaps are as long as the bits.
DENSEST_GAPS = 0.25
# The largest integer that stands for a value of 8 bits.
_HIGHEST = 127


def gaps_of(bits: np.ndarray) -> np.ndarray:
    """The places of the bits that are set, in little space.

    A gap is the number of unset bits before one that is set, in C order. It
    is written as bytes: as many of 255 as it has, and the rest. A Huffman
    code for these bytes is within 2 % of what the entropy of random places
    asks for, down to a thousandth of the bits.

    Args:
        bits: Boolean array.

    Returns:
        Array of bytes, a zlib stream.

    Example:

    >>> # Two, none and 256 unset bits come before one that is set.
    >>> bits = np.zeros(260, bool)
    >>> bits[[2, 3, 260 - 1 - 0]] = True
    >>> zlib.decompress(gaps_of(bits).tobytes()).hex()
    '0200ff00'
    """
    places = np.flatnonzero(bits)
    gaps = np.diff(places, prepend=-1) - 1
    ends = np.cumsum(gaps // _LONG + 1) - 1
    octets = np.full(ends[-1] + 1 if len(ends) else 0, _LONG, "uint8")
    octets[ends] = gaps % _LONG
    # Huffman codes alone: repetitions, which zlib looks for otherwise, are
    # chance here, and cost a tenth.
    coder = zlib.compressobj(9, strategy=zlib.Z_HUFFMAN_ONLY)
    stream = coder.compress(octets.tobytes()) + coder.flush()
    return np.frombuffer(stream, "uint8")


def bits_of(gaps: np.ndarray, size: int) -> np.ndarray:
    """The bits that `gaps_of` described.

    Args:
        gaps: Array of bytes.
        size: Integer, the number of bits.

    Returns:
        Boolean array `(size,)`.

    Raises:
        ValueError: If it describes more bits, or nothing.
    """
    # At most a byte for each bit that is set, and one for 255 others.
    most = size + size // _LONG + 1
    coder = zlib.decompressobj()
    try:
        octets = coder.decompress(gaps.tobytes(), most)
    except zlib.error as error:
        raise ValueError(f"gaps are no stream of zlib ({error})") from error
    counts = np.frombuffer(octets, "uint8")
    ends = counts < _LONG
    places = np.cumsum(counts, dtype="int64")[ends] + np.arange(ends.sum())
    whole = coder.eof and (not len(ends) or ends[-1])
    if not whole or (len(places) and places[-1] >= size):
        raise ValueError(f"gaps are not of {size} bits")
    bits = np.zeros(size, bool)
    bits[places] = True
    return bits


def halved(values: typing.Any, name: str) -> np.ndarray:
    """Wider floats rounded to float16, other values as they are.

    Args:
        values: Array.
        name: What to call it in an error.

    Raises:
        ValueError: If a finite value does not fit into float16.
    """
    values = np.asarray(values)
    if values.dtype.kind != "f" or values.dtype.itemsize <= 2:
        return values
    with np.errstate(over="ignore"):
        rounded = values.astype("float16")
    lost = np.isfinite(values) & ~np.isfinite(rounded)
    if lost.any():
        raise ValueError(
            "`dtype` must not be 'float16' for values beyond 65,504 in size. "
            f"Received: dtype='float16' for variable '{name}' that holds "
            f"{values[lost][0]}"
        )
    return rounded


def halved_if_close(values: np.ndarray) -> np.ndarray:
    """Wider floats rounded to float16, or as they are if that loses digits.

    Args:
        values: Array.

    Returns:
        Array of float16 whose values are within a thousandth of the given
        ones, or a millionth of the largest; else the array itself.
    """
    if values.dtype.kind != "f" or values.dtype.itemsize <= 2:
        return values
    with np.errstate(over="ignore"):
        rounded = values.astype("float16")
    finite = np.abs(values[np.isfinite(values)])
    slack = 1e-6 * finite.max(initial=0.0)
    close = np.allclose(rounded, values, rtol=1e-3, atol=slack, equal_nan=True)
    return rounded if close else values


def in_8_bits(
    values: np.ndarray, name: str, pointers: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Kernels as integers of 8 bits, with a scale for each unit.

    The scale of a member's largest value is that value / 127; those of other
    units are as much, divided by a power of two, so that integers of smaller
    units do not get small. (Of units alike all scales are equal, and the
    integers tell which weights are large: they then take less space than
    with a scale that fits each unit exactly.)

    Args:
        values: Array `(members, ..., units)` of floats, or `(members, room)`
            with `pointers`.
        name: What to call it in an error.
        pointers: Integer array `(members, units + 1)`: the values of a unit
            are those from its pointer to the next one. What is behind the last
            counts to the last unit. `None` if units are the last axis.

    Returns:
        Tuple of integers of the shape of `values`, in [-127, 127], and float32
        scales `(members, units)`. Their product is a value to within half a
        scale.

    Raises:
        ValueError: If a value is not finite.

    Example:

    >>> integers, scales = in_8_bits(np.array([[[127.0, 2.0]]]), "kernel")
    >>> integers.tolist(), scales.tolist()
    ([[[127, 64]]], [[1.0, 0.03125]])
    """
    wide = values.astype("float64")
    if not np.isfinite(wide).all():
        raise ValueError(
            "`dtype` must not be 'int8' for values that are not finite. "
            f"Received: dtype='int8' for variable '{name}'"
        )
    of_units = _largest_of_units(np.abs(wide), pointers)
    of_members = of_units.max(axis=-1, keepdims=True)
    tiny = np.finfo("float32").tiny
    halvings = np.floor(
        np.log2(np.maximum(of_members, tiny) / np.maximum(of_units, tiny))
    )
    # A unit of zeros has the member's scale.
    halvings[of_units == 0] = 0
    largest = np.maximum(of_members / _HIGHEST, tiny).astype("float32")
    scales = np.ldexp(largest, -halvings.astype("int32"))
    spread = _spread(scales.astype("float64"), values.shape, pointers)
    integers = np.clip(np.rint(wide / spread), -_HIGHEST, _HIGHEST)
    return integers.astype("int8"), scales


def _largest_of_units(sizes, pointers):
    if pointers is None:
        return sizes.max(axis=tuple(range(1, sizes.ndim - 1)))
    found = np.zeros((len(sizes), pointers.shape[1] - 1))
    for largest, row, ends in zip(found, sizes, pointers, strict=True):
        np.maximum.at(largest, _units(ends, len(row)), row)
    return found


def _units(pointers, room):
    """The unit of each value; the last one's behind them all."""
    counts = np.diff(pointers)
    counts[-1] += room - pointers[-1]
    return np.repeat(np.arange(len(counts)), counts)


def _rises(pointers, room):
    return (
        pointers.dtype.kind == "i"
        and not pointers[:, 0].any()
        and bool((pointers[:, 1:] >= pointers[:, :-1]).all())
        and bool((pointers[:, -1] <= room).all())
    )


def _spread(scales, shape, pointers):
    """Scales `(members, units)` as they multiply values of a shape."""
    if pointers is None:
        return np.expand_dims(scales, tuple(range(1, len(shape) - 1)))
    rows = zip(scales, pointers, strict=True)
    return np.stack([row[_units(ends, shape[1])] for row, ends in rows])


def from_8_bits(
    integers: np.ndarray,
    scales: np.ndarray,
    pointers: np.ndarray | None = None,
) -> np.ndarray:
    """The float32 values of integers of 8 bits.

    Args:
        integers: Array `(members, ..., units)`, or `(members, room)` with
            `pointers`.
        scales: Array `(members, units)`.
        pointers: As for `in_8_bits`.

    Raises:
        ValueError: If the shapes do not agree, or pointers do not rise from 0
            to at most `room`.
    """
    members = len(integers)
    if pointers is None:
        ends = (members, integers.shape[-1])
        fits = integers.ndim > 2
    else:
        ends = (members, pointers.shape[-1] - 1)
        fits = integers.ndim == pointers.ndim == 2 and ends[1] > 0
    if not fits or scales.dtype != "float32" or scales.shape != ends:
        raise ValueError(f"scales are not of the shape {ends} in float32")
    if pointers is not None and not _rises(pointers, integers.shape[1]):
        raise ValueError("row pointers do not rise from 0 to its values' end")
    return integers.astype("float32") * _spread(
        scales, integers.shape, pointers
    )
