"""Values in half precision."""

import typing

import numpy as np

from keras_freetickets.types import Array


def halved(values: typing.Any, name: str) -> Array:
    """Wider floats rounded to float16, other values as they are.

    Args:
        values: Array.
        name: What to call it in an error.

    Raises:
        ValueError: If a value does not fit into float16.
    """
    values = np.asarray(values)
    if values.dtype.kind != "f" or values.dtype.itemsize <= 2:
        return values
    with np.errstate(over="ignore"):
        rounded = values.astype("float16")
    lost = np.isfinite(values) & ~np.isfinite(rounded)
    if lost.any():
        raise ValueError(
            "`dtype` must not be 'float16' for weights beyond 65,504 in size. "
            f"Received: dtype='float16' for {name!r} that holds "
            f"{values[lost][0]}"
        )
    return rounded
