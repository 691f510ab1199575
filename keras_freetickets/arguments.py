"""Checks of arguments that several parts have in common."""

import numbers


def check_count(name, value, least=1):
    """Raises unless an argument is an integer of at least `least`."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < least:
        kind = "a positive integer" if least == 1 else f"at least {least}"
        raise ValueError(f"`{name}` must be {kind}. Received: {name}={value!r}")
