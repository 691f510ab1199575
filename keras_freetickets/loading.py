"""Imports the whole package with Keras, and nothing of it before.

`keras_freetickets.serving` predicts without Keras, but Python imports a package
before what is in it. Yet whoever imports the package and loads a model with
Keras needs all of its classes registered, without another use of it. So all
parts are imported when the first of these is: Keras, or a part that needs it.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import typing
from collections.abc import Sequence

PACKAGE = __name__.partition(".")[0]
# What needs no Keras.
LIGHT = frozenset(
    f"{PACKAGE}.{name}"
    for name in (
        "api",
        "arguments",
        "files",
        "kernels",
        "loading",
        "optional",
        "packed_file",
        "packed_values",
        "serving",
        "types",
        "version",
    )
)


def load_all() -> types.ModuleType:
    """Imports all parts, once.

    Returns:
        The module of public names. While it is being imported, it has those
        that it had until now.
    """
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
    return importlib.import_module(f"{PACKAGE}.api")


def load_all_with_keras() -> None:
    """Imports all parts as soon as Keras or one that needs it is imported."""
    sys.meta_path.insert(0, _finder)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds modules as the others do, and has all parts imported after."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, rest = fullname.partition(".")
        if fullname != "keras" and (
            package != PACKAGE or f"{PACKAGE}.{rest.partition('.')[0]}" in LIGHT
        ):
            return None
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    if spec.loader is not None:
                        spec.loader = _LoadsAllAfter(spec.loader)
                    return spec
        return None


class _LoadsAllAfter(importlib.abc.Loader):
    """A loader after which all parts are imported.

    Args:
        loader: The loader of the module.
    """

    def __init__(self, loader: typing.Any) -> None:
        self._loader = loader

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def create_module(
        self, spec: importlib.machinery.ModuleSpec
    ) -> types.ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        # From here on the module is as if it had been found without this.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        if _finder in sys.meta_path:
            sys.meta_path.remove(_finder)
        self._loader.exec_module(module)
        load_all()


_finder = _Finder()
