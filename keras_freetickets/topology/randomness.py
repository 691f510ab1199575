"""Random bits that depend only on counters.

A generator with state would have to be saved, sharded and kept equal on every
replica. A hash of (seed, update, layer, position) is the same on every replica
and backend and in a resumed run, and can be recomputed at any time.
"""

import math
import numbers
import typing

import numpy as np
from keras import ops

from keras_freetickets.types import Tensor

# Multipliers of the 32-bit integer hash "lowbias32" (Chris Wellons, 2018).
_FIRST = np.uint32(0x7FEB352D)
_SECOND = np.uint32(0x846CA68B)
_SHIFTS = np.uint32(16), np.uint32(15)


def typed(constant: typing.Any) -> Tensor:
    """Converts a NumPy number or array to a tensor of the same type.

    The type must be explicit: with `floatx` bfloat16, Keras 3.15 on JAX
    converts every number to float32, even integers and booleans.
    """
    return ops.convert_to_tensor(constant, dtype=constant.dtype.name)


def _unsigned(value: Tensor) -> Tensor:
    return ops.cast(value, "uint32")


def _mix(bits: Tensor) -> Tensor:
    """A bijection of the 32-bit integers that scatters neighbors."""
    bits = ops.bitwise_xor(bits, ops.right_shift(bits, typed(_SHIFTS[0])))
    bits = ops.multiply(bits, typed(_FIRST))
    bits = ops.bitwise_xor(bits, ops.right_shift(bits, typed(_SHIFTS[1])))
    bits = ops.multiply(bits, typed(_SECOND))
    return ops.bitwise_xor(bits, ops.right_shift(bits, typed(_SHIFTS[0])))


def random_bits(
    shape: tuple[int, ...],
    seed: typing.Any,
    update: typing.Any = 0,
    layer: typing.Any = 0,
) -> Tensor:
    """Returns one 32-bit random integer for each entry of an array.

    Two positions of one array always have different bits, so ranking by them
    has no ties.

    Args:
        shape: Tuple of integers, the shape of the result, with fewer than
            2^31 entries.
        seed: Integer or integer tensor.
        update: Integer or integer tensor, the number of the update.
        layer: Integer, the index of the array among those that are updated.

    Returns:
        A `uint32` tensor of shape `shape`.

    Example:

    ```python
    scores = random_bits((300, 100), seed=1, update=7, layer=0)
    ```
    """
    return bits_of(shape, random_keys(seed, update, [layer])[0])


def random_keys(
    seed: typing.Any, update: typing.Any, layers: typing.Any
) -> Tensor:
    """The keys of several arrays, for `bits_of`.

    They are computed together, because each use would be traced again.

    Args:
        seed: Integer or integer tensor.
        update: Integer or integer tensor.
        layers: List of integers or of integer tensors.

    Returns:
        A `uint32` tensor of the shape of `layers`.
    """
    key = _mix(_unsigned(seed))
    key = _mix(ops.bitwise_xor(key, _unsigned(update)))
    if all(isinstance(layer, numbers.Integral) for layer in layers):
        layers = typed(np.array(layers, "uint32"))
    else:
        layers = ops.stack([_unsigned(layer) for layer in layers])
    return _mix(ops.bitwise_xor(key, layers))


def bits_of(shape: tuple[int, ...], key: Tensor) -> Tensor:
    """`random_bits` of a key: a `uint32` tensor of shape `shape`."""
    position = ops.arange(math.prod(shape), dtype="int32")
    return ops.reshape(bits_at(position, key), shape)


def bits_at(positions: Tensor, key: Tensor) -> Tensor:
    """The bits at `int32` positions of an array, in `uint32`."""
    position = _unsigned(positions)
    return _mix(ops.bitwise_xor(_mix(ops.bitwise_xor(position, key)), key))
