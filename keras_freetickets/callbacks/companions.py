"""The callbacks that a method needs."""

import inspect
import typing
from collections.abc import Callable
from collections.abc import Sequence

import keras

from keras_freetickets import topology
from keras_freetickets.callbacks.gradient_snapshots import GradientSnapshots
from keras_freetickets.callbacks.weight_averaging import WeightAveraging
from keras_freetickets.topology.methods.registry import class_of

_Arguments = dict[str, typing.Any]
_BY_NAME = {
    "GradientSnapshots": GradientSnapshots,
    "WeightAveraging": WeightAveraging,
}


def companions_of(method: typing.Any) -> list[Callable[..., typing.Any]]:
    """The classes of the callbacks that a method needs.

    Args:
        method: A `Method` or its name.

    Returns:
        List of callback classes.

    Raises:
        ValueError: If the method names an unknown callback.
    """
    kind = class_of(method) if isinstance(method, str) else method
    kinds = []
    for companion in kind.companions:
        found = _BY_NAME.get(companion) if isinstance(companion, str) else None
        if found is None and isinstance(companion, str):
            raise ValueError(
                f"`companions` of a method must be in {sorted(_BY_NAME)} or "
                f"callback classes. Received: companions={kind.companions}"
            )
        kinds.append(found or companion)
    return kinds


def with_companions(
    method: typing.Any,
    given: Sequence[keras.callbacks.Callback],
    arguments: _Arguments,
) -> tuple[topology.Method, list[keras.callbacks.Callback]]:
    """Makes a method and the callbacks that do a part of its work.

    Args:
        method: As for `topology.get`.
        given: List of callbacks that exist already; no others of their classes
            are made.
        arguments: Dict of arguments of the callbacks and, if `method` is a
            name, of the method.

    Returns:
        Tuple of a `Method` and a list of callbacks, `given` first.

    Raises:
        ValueError: If a required argument of a callback is missing.
    """
    if not isinstance(method, str):
        method = topology.get(method)
    kinds = [
        kind
        for kind in companions_of(method)
        if not any(_is_a(one, kind) for one in given)
    ]
    parameters = [inspect.signature(kind).parameters for kind in kinds]
    taken = {name for each in parameters for name in each}
    others = {n: v for n, v in arguments.items() if n not in taken}
    method = topology.get(method, **others)
    made = list(given)
    for kind, known in zip(kinds, parameters, strict=True):
        own = {n: v for n, v in arguments.items() if n in known}
        for name, parameter in known.items():
            if parameter.default is parameter.empty and name not in own:
                raise ValueError(
                    f"`{name}` must be given with the method "
                    f"{type(method).__name__}: its callback {kind.__name__} "
                    f"needs it. Received: method={type(method).__name__} "
                    f"without {name}"
                )
        made.append(kind(**own))
    return method, made


def _is_a(callback: keras.callbacks.Callback, kind: typing.Any) -> bool:
    return isinstance(kind, type) and isinstance(callback, kind)
