"""Checks of arguments, so that the same mistake gives the same error.

Each check raises an error that names the argument, the rule and the value
received. `bool` is a subclass of `int`, but counts neither as an integer nor
as a number here: `num_bins=True` is a mistake.
"""

import numbers
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any


def is_integer(value: Any) -> bool:
    """Whether a value is an integer, of Python or NumPy."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_real(value: Any) -> bool:
    """Whether a value is a real number, of Python or NumPy; NaN is one."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_within(value: Any, interval: str) -> bool:
    """Whether a value is a real number inside an interval; NaN is not.

    Args:
        value: Anything.
        interval: Such as `"[0, 1)"` or `"(0, inf)"`.
    """
    if not is_real(value):
        return False
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    return bool(above and below)


def check_boolean(name: str, value: Any) -> None:
    """Raises unless an argument is True or False."""
    if not isinstance(value, bool):
        raise ValueError(
            f"`{name}` must be True or False. Received: {name}={value!r}"
        )


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raises unless an argument is an integer of at least `least`."""
    if not is_integer(value) or value < least:
        kinds = {0: "a non-negative integer", 1: "a positive integer"}
        kind = kinds.get(least, f"an integer of at least {least}")
        raise ValueError(f"`{name}` must be {kind}. Received: {name}={value!r}")


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Raises unless an argument is one of a few strings."""
    choices = list(choices)
    if value not in choices:
        raise ValueError(
            f"`{name}` must be one of {choices}. Received: {name}={value!r}"
        )


def named_or_callable(
    name: str,
    value: Any,
    known: Mapping[str, Callable[..., Any]],
    kind: str = "a callable",
) -> Callable[..., Any]:
    """The callable that an argument is, or that it names.

    Args:
        name: Name of the argument.
        value: What was given for it.
        known: Dict from names to callables.
        kind: What a callable has to be, for the error.

    Raises:
        ValueError: If it is neither a callable nor a name in `known`.
    """
    if callable(value):
        return value
    if isinstance(value, str) and value in known:
        return known[value]
    raise ValueError(
        f"`{name}` must be one of {sorted(known)} or {kind}. "
        f"Received: {name}={value}"
    )


def check_number(
    name: str, value: Any, interval: str = "[0, 1]", meaning: str = ""
) -> None:
    """Raises unless an argument is a number inside an interval.

    Args:
        name: Name of the argument.
        value: The value received.
        interval: As for `is_within`.
        meaning: What the number means, for the error message.
    """
    if not is_within(value, interval):
        rules = {"(0, inf)": "positive", "[0, inf)": "a non-negative number"}
        rule = rules.get(interval, f"in {interval}")
        rule = f"{rule}: {meaning}" if meaning else rule
        raise ValueError(f"`{name}` must be {rule}. Received: {name}={value!r}")


def check_model(name: str, model: Any) -> None:
    """Raises unless an argument is a model of Keras 3.

    Raises:
        TypeError: If it is something else.
    """
    import keras  # parts without Keras check their arguments as well

    if any(c.__module__.startswith("tf_keras") for c in type(model).__mro__):
        raise TypeError(
            f"`{name}` must be a model of the package `keras` (Keras 3), but "
            "it was built with the package `tf_keras` (Keras 2), which has "
            "classes of the same names. Build it with `import keras`. "
            f"Received: {name} of type {type(model)}"
        )
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`{name}` must be a keras.Model. Received: {name} of type "
            f"{type(model).__name__}"
        )
