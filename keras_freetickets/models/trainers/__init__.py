"""The training step of each Keras backend, chosen when first needed."""

import functools
import importlib

import keras

_BACKENDS = ("tensorflow", "jax")


def get_trainer():
    """Returns the module that implements the step on this backend.

    Raises:
        RuntimeError: If the backend has no trainer.
    """
    backend = keras.backend.backend()
    if backend not in _BACKENDS:
        raise RuntimeError(
            f"Sparse training runs on the backends {list(_BACKENDS)}. "
            f"Received: KERAS_BACKEND={backend!r}. Building, predicting, "
            "loading and EnsembleModel work on every backend."
        )
    return _trainer(backend)


@functools.cache
def _trainer(backend):
    # Cached also so that AutoGraph, which looks into what a `tf.function`
    # calls, does not try to convert the import.
    return importlib.import_module(f"{__name__}.{backend}")
