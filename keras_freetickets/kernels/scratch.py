"""Memory that compiled kernels work in, kept for the next call.

Importing this imports numba. The system takes large arrays back when they are
freed, and hands out each page again with a fault: for planes of images that
takes longer than the kernels. So blocks stay in a pool, which threads share
without locks: a slot holds the address of a free block, and is emptied and
filled by atomic exchanges.
"""

import typing

import numpy as np

from keras_freetickets.kernels.compiled import compiled
from keras_freetickets.kernels.vectors import extending
from keras_freetickets.kernels.vectors import ir
from keras_freetickets.kernels.vectors import numba
from keras_freetickets.kernels.vectors import pointer

types = numba.types
carray = numba.carray
uint64 = numba.uint64
_SLOTS = 32
_LINE = 64  # bytes of a cache line
_allocated = types.ExternalFunction("malloc", types.uintp(types.uintp))
_freed = types.ExternalFunction("free", types.void(types.uintp))


def new_pool() -> np.ndarray:
    """Slots of a pool, all empty: keep it as long as its address is used."""
    return np.zeros(_SLOTS, np.uint64)


@extending.intrinsic
def _exchanged(
    typing_context: typing.Any, place: typing.Any, value: typing.Any
) -> typing.Any:
    """Writes a number to an address, and returns what stood there."""

    def emit(context, builder, signature, arguments):
        place, value = arguments
        kind = ir.IntType(64).as_pointer()
        place = builder.inttoptr(place, kind)
        return builder.atomic_rmw("xchg", place, value, "acq_rel")

    return types.uint64(types.uint64, types.uint64), emit


@compiled
def _head(block: int) -> typing.Any:
    """Before a block: its size in bytes, and what was allocated."""
    return carray(pointer(block - uint64(16)), 2, uint64)


@compiled
def take(pool: int, floats: int) -> int:
    """The address of memory for some floats, which begins a cache line.

    Args:
        pool: Address of the slots of `new_pool`; 0 to keep nothing.
        floats: Integer.
    """
    size = uint64(4 * floats)
    if pool != uint64(0):
        for slot in range(_SLOTS):
            place = uint64(pool + uint64(8 * slot))
            block = _exchanged(place, uint64(0))
            if block == uint64(0):
                continue
            if _head(block)[0] >= size:
                return block
            other = _exchanged(place, block)
            if other != uint64(0):
                _freed(_head(other)[1])
    whole = _allocated(size + uint64(2 * _LINE))
    block = uint64((whole + uint64(2 * _LINE - 1)) & ~uint64(_LINE - 1))
    head = _head(block)
    head[0], head[1] = size, whole
    return block


@compiled
def give(pool: int, block: int) -> None:
    """Gives back what `take` returned."""
    if pool != uint64(0):
        for slot in range(_SLOTS):
            block = _exchanged(uint64(pool + uint64(8 * slot)), block)
            if block == uint64(0):
                return
    _freed(_head(block)[1])
