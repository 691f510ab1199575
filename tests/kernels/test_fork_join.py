"""Threads within compiled calls: all parts, and what the system refuses."""

import subprocess
import sys
import threading

import numpy as np
import pytest

pytest.importorskip("numba")

from keras_freetickets.kernels import threads
from keras_freetickets.kernels.compiled import compiled
from keras_freetickets.kernels.fork_join import parts_of
from keras_freetickets.kernels.fork_join import run_parts
from tests.helpers.kernel_threads import shared_out


@compiled
def _note(part, parts, arguments):
    found, value = arguments
    found[part] += value + parts


@compiled
def noted(found, value, parts):
    run_parts(_note, parts, (found, value))


@compiled
def _allocate(part, parts, arguments):
    (bytes_of_last,) = arguments
    if part == parts - 1:
        np.empty(bytes_of_last, np.uint8)


@compiled
def allocated(size, parts):
    run_parts(_allocate, parts, (size,))


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_every_part_is_called_once(parts):
    found = np.zeros(8)
    noted(found, 0.5, parts)
    np.testing.assert_array_equal(found[:parts], parts + 0.5)
    np.testing.assert_array_equal(found[parts:], 0)


def test_calls_from_several_threads_at_once():
    wrong = []

    def work(value):
        for _ in range(300):
            found = np.zeros(3)
            noted(found, value, 3)
            if not np.array_equal(found, np.full(3, value + 3)):
                wrong.append(value)

    callers = [threading.Thread(target=work, args=(float(i),)) for i in (1, 2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@pytest.mark.parametrize("parts", [1, 3])
def test_no_memory_is_the_callers_error(parts):
    with pytest.raises(MemoryError):
        allocated(1 << 60, parts)


def test_parts_are_worth_a_thread():
    at = np.uint64(threads.address())
    with shared_out(3):
        threads.settings[1] = 100
        found = [parts_of(work, at) for work in (0, 199, 200, 299, 10**9)]
    assert found == [1, 1, 2, 2, 3]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_parts_that_get_no_thread_are_computed_all_the_same():
    code = """
import resource
import numpy as np
from tests.kernels.test_fork_join import noted
found = np.zeros(3)
noted(found, 0.5, 1)
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (1 << 21)  # no room for a stack
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
noted(found, 0.5, 3)
assert found.tolist() == [5.0, 3.5, 3.5], found
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
