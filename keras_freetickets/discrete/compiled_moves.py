"""Moves of single weights and of pairs, compiled by numba."""

from typing import Any

import numpy as np

from keras_freetickets.discrete.compiled_trials import accept
from keras_freetickets.discrete.compiled_trials import change_weight
from keras_freetickets.discrete.compiled_trials import finish_trial
from keras_freetickets.discrete.compiled_trials import forget
from keras_freetickets.discrete.compiled_trials import get_weight
from keras_freetickets.discrete.compiled_trials import refresh
from keras_freetickets.discrete.compiled_trials import set_weight
from keras_freetickets.discrete.compiled_trials import trial_loss
from keras_freetickets.optional import import_optional

numba = import_optional("numba")
__all__ = ["descend", "refresh", "swap"]


@numba.njit(cache=True)
def descend(
    s: Any,
    coordinates: np.ndarray,
    targets: np.ndarray,
    values: np.ndarray,
    keep: bool,
    penalty: float,
    least: float,
    limit: int,
    loss: float,
) -> tuple[float, int, int, np.ndarray]:
    """Visits coordinates and gives each the value of the lowest loss.

    Args:
        s: `State`.
        coordinates: Array `(visits, 4)` of layer, tap, channel (-1: the bias)
            and unit.
        targets: Array `(visits,)`, the index of the only value to try, or -1
            for all.
        values: Array, the finite set.
        keep: Whether weights do not become zero.
        penalty: Loss of each weight that is not zero.
        least: The least decrease that is accepted.
        limit: Largest number of trials.
        loss: The present mean cross-entropy.

    Returns:
        Tuple of the loss, the number of trials, the number of visits, and an
        array of the loss with its penalty's change after each accepted move.
    """
    trials, visits = 0, 0
    accepted = np.empty(coordinates.shape[0])
    moves, nonzero = 0, np.int64(0)
    for one in range(coordinates.shape[0]):
        if trials >= limit:
            break
        visits += 1
        coordinate = coordinates[one]
        old = get_weight(s, coordinate)
        best, best_value = loss - least, old
        for index in range(values.size):
            value = values[index]
            if value == old or (targets[one] >= 0 and index != targets[one]):
                continue
            if keep and value == 0.0 and coordinate[2] >= 0:
                continue
            change = np.int64(value != 0.0) - np.int64(old != 0.0)
            found = trial_loss(s, coordinate, value, loss) + penalty * change
            trials += 1
            if found < best:
                best, best_value = found, value
        if best_value != old:
            change_weight(s, coordinate, best_value - old)
            finish_trial(s, coordinate[0], loss)
            set_weight(s, coordinate, best_value)
            nonzero += np.int64(best_value != 0.0) - np.int64(old != 0.0)
            loss = accept(s)
            accepted[moves] = loss + penalty * nonzero
            moves += 1
    return loss, trials, visits, accepted[:moves]


@numba.njit(cache=True)
def swap(
    s: Any,
    losers: np.ndarray,
    winners: np.ndarray,
    values: np.ndarray,
    least: float,
    limit: int,
    loss: float,
) -> tuple[float, int, int, np.ndarray]:
    """Moves non-zero weights to other places of their layers, where it helps.

    Args:
        s: `State`.
        losers: Array `(pairs, 4)` of coordinates with weights that are not
            zero.
        winners: As `losers`, of weights that are zero, in the same layer.
        values: Array, the values that the other place may get; zero is left
            out.
        least: As for `descend`.
        limit: As for `descend`.
        loss: As for `descend`.

    Returns:
        Tuple of the loss, the number of trials, the number of pairs, and an
        array of the loss after each accepted swap.
    """
    trials, visits, moves = 0, 0, 0
    accepted = np.empty(losers.shape[0])
    for one in range(losers.shape[0]):
        if trials >= limit:
            break
        visits += 1
        loser, winner = losers[one], winners[one]
        old = get_weight(s, loser)
        if old == 0.0 or get_weight(s, winner) != 0.0:
            continue
        best, best_value = loss - least, 0.0
        for value in values:
            if value == 0.0:
                continue
            change_weight(s, loser, -old)
            change_weight(s, winner, value)
            found = finish_trial(s, loser[0], loss)
            forget(s)
            trials += 1
            if found < best:
                best, best_value = found, value
        if best_value != 0.0:
            change_weight(s, loser, -old)
            change_weight(s, winner, best_value)
            finish_trial(s, loser[0], loss)
            set_weight(s, loser, 0.0)
            set_weight(s, winner, best_value)
            loss = accept(s)
            accepted[moves] = loss
            moves += 1
    return loss, trials, visits, accepted[:moves]
