"""Criteria: scores by which connections are dropped and grown.

A criterion is a function of a `KernelView` of one kernel and returns a float
tensor of the kernel's shape. A drop criterion scores active connections; those
with the lowest scores are dropped. A growth criterion scores absent ones; those
with the highest scores are grown.
"""

import typing
from collections.abc import Callable

from keras import ops

from keras_freetickets.arguments import named_or_callable
from keras_freetickets.topology.kernel_view import KernelView
from keras_freetickets.types import Tensor


def magnitude(view: KernelView) -> Tensor:
    """|kernel|: the smallest weights are dropped (SET, RigL, FreeTickets).

    Args:
        view: `KernelView` of one kernel.

    Returns:
        Float tensor of the kernel's shape, not negative.

    Example:

    ```python
    Method(drop="magnitude")
    Method(drop=criteria.magnitude)  # the same
    ```
    """
    return ops.abs(view.kernel)


def gradient(view: KernelView) -> Tensor:
    """|dense gradient|: the steepest connections grow (RigL).

    Args:
        view: As for `magnitude`.

    Returns:
        Float tensor of the kernel's shape: how fast the loss would change
        with each weight, absent ones too.

    Example:

    ```python
    Method(growth="gradient")  # the same as growth=criteria.gradient
    ```
    """
    return ops.abs(view.gradient)


def random(view: KernelView) -> Tensor:
    """Zeros: the seeded hash that breaks ties decides (SET).

    Every choice is as likely as any other, and needs no gradient.

    Args:
        view: As for `magnitude`.

    Returns:
        Zeros of the kernel's shape.

    Example:

    ```python
    Method(growth="random")  # SET
    Method(drop="random")
    ```
    """
    return ops.zeros_like(view.kernel)


_DROP = {"magnitude": magnitude, "random": random}
_GROWTH = {"gradient": gradient, "random": random}
_KIND = "a callable that takes `KernelView`"


def get_drop(identifier: typing.Any) -> Callable[[KernelView], Tensor]:
    """Returns the drop criterion for a name or a callable.

    Args:
        identifier: `"magnitude"`, `"random"` or a callable that takes
            `KernelView` and returns a score for each entry of the kernel; the
            lowest of the active ones are dropped.

    Returns:
        The callable.

    Raises:
        ValueError: If `identifier` is neither a name nor a callable.

    Example:

    ```python
    get_drop("magnitude")  # criteria.magnitude
    ```
    """
    return named_or_callable("drop", identifier, _DROP, _KIND)


def get_growth(identifier: typing.Any) -> Callable[[KernelView], Tensor]:
    """Returns the growth criterion for a name or a callable.

    Args:
        identifier: `"gradient"`, `"random"` or a callable as for `get_drop`;
            the highest of the absent ones are grown.

    Returns:
        The callable; its scores are those of absent connections.

    Raises:
        ValueError: As for `get_drop`.

    Example:

    ```python
    get_growth("gradient")  # criteria.gradient
    ```
    """
    return named_or_callable("growth", identifier, _GROWTH, _KIND)
