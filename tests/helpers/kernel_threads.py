"""Calls of kernels that use several threads, however small they are."""

import contextlib

from keras_freetickets.kernels import threads


@contextlib.contextmanager
def shared_out(count):
    """Calls in this context are shared out among `count` threads."""
    before = threads.settings.copy()
    threads.settings[:] = count, 1
    try:
        yield
    finally:
        threads.settings[:] = before
