"""The registry of methods: `register` adds a class, `get` finds it by name."""

import difflib
import typing
from collections.abc import Callable

import keras

from keras_freetickets.topology.methods.method import Method

_MethodClass = typing.TypeVar("_MethodClass", bound=type[Method])
# Name -> class.
_REGISTERED: dict[str, type[Method]] = {}


def register(
    name: str, package: str = "Custom"
) -> Callable[[_MethodClass], _MethodClass]:
    """Decorator that registers a `Method` class under a name.

    `get`, `callbacks.DropAndGrow`, `callbacks.EDST` and `callbacks.DST` then
    accept the name. The class is also registered with Keras, so that its
    configuration can be saved and loaded.

    Args:
        name: String, lower-case words joined by underscores.
        package: String, the package of Keras' registered name,
            `"package>ClassName"`. Defaults to `"Custom"` (as in
            `keras.saving.register_keras_serializable`).

    Returns:
        A decorator that returns the class unchanged.

    Raises:
        ValueError: If `name` is not such a string or belongs to another class,
            or the decorated object is not a subclass of `Method`.

    Example:

    ```python
    @keras_freetickets.topology.register("taylor")
    class Taylor(keras_freetickets.topology.Method):
        def drop_score(self, view):
            return keras.ops.abs(view.kernel * view.gradient)


    callback = keras_freetickets.callbacks.DropAndGrow("taylor")
    ```
    """
    if not isinstance(name, str) or name != name.lower() or not name.strip():
        raise ValueError(
            "`name` must be a string of lower-case words joined by "
            f"underscores. Received: name={name!r}"
        )

    def registered(kind: _MethodClass) -> _MethodClass:
        if not isinstance(kind, type) or not issubclass(kind, Method):
            raise ValueError(
                "`register` decorates subclasses of "
                f"keras_freetickets.topology.Method. Received: {kind!r}"
            )
        for key in (name, kind.__name__.lower()):
            other = _find(key)
            # The same class again: a cell of a notebook was run twice.
            if other is not None and _path(other) != _path(kind):
                raise ValueError(
                    f"`name` must be one that no other method has: {key!r} is "
                    f"{_path(other)}. Received: name={name!r} for {_path(kind)}"
                )
        _REGISTERED[name] = kind
        keras.saving.register_keras_serializable(package=package)(kind)
        return kind

    return registered


def get(identifier: typing.Any, **kwargs: typing.Any) -> Method:
    """Returns the method for a name, a configuration or a `Method`.

    Args:
        identifier: The name of a registered method, such as `"rigl"` or
            `"dst_ee"`; the name of its class, such as `"DSTEE"`, in upper or
            lower case; a dict made by `keras.saving.serialize_keras_object`;
            or a `Method`.
        **kwargs: Arguments of the method, if `identifier` is a name.

    Returns:
        A `Method`.

    Raises:
        ValueError: If no method has this name (the error suggests a similar
            one), `identifier` has the wrong type, or arguments are given with
            a method or a configuration.
        TypeError: If the method does not have one of the arguments.

    Example:

    >>> get("rigl", update_interval=50).update_interval
    50

    Reference:
        `keras.optimizers.get` takes the same kinds of identifier.
    """
    if isinstance(identifier, str):
        return class_of(identifier)(**kwargs)
    if isinstance(identifier, dict):
        method = keras.saving.deserialize_keras_object(identifier)
    else:
        method = identifier
    if not isinstance(method, Method):
        raise ValueError(
            "`method` must be a keras_freetickets.topology.Method, its name or "
            f"its configuration. Received: method={identifier}"
        )
    if kwargs:
        raise ValueError(
            "Give either `method` or its arguments. "
            f"Received: method={method} and {sorted(kwargs)}"
        )
    return method


def method_names() -> list[str]:
    """The names of all registered methods, sorted.

    Example:

    ```python
    keras_freetickets.topology.method_names()  # ["agent", ...]
    ```
    """
    return sorted(_REGISTERED)


def _find(name: str) -> type[Method] | None:
    name = name.lower()
    by_class = {kind.__name__.lower(): kind for kind in _REGISTERED.values()}
    return _REGISTERED.get(name, by_class.get(name))


def class_of(name: str) -> type[Method]:
    """The class for a name, as in `get`.

    Args:
        name: String.

    Raises:
        ValueError: If no method has this name.
    """
    kind = _find(name)
    if kind is None:
        near = difflib.get_close_matches(
            name.lower(), method_names(), 1, cutoff=0.5
        )
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(
            f"`method` must be one of {method_names()}{hint}. "
            f"Received: method={name!r}"
        )
    return kind


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


register("drop_and_grow", package="keras_freetickets")(Method)
