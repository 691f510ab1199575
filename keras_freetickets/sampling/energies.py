"""Checked evaluation of energies, and of the neighbours of states."""

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_freetickets.arguments import is_integer
from keras_freetickets.types import Array

Energy = Callable[[np.ndarray], Array]
# States that an energy gets in one call.
_LARGEST_BATCH = 65_536


def evaluate(energy: Energy, states: np.ndarray) -> np.ndarray:
    """Energies of states, in float64.

    Args:
        energy: Function of an integer array `(states, coordinates)` that
            returns one float for each state: the logarithm of the target up
            to a constant.
        states: Integer array `(states, coordinates)`.

    Returns:
        Array `(states,)`.

    Raises:
        TypeError: If the energy is not callable.
        ValueError: If it returns something else: another shape, another type
            than float32 and float64, or what is not finite.

    Example:

    >>> evaluate(lambda states: states.sum(axis=1) * 0.5, np.array([[1, 1]]))
    array([1.])
    """
    if not callable(energy):
        raise TypeError(
            "`energy` must be a function of states. "
            f"Received: energy={energy!r}"
        )
    parts = [
        _checked(energy(part), (len(part),))
        for part in np.array_split(
            states, max(1, -(-len(states) // _LARGEST_BATCH))
        )
    ]
    return np.concatenate(parts)


def _checked(
    values: Any,
    shape: tuple[int, ...],
    function: str = "energy",
    wanted: str = "one value for each state",
) -> np.ndarray:
    values = np.asarray(values)
    if values.shape != shape:
        raise ValueError(
            f"`{function}` must return {wanted}, an array of shape {shape}. "
            f"Received: {function}(states) of shape {values.shape}"
        )
    if values.dtype not in (np.float32, np.float64):
        raise ValueError(
            f"`{function}` must return float32 or float64. "
            f"Received: {function}(states) of dtype {values.dtype}"
        )
    if not np.isfinite(values).all():
        raise ValueError(
            f"`{function}` must return finite values; for a state that is not "
            f"allowed, a large negative one. Received: {function}(states) with "
            f"{values[~np.isfinite(values)][0]}"
        )
    return values.astype("float64")


def _own_differences(energy: Any, states: np.ndarray) -> np.ndarray:
    """What the energy's method `differences` returns, checked."""
    return _checked(
        energy.differences(states),
        states.shape,
        "energy.differences",
        "one value for each coordinate of each state",
    )


def check_states(name: str, states: Any, levels: int) -> np.ndarray:
    """States as an array of int64.

    Args:
        name: Name of the argument, for the error.
        states: Integer array `(chains, coordinates)`, from 0 to `levels` - 1.
        levels: Integer, number of values of a coordinate.

    Raises:
        ValueError: If the states are something else.

    Example:

    >>> check_states("start", [[0, 1]], levels=2)
    array([[0, 1]])
    """
    found = np.asarray(states)
    if found.ndim != 2 or found.dtype.kind not in "iub" or not found.size:
        raise ValueError(
            f"`{name}` must be an integer array of shape (chains, "
            f"coordinates). Received: {name} of shape {found.shape} and dtype "
            f"{found.dtype}"
        )
    found = found.astype("int64")
    if found.min() < 0 or found.max() >= levels:
        raise ValueError(
            f"`{name}` must hold levels from 0 to {levels - 1}. Received: "
            f"{name} from {found.min()} to {found.max()}"
        )
    return found


def check_levels(levels: Any) -> None:
    """Raises unless `levels` is an integer of at least 2.

    Args:
        levels: Anything.

    Raises:
        ValueError: If it is something else.

    Example:

    >>> check_levels(2)
    """
    if not is_integer(levels) or levels < 2:
        raise ValueError(
            "`levels` must be an integer of at least 2, the number of values "
            f"of a coordinate. Received: levels={levels!r}"
        )


def level_energies(
    energy: Energy, states: np.ndarray, values: np.ndarray, levels: int
) -> np.ndarray:
    """Energies with one coordinate at each level.

    Args:
        energy: As for `evaluate`. If it has a method `differences(states)` and
            there are two levels, that is called.
        states: Integer array `(chains, coordinates)`.
        values: Array `(chains,)`, the energies of the states.
        levels: As for `check_states`.

    Returns:
        Array `(chains, coordinates, levels)` of U(x with x_i = l).

    Raises:
        TypeError: As for `evaluate`.
        ValueError: As for `evaluate`.

    Example:

    >>> def energy(states):
    ...     return 0.5 * states.sum(axis=1)
    >>> level_energies(energy, np.array([[0, 1]]), np.array([0.5]), 2)
    array([[[0.5, 1. ],
            [0. , 0.5]]])
    """
    chains, coordinates = states.shape
    if levels == 2 and hasattr(energy, "differences"):
        steps = _own_differences(energy, states)
        base = values[:, None] - states * steps
        return np.stack([base, base + steps], axis=2)
    found = np.repeat(values[:, None, None], coordinates, axis=1)
    found = np.repeat(found, levels, axis=2)
    for shift in range(1, levels):
        moved = (states + shift) % levels
        flat = np.repeat(states[:, None], coordinates, axis=1)
        diagonal = np.arange(coordinates)
        flat[:, diagonal, diagonal] = moved
        given = evaluate(energy, flat.reshape(-1, coordinates))
        given = given.reshape(chains, coordinates, 1)
        np.put_along_axis(found, moved[..., None], given, axis=2)
    return found


def forward_differences(
    energy: Energy, states: np.ndarray, values: np.ndarray, levels: int
) -> np.ndarray:
    """U(x_i + 1) - U(x_i), backward at the highest level.

    For two levels it is U(x_i = 1) - U(x_i = 0), whatever x_i is.

    Args:
        energy: As for `level_energies`.
        states: As for `level_energies`.
        values: As for `level_energies`.
        levels: As for `check_states`.

    Returns:
        Array `(chains, coordinates)`.

    Raises:
        TypeError: As for `evaluate`.
        ValueError: As for `evaluate`.

    Example:

    >>> def energy(states):
    ...     return 0.5 * states.sum(axis=1) ** 2
    >>> forward_differences(energy, np.array([[0, 2]]), np.array([2.0]), 3)
    array([[2.5, 1.5]])
    """
    if levels == 2 and hasattr(energy, "differences"):
        return _own_differences(energy, states)
    chains, coordinates = states.shape
    sign = np.where(states < levels - 1, 1, -1)
    flat = np.repeat(states[:, None], coordinates, axis=1)
    diagonal = np.arange(coordinates)
    flat[:, diagonal, diagonal] = states + sign
    given = evaluate(energy, flat.reshape(-1, coordinates))
    given = given.reshape(chains, coordinates)
    return sign * (given - values[:, None])
