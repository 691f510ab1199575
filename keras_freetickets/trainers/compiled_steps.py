"""Which compiled step serves a method that is attached again.

Keras traces a step once and keeps it from one `fit` to the next. What is
attached to a sparse model is part of that trace, so that another method needs
another step. An equal method gets the earlier step back.
"""

import contextlib
import dataclasses
import functools
import types
import typing
from collections.abc import Callable

import keras
import numpy as np

from keras_freetickets import keras_adapter
from keras_freetickets.types import Model

# Compiled steps hold graphs and programs: only the last few are kept.
_LIMIT = 4
_PROGRAM_LIMIT = 32


class CompiledSteps:
    """The train functions of a model, each with what was traced into it.

    Example:

    ```python
    steps = CompiledSteps()
    steps.choose(model, traits)  # before the next step
    steps.keep(model, traits)  # once the model has a train function
    ```
    """

    def __init__(self) -> None:
        self._kept: list[_Kept] = []

    def keep(self, model: Model, traits: list) -> None:
        """Remembers the model's train function, unless it is known.

        Those of an earlier `compile` are forgotten.

        Args:
            model: A compiled model.
            traits: List of all that is traced into its step, see `frozen`.
        """
        compilation = keras_adapter.compilation(model)
        self._kept = [k for k in self._kept if k.compilation is compilation]
        if self._of(model.train_function) is None:
            kept = _Kept(model.train_function, compilation, frozen(traits))
            self._kept = [*self._kept, kept][-_LIMIT:]

    def choose(self, model: Model, traits: list) -> None:
        """Gives the model the train function for what is attached now.

        Args:
            model: A model.
            traits: As for `keep`.
        """
        compilation = keras_adapter.compilation(model)
        wanted = frozen(traits)
        for kept in self._kept:
            if kept.compilation is compilation and kept.traits == wanted:
                model.train_function = kept.function
                return
        keras_adapter.reset_train_function(model)

    def is_new(self, model: Model) -> bool:
        """Whether the model's next step is compiled first; true only once."""
        kept = self._of(model.train_function)
        if kept is None or kept.announced:
            return False
        kept.announced = True
        return True

    def _of(self, function: Callable | None) -> "_Kept | None":
        found = [kept for kept in self._kept if kept.function is function]
        return found[0] if found else None


class SharedPrograms:
    """Compiled functions of arrays that steps of several models share.

    What an update chooses depends on the method, on the kernels' places and on
    arrays alone, so that models of equal shapes need one program.

    Example:

    ```python
    programs = SharedPrograms()
    choose = programs.get([method, indices], lambda: compiled(function))
    ```
    """

    def __init__(self) -> None:
        self._kept: list[tuple[typing.Any, Callable]] = []

    def get(self, traits: list, make: Callable[[], Callable]) -> Callable:
        """The program for what is traced into it.

        Args:
            traits: List of all that is traced into it but arrays, see
                `frozen`.
            make: Callable without arguments that makes the program, called
                unless there is one of equal traits.
        """
        wanted = frozen(traits)
        for kept, program in self._kept:
            if kept == wanted:
                return program
        program = make()
        self._kept = [*self._kept, (wanted, program)][-_PROGRAM_LIMIT:]
        return program


@dataclasses.dataclass
class _Kept:
    """A train function, the `compile` it belongs to and what it was made of."""

    function: typing.Any
    compilation: typing.Any
    traits: typing.Any
    announced: bool = False


def frozen(value: typing.Any) -> typing.Any:
    """A copy of a value's content that can be compared later.

    Numbers, strings, arrays, lists and dicts are compared by content, as are
    the attributes of methods, schedules and losses, of whatever class has a
    `get_config`. Functions and other objects that can be called are compared
    by identity and by what they look at: attributes, variables of functions
    around them and global numbers. All else (layers, variables) is compared
    by identity.

    Args:
        value: Any object.

    Returns:
        Nested tuples that are equal if the values are.
    """
    return _frozen(value, ())


class _Identity:
    """An object that equals itself alone, and that is kept alive for it."""

    def __init__(self, held: typing.Any) -> None:
        self.held = held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.held is other.held


def _frozen(value: typing.Any, above: tuple) -> typing.Any:
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        # 1, 1.0 and True are equal, and NaN is not equal to itself.
        return (type(value).__name__, repr(value))
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if isinstance(value, np.ndarray):
        return ("array", value.shape, value.dtype.str, value.tobytes())
    if any(value is one for one in above):
        return ("above", [value is one for one in above].index(True))
    above = (*above, value)
    if isinstance(value, (list, tuple)):
        items = tuple(_frozen(item, above) for item in value)
        return (type(value).__name__, *items)
    if isinstance(value, dict):
        pairs = sorted(value.items(), key=lambda item: repr(item[0]))
        return ("dict", *((repr(k), _frozen(v, above)) for k, v in pairs))
    if isinstance(value, types.MethodType):
        owner = _frozen_object(value.__self__, above)
        return ("method", _frozen(value.__func__, above), owner)
    if isinstance(value, types.FunctionType):
        looked_at = [vars(value), _looked_at(value)]
        return ("function", _Identity(value), _frozen(looked_at, above))
    if callable(value) or hasattr(value, "get_config"):
        return _frozen_object(value, above)
    return _Identity(value)


def _frozen_object(value: typing.Any, above: tuple) -> typing.Any:
    stateful = (keras.Layer, keras.Variable, keras.optimizers.Optimizer, type)
    if isinstance(value, stateful) or not hasattr(value, "__dict__"):
        return _Identity(value)
    # Without a config an object may be more than its attributes.
    kind = type(value) if hasattr(value, "get_config") else value
    attributes = {
        name: held
        for name, held in vars(value).items()
        if not isinstance(
            getattr(type(value), name, None), functools.cached_property
        )
    }
    return ("object", _Identity(kind), _frozen(attributes, above))


def _looked_at(function: types.FunctionType) -> dict[str, typing.Any]:
    """Values around a function that another call may find changed."""
    names = function.__code__.co_freevars
    cells = zip(names, function.__closure__ or (), strict=True)
    found: dict[str, typing.Any] = {}
    for name, cell in cells:
        with contextlib.suppress(ValueError):  # not assigned yet
            found[name] = cell.cell_contents
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if isinstance(value, (bool, int, float, str, np.generic)):
            found.setdefault(name, value)
    return found
