"""The training step of each Keras backend, chosen when first needed."""

import functools
import importlib
import typing

import keras

from keras_freetickets.trainers.backend import Backend
from keras_freetickets.trainers.backend import MembersBackend

# Backend -> names of the class of its step, and of that of its members.
_BACKENDS = {
    "tensorflow": ("TensorFlowBackend", "TensorFlowMembers"),
    "jax": ("JaxBackend", "JaxMembers"),
}


def get_backend() -> Backend:
    """Returns the `Backend` that implements the step on Keras' backend.

    Raises:
        RuntimeError: If Keras' backend is neither TensorFlow nor JAX.
    """
    name = _known_backend()
    return _made(name, _BACKENDS[name][0])


def get_members_backend() -> MembersBackend:
    """Returns the `MembersBackend` that implements `SideBySide`'s step.

    Raises:
        RuntimeError: If Keras' backend is neither TensorFlow nor JAX.
    """
    name = _known_backend()
    return _made(f"{name}_members", _BACKENDS[name][1])


def _known_backend() -> str:
    backend = keras.backend.backend()
    if backend not in _BACKENDS:
        raise RuntimeError(
            f"Sparse training runs on the backends {list(_BACKENDS)}. "
            f"Received: KERAS_BACKEND={backend!r}. Building, predicting, "
            "loading and EnsembleModel work on every backend."
        )
    return backend


@functools.cache
def _made(module: str, name: str) -> typing.Any:
    # Cached also so that AutoGraph, which looks into what a `tf.function`
    # calls, does not try to convert the import.
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)()
