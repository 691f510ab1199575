"""The pool of memory: blocks are kept, never shared, and not lost."""

import threading

import numpy as np
import pytest

pytest.importorskip("numba")

from keras_freetickets.kernels import scratch
from keras_freetickets.kernels.compiled import compiled
from keras_freetickets.kernels.vectors import numba
from keras_freetickets.kernels.vectors import pointer

take, give, carray = scratch.take, scratch.give, numba.carray
float32 = numba.float32


@compiled
def _filled_and_summed(pool, count, value, rounds):
    """How often a block held another value than its owner's."""
    wrong = 0
    for _ in range(rounds):
        block = take(pool, count)
        array = carray(pointer(block), count, float32)
        array[:] = value
        for i in range(count):
            if array[i] != value:
                wrong += 1
        give(pool, block)
    return wrong


def address(pool):
    return np.uint64(pool.ctypes.data)


def test_a_block_is_taken_again():
    pool = scratch.new_pool()
    first = scratch.take(address(pool), 1000)
    assert first % 64 == 0
    assert not pool.any()
    scratch.give(address(pool), np.uint64(first))
    assert pool[0] == first
    assert scratch.take(address(pool), 1001) != first  # too small
    assert scratch.take(address(pool), 500) == first


def test_without_a_pool_nothing_is_kept():
    block = scratch.take(np.uint64(0), 10)
    assert block % 64 == 0
    scratch.give(np.uint64(0), np.uint64(block))


def test_a_full_pool_gives_the_oldest_up():
    pool = scratch.new_pool()
    at = address(pool)
    blocks = [scratch.take(at, 16) for _ in range(len(pool) + 1)]
    assert len(set(blocks)) == len(blocks)
    for block in blocks:
        scratch.give(at, np.uint64(block))
    assert set(pool.tolist()) == set(map(int, blocks[1:]))


def test_threads_share_no_block():
    pool = scratch.new_pool()
    at = address(pool)
    _filled_and_summed(at, 10, np.float32(1), 1)  # compiles
    wrong = []

    def run(value):
        count = 3000 + 17 * value
        wrong.append(_filled_and_summed(at, count, np.float32(value), 2000))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [0, 0, 0, 0]
    # How many are kept is a matter of chance: a block that one thread looks at
    # is hidden from the others, which then allocate.
    assert np.count_nonzero(pool) >= 1
