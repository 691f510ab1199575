"""Random bits that depend on nothing but their counter.

A generator with a state would have to be saved, sharded and kept equal on
every replica. A hash of (seed, update, layer, position) is the same on every
replica, backend and resumed run, and can be recomputed at any time.
"""

from keras import ops

# Multipliers of the 32-bit integer hash "lowbias32" (Chris Wellons, 2018).
_FIRST = 0x7FEB352D
_SECOND = 0x846CA68B


def _constant(value):
    return ops.cast(value, "uint32")


def _mix(bits):
    """A bijection of the 32-bit integers that scatters neighbours."""
    bits = ops.bitwise_xor(bits, ops.right_shift(bits, _constant(16)))
    bits = ops.multiply(bits, _constant(_FIRST))
    bits = ops.bitwise_xor(bits, ops.right_shift(bits, _constant(15)))
    bits = ops.multiply(bits, _constant(_SECOND))
    return ops.bitwise_xor(bits, ops.right_shift(bits, _constant(16)))


def random_bits(shape, seed, update=0, layer=0):
    """Returns one 32-bit random integer for each entry of an array.

    The bits of two positions of one array always differ, so that a ranking
    by them has no ties.

    Args:
        shape: Tuple of ints. Shape of the result, fewer than 2^31 entries.
        seed: Integer or integer tensor.
        update: Integer or integer tensor, the number of the update.
        layer: Integer, the position of the array among those updated.

    Returns:
        A `uint32` tensor of shape `shape`.

    Example:

    ```python
    scores = random_bits((300, 100), seed=1, update=7, layer=0)
    ```
    """
    key = _mix(_constant(seed))
    key = _mix(ops.bitwise_xor(key, _constant(update)))
    key = _mix(ops.bitwise_xor(key, _constant(layer)))
    size = 1
    for dimension in shape:
        size *= dimension
    position = ops.cast(ops.arange(size, dtype="int32"), "uint32")
    bits = _mix(ops.bitwise_xor(_mix(ops.bitwise_xor(position, key)), key))
    return ops.reshape(bits, shape)
