"""How many threads share out the work of one call of a kernel.

Calls of compiled functions share out in `fork_join`; predictions that call
several of them from Python do it here.
"""

import concurrent.futures
import itertools
import os
import threading
from collections.abc import Callable

import numpy as np

from keras_freetickets.arguments import check_count

# Work, in weights times examples, from which on a part is worth a thread. Of a
# compiled call it takes 50 to 100 microseconds on one core, where making a
# thread and waiting for it takes 17 (AMD EPYC, Linux). Python's threads take
# about 50.
_WORK_OF_A_PART = 1 << 21
_WORK_OF_A_CORE = 1 << 23


def _available_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _count_at_first() -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "")
    asked_for_one = asked.isdecimal() and int(asked) > 0
    return int(asked) if asked_for_one else _available_cores()


# In memory that compiled functions read, too: they get its address.
settings = np.array([_count_at_first(), _WORK_OF_A_PART], np.int64)


def set_num_threads(count: int) -> None:
    """Says how many threads one call of a kernel may use.

    In training and in prediction, with every backend: the kernels do not read
    the settings of TensorFlow or JAX. Results are the same bits for any
    number.

    Args:
        count: Positive integer. At first it is the environment's
            `OMP_NUM_THREADS`, and without one the number of cores that this
            process may use. Small calls use one thread in any case.

    Raises:
        ValueError: If it is not a positive integer.

    Example:

    ```python
    from keras_freetickets import kernels

    kernels.set_num_threads(1)
    ```
    """
    check_count("count", count)
    settings[0] = count


def get_num_threads() -> int:
    """How many threads one call of a kernel may use, an integer."""
    return int(settings[0])


def address() -> int:
    """The address of `settings`, which compiled functions take."""
    return settings.ctypes.data


class _Workers:
    """Python's threads.

    Not numba's own: its standard ones may not be used by two threads at once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: concurrent.futures.Executor | None = None
        self._process = 0

    def pool(self) -> concurrent.futures.Executor:
        with self._lock:
            # A forked process has the object and not its threads.
            if self._pool is None or self._process != os.getpid():
                self._process = os.getpid()
                self._pool = concurrent.futures.ThreadPoolExecutor(
                    max(1, _available_cores() - 1), "keras_freetickets"
                )
            return self._pool

    def run(self, function: Callable, ends: list[int]) -> None:
        """Calls `function(begin, end)` for each pair of neighbours."""
        parts = list(itertools.pairwise(ends))
        if len(parts) == 1:
            function(*parts[0])
            return
        others = [self.pool().submit(function, *part) for part in parts[1:]]
        function(*parts[0])
        for other in others:
            other.result()


_workers = _Workers()


def run_parts(
    function: Callable[[int, int], None], count: int, work: int
) -> None:
    """Shares out tasks among the threads that a call may use.

    Args:
        function: Callable of the first of some tasks and the one after the
            last.
        count: Integer, the number of tasks.
        work: Integer, weights times examples of all tasks.
    """
    parts = min(get_num_threads(), work // _WORK_OF_A_CORE, count)
    parts = max(1, parts)
    _workers.run(function, [count * i // parts for i in range(parts + 1)])
