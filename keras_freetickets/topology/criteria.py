"""Which connections to drop and which to grow: scores, higher is better.

A drop criterion scores active connections, the lowest go; a growth criterion
scores absent ones, the highest come.
"""

from keras import ops


def magnitude(connections):
    """|kernel|: the smallest weights are dropped (SET, RigL, FreeTickets)."""
    return ops.abs(connections.kernel)


def gradient(connections):
    """|dense gradient|: the steepest connections grow (RigL)."""
    return ops.abs(connections.gradient)


def random(connections):
    """All alike: the seeded hash that breaks ties decides (SET)."""
    return ops.zeros_like(connections.kernel)


_DROP = {"magnitude": magnitude, "random": random}
_GROWTH = {"gradient": gradient, "random": random}


def _get(name, identifier, known):
    if callable(identifier):
        return identifier
    if identifier in known:
        return known[identifier]
    raise ValueError(
        f"`{name}` must be one of {sorted(known)} or a callable that takes "
        f"`Connections`. Received: {name}={identifier}"
    )


def get_drop(identifier):
    """Returns the drop criterion for a name or a callable."""
    return _get("drop", identifier, _DROP)


def get_growth(identifier):
    """Returns the growth criterion for a name or a callable."""
    return _get("growth", identifier, _GROWTH)
