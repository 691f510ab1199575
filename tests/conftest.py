import gc
import os
import sys

import forked
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# OpenVINO does without: each export else forks this process a dozen times, to
# send usage data.
sys.modules.setdefault("openvino_telemetry", None)


def pytest_collection_finish():
    """What was imported stays; collections need not walk through it."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish():
    forked.stop()


@pytest.fixture
def eagerly():
    """Runs without graphs of TensorFlow: tracing one takes longer than the
    few small steps of most tests.

    For tests whose subject is not the graph; each method, callback and layer
    also has tests with one. `make test-compiled` runs all of them with graphs.
    """
    import keras

    if keras.backend.backend() != "tensorflow" or os.environ.get("COMPILED"):
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)
