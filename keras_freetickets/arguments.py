"""Checks of arguments that several parts have in common."""

import numbers

import keras


def check_count(name, value, least=1):
    """Raises unless an argument is an integer of at least `least`."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < least:
        kind = "a positive integer" if least == 1 else f"at least {least}"
        raise ValueError(f"`{name}` must be {kind}. Received: {name}={value!r}")


def check_model(name, model):
    """Raises unless an argument is a model of Keras 3.

    Raises:
        TypeError: If it is something else.
    """
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
