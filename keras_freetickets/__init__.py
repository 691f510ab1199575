"""Sparse training and cheap, calibrated ensembles for Keras 3."""

import importlib
import importlib.util
import sys
import typing

from keras_freetickets import loading

# Public names stand in api.py, and are imported when Keras is or one is used:
# `keras_freetickets.serving` needs no Keras.
if typing.TYPE_CHECKING:
    from keras_freetickets import api
    from keras_freetickets.api import *  # noqa: F403

    __all__: list[str] = []
    __all__ += api.__all__
elif "keras" in sys.modules:
    loading.load_all()
else:
    loading.load_all_with_keras()


def __getattr__(name: str) -> typing.Any:
    """A public name or a part; all are imported if it needs Keras."""
    api = sys.modules.get(f"{__name__}.api")
    if name in getattr(api, "__all__", ()) and hasattr(api, name):
        return getattr(api, name)
    if importlib.util.find_spec(f"{__name__}.{name}") is not None:
        # Alone, as parts import each other in this way.
        return importlib.import_module(f"{__name__}.{name}")
    if not name.startswith("__") or name in ("__all__", "__version__"):
        api = loading.load_all()
        if name in api.__all__ and hasattr(api, name):
            return getattr(api, name)
        if name == "__all__":
            return api.__all__
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(loading.load_all().__all__)
