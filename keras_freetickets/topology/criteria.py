"""Criteria: scores by which connections are dropped and grown.

A drop criterion scores active connections; those with the lowest scores are
dropped. A growth criterion scores absent ones; those with the highest scores
are grown.
"""

import typing
from collections.abc import Callable

from keras import ops

from keras_freetickets.topology.kernel_view import KernelView
from keras_freetickets.types import Tensor


def magnitude(view: KernelView) -> Tensor:
    """|kernel|: the smallest weights are dropped (SET, RigL, FreeTickets).

    Args:
        view: `KernelView` of one kernel.

    Returns:
        Float tensor of the kernel's shape.

    Example:

    ```python
    Method(drop="magnitude")  # the same as drop=criteria.magnitude
    ```
    """
    return ops.abs(view.kernel)


def gradient(view: KernelView) -> Tensor:
    """|dense gradient|: the steepest connections grow (RigL).

    Args:
        view: `KernelView` of one kernel.

    Returns:
        Float tensor of the kernel's shape.

    Example:

    ```python
    Method(growth="gradient")  # the same as growth=criteria.gradient
    ```
    """
    return ops.abs(view.gradient)


def random(view: KernelView) -> Tensor:
    """Zeros: the seeded hash that breaks ties decides (SET).

    Args:
        view: `KernelView` of one kernel.

    Returns:
        Float tensor of the kernel's shape, zeros.

    Example:

    ```python
    Method(growth="random")  # the same as growth=criteria.random
    ```
    """
    return ops.zeros_like(view.kernel)


_DROP = {"magnitude": magnitude, "random": random}
_GROWTH = {"gradient": gradient, "random": random}


def _get(
    name: str, identifier: typing.Any, known: dict[str, Callable[..., Tensor]]
) -> Callable[..., Tensor]:
    if callable(identifier):
        return identifier
    if isinstance(identifier, str) and identifier in known:
        return known[identifier]
    raise ValueError(
        f"`{name}` must be one of {sorted(known)} or a callable that takes "
        f"`KernelView`. Received: {name}={identifier}"
    )


def get_drop(identifier: typing.Any) -> Callable[[KernelView], Tensor]:
    """Returns the drop criterion for a name or a callable.

    Args:
        identifier: `"magnitude"`, `"random"` or a callable that takes
            `KernelView` and returns a score for each entry of the kernel;
            the lowest of the active ones are
            dropped.

    Returns:
        The callable.

    Raises:
        ValueError: If `identifier` is neither.

    Example:

    ```python
    get_drop("magnitude")  # criteria.magnitude
    ```
    """
    return _get("drop", identifier, _DROP)


def get_growth(identifier: typing.Any) -> Callable[[KernelView], Tensor]:
    """Returns the growth criterion for a name or a callable.

    Args:
        identifier: `"gradient"`, `"random"` or a callable that takes
            `KernelView` and returns a score for each entry of the kernel;
            the highest of the absent ones are
            grown.

    Returns:
        The callable.

    Raises:
        ValueError: If `identifier` is neither.

    Example:

    ```python
    get_growth("gradient")  # criteria.gradient
    ```
    """
    return _get("growth", identifier, _GROWTH)
