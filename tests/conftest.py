import gc
import os

import forked

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def pytest_collection_finish():
    """What was imported stays; collections need not walk through it."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish():
    forked.stop()
