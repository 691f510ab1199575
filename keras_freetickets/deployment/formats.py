"""The formats by name: what each writes, reads back and needs installed."""

import abc
import dataclasses
import importlib.util
import typing
from collections.abc import Callable
from collections.abc import Sequence

import keras

from keras_freetickets import data
from keras_freetickets import keras_adapter
from keras_freetickets import optional
from keras_freetickets.arguments import check_choice
from keras_freetickets.types import Array

# How weights are stored, and what is computed with.
DTYPES = {
    "float32": "stored and computed in single precision",
    "float16": "stored in half precision, computed in float32 or float16",
    "int8_dynamic": "weights in 8 bits, inputs of layers as they come",
    "int8": "weights and activations in 8 bits, by representative data",
}
_FORMATS: dict[str, "Format"] = {}


@dataclasses.dataclass
class Job:
    """What a format is to write.

    Attributes:
        model: A plain Keras model.
        specs: `keras.InputSpec`s in the structure of the inputs, or `None`
            if the model has no graph.
        dtype: One of the format's dtypes.
        sparse: Whether to store zeros in little space, where the format and
            its runtime can.
        samples: List of an array of examples for each input; empty if there
            are none.
    """

    model: keras.Model
    specs: typing.Any
    dtype: str = "float32"
    sparse: bool = True
    samples: list[Array] = dataclasses.field(default_factory=list)

    @property
    def signature(self) -> typing.Any:
        """The argument `input_signature` of `keras.Model.export`."""
        return None if self.specs is None else [self.specs]


@dataclasses.dataclass
class Artifact:
    """A file as its runtime reads it.

    Attributes:
        predict: Function from a list of an array for each input, in the order
            of the model's inputs, to a list of the outputs.
        zeros: Integer, the zeros among the weights with two axes longer than
            one.
        weights: Integer, the number of these weights.
        runtime: String, the package and version that computes.
    """

    predict: Callable[[Sequence[Array]], list[Array]]
    zeros: int
    weights: int
    runtime: str


class Format(abc.ABC):
    """Base class; a subclass writes and reads one format.

    Attributes:
        name: String, what `export` calls it.
        ending: String that paths end with, "" for a directory.
        dtypes: Tuple of those of `DTYPES` that it writes.
        refused: Dict from the other dtypes to the reason, a string.
        companions: Tuple of the endings of further files, beside the first.
        zips: Whether the file may be put into a `.zip` archive.
        backends: Tuple of the Keras backends that it is written on.
        packages: Dict from a dtype, or "" for all, to a tuple of the packages
            that writing and reading need.
        unsparse: Dict from a dtype to the reason why its zeros are stored
            like other values, a string.

    Example:

    ```python
    formats.get("litert").dtypes
    ```
    """

    name: str
    ending: str
    dtypes: tuple[str, ...] = tuple(DTYPES)
    refused: dict[str, str] = {}
    companions: tuple[str, ...] = ()
    zips: bool = False
    backends: tuple[str, ...] = ("tensorflow",)
    packages: dict[str, tuple[str, ...]] = {}
    unsparse: dict[str, str] = {}

    @abc.abstractmethod
    def write(self, job: Job, path: str) -> str:
        """Writes a file or a directory.

        Args:
            job: A `Job` of a dtype that the format has.
            path: Path that ends with `ending`.

        Returns:
            What is to be said of it, "" for nothing.
        """

    @abc.abstractmethod
    def read(self, path: str, specs: typing.Any) -> Artifact:
        """Loads what `write` wrote, in its runtime.

        Args:
            path: The path that was written.
            specs: As in the `Job`.
        """

    def check_dtype(self, dtype: str) -> None:
        """Raises unless the format has a dtype."""
        check_choice("dtype", dtype, DTYPES)
        if dtype not in self.dtypes:
            raise ValueError(
                f"`dtype` must be one of {list(self.dtypes)} for the format "
                f"{self.name!r}: {self.refused[dtype]}. Received: "
                f"dtype={dtype!r}"
            )

    def check_installed(self, dtype: str) -> None:
        """Raises if a package that a dtype needs is not installed."""
        for key in ("", dtype):
            for package in self.packages.get(key, ()):
                check_package(package)

    def needs_data(self, dtype: str) -> bool:
        """Whether a dtype needs representative data."""
        return dtype == "int8"


def check_package(name: str) -> None:
    """Raises if a package of `optional.PACKAGES` is not installed.

    It is not imported, which may take seconds.

    Raises:
        ImportError: If it is not installed; it says how to.
    """
    if importlib.util.find_spec(name) is None:
        optional.import_optional(name)


def specs_of(model: keras.Model) -> typing.Any:
    """The inputs of a model, by the names that they have in files.

    Args:
        model: A plain Keras model.

    Returns:
        `keras.InputSpec`s in the structure of the inputs, those of a dict
        named by its keys; `None` if the model has no graph of layers.
    """
    if not getattr(model, "inputs", None):
        return None
    specs = data.input_specs(model)
    if isinstance(specs, dict) and len(specs) > 1:
        for key, spec in specs.items():
            if isinstance(spec, keras.InputSpec):
                spec.name = key
    return specs


def output_names(model: keras.Model) -> list[str]:
    """The names of the outputs of a model, in their order.

    Args:
        model: A plain Keras model.

    Returns:
        List of the keys if it returns a dict, else "outputs" alone, or
        "output_0", "output_1", ... of several.
    """
    if not getattr(model, "outputs", None):
        return ["outputs"]
    _, structure = keras_adapter.ends_of_graph(model)
    if isinstance(structure, dict):
        return sorted(structure)
    count = len(model.outputs)
    return ["outputs"] if count == 1 else [f"output_{i}" for i in range(count)]


def by_name(
    keys: Sequence[str], specs: typing.Any, inputs: Sequence[Array]
) -> list[Array]:
    """The inputs of a model in the order in which a runtime lists them.

    Args:
        keys: Names that the runtime gives its inputs.
        specs: As `specs_of` returns them.
        inputs: List of an array for each input, in the order of `specs`.

    Returns:
        List of the arrays, in the order of `keys`.
    """
    if len(inputs) == 1:
        return list(inputs)
    names = [spec.name for spec in keras.tree.flatten(specs)]
    named = dict(zip(names, inputs, strict=True))
    return [named[key.partition(":")[0]] for key in keys]


def register(kind: type[Format]) -> type[Format]:
    """Makes a format known by its name.

    Args:
        kind: Subclass of `Format`.

    Returns:
        The class.
    """
    _FORMATS[kind.name] = kind()
    return kind


def names() -> list[str]:
    """The names of all formats."""
    return list(_FORMATS)


def get(name: str) -> Format:
    """The format of a name.

    Raises:
        ValueError: If there is none.
    """
    check_choice("format", name, _FORMATS)
    return _FORMATS[name]
