"""Packages that only parts of this one need, imported when first used."""

import importlib

# Module -> what pip installs it by, and the extra of setup.py that holds it.
PACKAGES = {
    "matplotlib": ("matplotlib", "plots"),
    "sklearn": ("scikit-learn", "examples"),
    "tensorflow": ("tensorflow>=2.21,<2.22", "tensorflow"),
    "tensorflow_datasets": ("tensorflow-datasets>=4.9.10", "examples"),
}


def import_optional(module):
    """Imports a module of a package that may be missing.

    Args:
        module: Dotted name of a module, of one of `PACKAGES`.

    Returns:
        The module.

    Raises:
        ImportError: If the package is not installed; it says how to.
    """
    package = module.split(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # Of an installed package that is broken, its own error says more.
        if (error.name or "").split(".")[0] != package:
            raise
        requirement, extra = PACKAGES[package]
        raise ImportError(
            f"This needs `{package}`, which is not installed: "
            f"pip install '{requirement}'. It belongs to the extra "
            f"'{extra}': in a copy of keras_freetickets' repository, "
            f"pip install '.[{extra}]'."
        ) from error


class OptionalModule:
    """Stands for a module and imports it when it is first used.

    Args:
        name: Dotted name of a module, of one of `PACKAGES`.
    """

    def __init__(self, name):
        self._name = name

    def __getattr__(self, attribute):
        if attribute.startswith("__"):  # inspected, not used
            raise AttributeError(attribute)
        return getattr(import_optional(self._name), attribute)


tensorflow = OptionalModule("tensorflow")
