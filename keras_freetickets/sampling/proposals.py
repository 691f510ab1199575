"""Newton's proposal: where coordinates may move, all at once."""

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithms of probabilities over the last axis, without overflow.

    Args:
        logits: Array of finite numbers.

    Example:

    >>> log_softmax(np.array([0.0, 1e4])).tolist()
    [-10000.0, 0.0]
    """
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def ordinal_log_probabilities(
    states: np.ndarray, differences: np.ndarray, alpha: float, levels: int
) -> np.ndarray:
    """Proposal over the levels of each coordinate, which are ordered.

    The logit of level l is `D_i (l - x_i) / 2 - (l - x_i)^2 / (2 alpha)`. With
    two levels this is the binary proposal, which flips a bit with probability
    `sigmoid(-D_i (2 x_i - 1) / 2 - 1 / (2 alpha))`.

    Args:
        states: Integer array `(chains, coordinates)`.
        differences: Array `(chains, coordinates)` of `D_i`.
        alpha: Positive float, the variance of a step.
        levels: Integer, number of values of a coordinate.

    Returns:
        Array `(chains, coordinates, levels)` of logarithms.

    Example:

    >>> x, differences = np.array([[1]]), np.array([[0.0]])
    >>> logs = ordinal_log_probabilities(x, differences, 0.5, levels=2)
    >>> np.exp(logs[0, 0]).round(3).tolist()  # flips with sigmoid(-1)
    [0.269, 0.731]
    """
    moves = np.arange(levels) - states[..., None]
    logits = differences[..., None] * moves / 2 - moves**2 / (2 * alpha)
    return log_softmax(logits)


def categorical_log_probabilities(
    states: np.ndarray, level_energies: np.ndarray, alpha: float
) -> np.ndarray:
    """Proposal over the levels of each coordinate, which have no order.

    The logit of level l is `(U(x_i = l) - U(x)) / 2 - [l != x_i] / alpha`: two
    one-hot vectors are at a squared distance of 2.

    Args:
        states: As for `ordinal_log_probabilities`.
        level_energies: Array `(chains, coordinates, levels)` of U(x_i = l).
        alpha: As for `ordinal_log_probabilities`.

    Returns:
        Array `(chains, coordinates, levels)` of logarithms.

    Example:

    >>> x, energies = np.array([[0]]), np.array([[[0.0, 0.0, 2.0]]])
    >>> logs = categorical_log_probabilities(x, energies, alpha=1.0)
    >>> np.exp(logs[0, 0]).round(3).tolist()  # logits 0, -1, 0
    [0.422, 0.155, 0.422]
    """
    levels = level_energies.shape[-1]
    moved = np.arange(levels) != states[..., None]
    present = np.take_along_axis(level_energies, states[..., None], axis=2)
    return log_softmax((level_energies - present) / 2 - moved / alpha)


def draw(
    states: np.ndarray, log_probabilities: np.ndarray, uniforms: np.ndarray
) -> np.ndarray:
    """New levels of all coordinates.

    Levels are cumulated from the one above the present, which comes last: a bit
    flips where the uniform number is at most its probability.

    Args:
        states: Integer array `(chains, coordinates)`.
        log_probabilities: Array `(chains, coordinates, levels)`.
        uniforms: Array `(chains, coordinates)` of numbers in [0, 1).

    Returns:
        Integer array `(chains, coordinates)`.

    Example:

    >>> logs = np.log(np.array([[[0.7, 0.3], [0.7, 0.3]]]))
    >>> draw(np.array([[0, 0]]), logs, np.array([[0.2, 0.4]]))
    array([[1, 0]])
    """
    levels = log_probabilities.shape[-1]
    order = (states[..., None] + np.arange(1, levels + 1)) % levels
    ordered = np.take_along_axis(log_probabilities, order, axis=2)
    below = np.cumsum(np.exp(ordered), axis=2)[..., :-1]
    passed = (uniforms[..., None] > below).sum(axis=2)
    return np.take_along_axis(order, passed[..., None], axis=2)[..., 0]


def log_probability(
    states: np.ndarray, log_probabilities: np.ndarray
) -> np.ndarray:
    """Logarithm of the probability of a proposal.

    Args:
        states: Integer array `(chains, coordinates)`, what was proposed.
        log_probabilities: Array `(chains, coordinates, levels)`.

    Returns:
        Array `(chains,)`.

    Example:

    >>> logs = np.log(np.array([[[0.75, 0.25], [0.5, 0.5]]]))
    >>> np.exp(log_probability(np.array([[1, 1]]), logs)).round(3).tolist()
    [0.125]
    """
    chosen = np.take_along_axis(log_probabilities, states[..., None], axis=2)
    return chosen[..., 0].sum(axis=1)
