"""Which connections to drop and which to grow: scores, higher is better.

A drop criterion scores active connections, the lowest go; a growth criterion
scores absent ones, the highest come.
"""

from keras import ops


def magnitude(view):
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


def gradient(view):
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


def random(view):
    """All alike: the seeded hash that breaks ties decides (SET).

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


def _get(name, identifier, known):
    if callable(identifier):
        return identifier
    if isinstance(identifier, str) and identifier in known:
        return known[identifier]
    raise ValueError(
        f"`{name}` must be one of {sorted(known)} or a callable that takes "
        f"`KernelView`. Received: {name}={identifier}"
    )


def get_drop(identifier):
    """Returns the drop criterion for a name or a callable.

    Args:
        identifier: `"magnitude"`, `"random"` or a callable that takes
            `KernelView` and returns a score for each entry of the kernel;
            the lowest of the active ones go.

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


def get_growth(identifier):
    """Returns the growth criterion for a name or a callable.

    Args:
        identifier: `"gradient"`, `"random"` or a callable that takes
            `KernelView` and returns a score for each entry of the kernel;
            the highest of the absent ones come.

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
