"""Threads that share out the work of one call of a kernel."""

import concurrent.futures
import itertools
import os
import threading
from collections.abc import Callable

from keras_freetickets.arguments import check_count

# Work, in weights times examples, below which a second core costs more than
# it gains: handing over takes about 50 microseconds.
_WORK_OF_A_CORE = 1 << 23


def _available_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class _Workers:
    """Threads that share out the output units or inputs of one call.

    Not numba's own: its standard ones may not be used by two threads at once.
    """

    def __init__(self) -> None:
        self.count = _available_cores()
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


workers = _Workers()


def set_num_threads(count: int) -> None:
    """Says how many threads one call of a kernel may use.

    Args:
        count: Positive integer. At first it is the number of cores that this
            process may use. Small calls use one thread in any case.

    Raises:
        ValueError: If it is not a positive integer.
    """
    check_count("count", count)
    workers.count = count


def get_num_threads() -> int:
    """How many threads one call of a kernel may use, an integer."""
    return workers.count


def parts_of(work: int) -> int:
    """Among how many threads a call is shared out.

    Args:
        work: Integer, weights times examples.
    """
    return max(1, min(workers.count, work // _WORK_OF_A_CORE))


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
    parts = min(parts_of(work), count)
    workers.run(function, [count * i // parts for i in range(parts + 1)])
