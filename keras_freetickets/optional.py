"""Optional packages, imported when they are first used."""

import importlib
from typing import Any

# Module -> the extra of pyproject.toml that installs it, and its own package.
PACKAGES = {
    "ai_edge_litert": ("litert", "ai-edge-litert>=2.3"),
    "llvmlite": ("compressed", "numba==0.68.1"),
    "matplotlib": ("plots", "matplotlib"),
    "nncf": ("openvino", "nncf>=3.4"),
    "numba": ("compressed", "numba==0.68.1"),
    "onnx": ("onnx", "onnx>=1.23"),
    "onnxruntime": ("onnx", "onnxruntime>=1.32"),
    "openvino": ("openvino", "openvino>=2026.4"),
    "sklearn": ("examples", "scikit-learn"),
    "tensorflow": ("tensorflow", "tensorflow>=2.21,<2.22"),
    "tensorflow_datasets": ("examples", "tensorflow-datasets>=4.9.10"),
    "tensorflow_model_optimization": (
        "tfmot",
        "tensorflow-model-optimization>=0.8.1",
    ),
    "tf2onnx": ("onnx", "tf2onnx>=1.17"),
    "tf_keras": ("tfmot", "tf_keras>=2.21,<2.22"),
}


def import_optional(module: str, extra: str | None = None) -> Any:
    """Imports a module of a package that may be missing.

    Args:
        module: Dotted name of a module of one of `PACKAGES`.
        extra: Name of the extra that the error suggests, if the caller needs
            more than the package alone. Defaults to the one in `PACKAGES`.

    Returns:
        The module.

    Raises:
        ImportError: If the package is not installed. The message says how to
            install it.
    """
    package = module.split(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # If the package is installed but broken, its own error says more.
        if (error.name or "").split(".")[0] != package:
            raise
        usual_extra, requirement = PACKAGES[package]
        raise ImportError(
            f"This needs `{package}`, which is not installed: "
            f"pip install 'keras_freetickets[{extra or usual_extra}]' (or "
            f"`{package}` alone: pip install '{requirement}')."
        ) from error


class OptionalModule:
    """Stands for a module and imports it when it is first used.

    Args:
        name: Dotted name of a module of one of `PACKAGES`.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute):
        if attribute.startswith("__"):  # inspected, not used
            raise AttributeError(attribute)
        return getattr(import_optional(self._name), attribute)


tensorflow = OptionalModule("tensorflow")
