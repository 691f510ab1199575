"""Trials of changed weights, compiled by numba. Importing this imports numba.

Activations of the whole batch are kept in flat arrays with the batch
innermost: `(channels, positions, examples)`, so that every inner loop runs over
a contiguous row of examples, which the compiler vectorizes. A trial computes
the sums of the units that it touches, and follows their changes upwards along
the weights that are not zero.
"""

import collections
import math
from typing import Any

import numpy as np

from keras_freetickets.optional import import_optional

numba = import_optional("numba")
ir = import_optional("llvmlite.ir")
extending = import_optional("numba.extending")

# Columns of `State.layers`, one row for each layer. Offsets point into the
# flat arrays of the state.
COLUMNS = (
    "channels_in",
    "positions_in",
    "units",
    "positions",  # of the sums
    "taps",
    "rectified",  # 1: ReLU, 0: linear
    "pool_size",  # positions that are pooled; 0: none
    "pool_mean",  # 1: the mean, 0: the maximum
    "positions_out",  # after pooling
    "inputs_at",
    "sums_at",
    "weights_at",
    "biases_at",
    "taps_at",
    "pools_at",
)
(
    CHANNELS_IN,
    POSITIONS_IN,
    UNITS,
    POSITIONS,
    TAPS,
    RECTIFIED,
    POOL_SIZE,
    POOL_MEAN,
    POSITIONS_OUT,
    INPUTS_AT,
    SUMS_AT,
    WEIGHTS_AT,
    BIASES_AT,
    TAPS_AT,
    POOLS_AT,
) = range(len(COLUMNS))

# All arrays of a search; `network.Network.state` makes them.
State = collections.namedtuple(
    "State",
    [
        "layers",  # (layers, COLUMNS), int64
        "scales",  # (layers,), float64
        "weights",  # flat (taps, channels in, units) of each layer
        "biases",  # flat (units,) of each layer
        "taps",  # flat (taps, positions): positions of inputs, -1 for none
        "pools",  # flat (positions out, pool size): positions, -1 for none
        "inputs",  # flat (channels in, positions in, examples)
        "sums",  # flat (units, positions, examples), before the activation
        "new_sums",  # as sums: those of a trial
        "changes",  # as inputs: those of a trial, minus the inputs
        "exps",  # (classes, examples): exp(logits - shifts)
        "shifts",  # (examples,): the largest logit
        "starts",  # (classes + 1,): examples are sorted by label
        "touched",  # (layers, 1 + units): a count and the units of a trial
        "moved",  # (layers, 1 + channels in): the same of inputs
        "marks",  # (layers, units): whether a unit is among the touched
        "row",  # (examples,): intermediate values
    ],
)

_CONTRACT = {"contract"}
# Sums may be reordered, to have one for each lane of a vector.
_REORDERED = {"contract", "reassoc", "nsz"}
_LARGEST_EXPONENT = 600.0  # far from the 709 where exp overflows
_BLOCK = 512  # factors below 2 whose product is finite


def _bitcast(kind, result):
    @extending.intrinsic
    def cast(typing_context, value):
        def emit(context, builder, signature, arguments):
            return builder.bitcast(arguments[0], kind)

        return result(value), emit

    return cast


_as_float: Any = _bitcast(ir.DoubleType(), numba.float64)
_as_bits: Any = _bitcast(ir.IntType(64), numba.uint64)


@numba.njit(cache=True, fastmath=_CONTRACT, inline="always")
def _exp(x):
    """exp(x) within 2e-15 for |x| <= 600, in operations that vectorize."""
    whole = math.floor(x * 1.4426950408889634 + 0.5)
    # ln 2 in two parts, so that the difference is exact.
    r = x - whole * 6.93147180369123816490e-01
    r = r - whole * 1.90821492927058770002e-10
    # The series of exp at |r| <= ln(2) / 2: the next term is 4e-18.
    p = 1.0 / 6227020800.0
    p = p * r + 1.0 / 479001600.0
    p = p * r + 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    power = np.uint64(np.int64(np.int32(whole)) + np.int64(1023))
    return p * _as_float(power << np.uint64(52))


@numba.njit(cache=True, fastmath=_REORDERED)
def _sum_of_logs(values):
    """The sum of the logarithms of positive numbers, with few logarithms."""
    mantissa = np.uint64(0x000FFFFFFFFFFFFF)
    one = np.uint64(0x3FF0000000000000)
    total, exponents = 0.0, np.uint64(0)
    for start in range(0, values.size, _BLOCK):
        product = 1.0
        for i in range(start, min(start + _BLOCK, values.size)):
            bits = _as_bits(values[i])
            exponents += bits >> np.uint64(52)
            product *= _as_float((bits & mantissa) | one)
        total += math.log(product)
    biased = np.int64(exponents) - 1023 * np.int64(values.size)
    return total + 0.6931471805599453 * biased


@numba.njit(cache=True, fastmath=_CONTRACT)
def _add_row(target, at, factor, source, start, count):
    for i in range(count):
        target[at + i] += factor * source[start + i]


@numba.njit(cache=True)
def _touch(s, layer, unit):
    """Begins the new sums of a unit with its present ones."""
    if s.marks[layer, unit]:
        return
    s.marks[layer, unit] = 1
    s.touched[layer, 0] += 1
    s.touched[layer, s.touched[layer, 0]] = unit
    info = s.layers[layer]
    count = info[POSITIONS] * s.shifts.size
    at = info[SUMS_AT] + unit * count
    s.new_sums[at : at + count] = s.sums[at : at + count]


@numba.njit(cache=True)
def _add(s, layer, tap, channel, unit, change, source):
    """Adds a change of one weight times inputs to the new sums of its unit.

    Channel -1 is the bias, whose input is 1.
    """
    info, examples = s.layers[layer], s.shifts.size
    _touch(s, layer, unit)
    factor = s.scales[layer] * change
    for position in range(info[POSITIONS]):
        at = info[SUMS_AT] + (unit * info[POSITIONS] + position) * examples
        if channel < 0:
            for i in range(examples):
                s.new_sums[at + i] += factor
            continue
        seen = s.taps[info[TAPS_AT] + tap * info[POSITIONS] + position]
        if seen >= 0:
            start = channel * info[POSITIONS_IN] + seen
            start = info[INPUTS_AT] + start * examples
            _add_row(s.new_sums, at, factor, source, start, examples)


@numba.njit(cache=True)
def _activate_row(s, info, unit, position, sums):
    """Writes activation and pooling of a position into `s.row`."""
    examples = s.shifts.size
    base = info[SUMS_AT] + unit * info[POSITIONS] * examples
    if info[POOL_SIZE] == 0:
        at = base + position * examples
        if info[RECTIFIED]:
            for i in range(examples):
                s.row[i] = max(sums[at + i], 0.0)
        else:
            for i in range(examples):
                s.row[i] = sums[at + i]
        return
    lowest = -np.inf
    if info[RECTIFIED] or info[POOL_MEAN]:
        lowest = 0.0
    for i in range(examples):
        s.row[i] = lowest
    pooled = 0
    first = info[POOLS_AT] + position * info[POOL_SIZE]
    for one in range(first, first + info[POOL_SIZE]):
        if s.pools[one] < 0:
            continue
        pooled += 1
        at = base + s.pools[one] * examples
        if not info[POOL_MEAN]:
            for i in range(examples):
                s.row[i] = max(s.row[i], sums[at + i])
        elif info[RECTIFIED]:
            for i in range(examples):
                s.row[i] += max(sums[at + i], 0.0)
        else:
            for i in range(examples):
                s.row[i] += sums[at + i]
    if info[POOL_MEAN]:
        for i in range(examples):
            s.row[i] /= pooled


@numba.njit(cache=True)
def _move_inputs(s, layer):
    """Changes of the inputs above a layer, from its new sums."""
    info, above = s.layers[layer], s.layers[layer + 1]
    examples = s.shifts.size
    for one in range(1, s.touched[layer, 0] + 1):
        unit = s.touched[layer, one]
        differs = np.int64(0)
        for position in range(info[POSITIONS_OUT]):
            _activate_row(s, info, unit, position, s.new_sums)
            at = unit * info[POSITIONS_OUT] + position
            at = above[INPUTS_AT] + at * examples
            for i in range(examples):
                change = s.row[i] - s.inputs[at + i]
                s.changes[at + i] = change
                differs |= np.int64(change != 0.0)
        if differs:
            s.moved[layer + 1, 0] += 1
            s.moved[layer + 1, s.moved[layer + 1, 0]] = unit


@numba.njit(cache=True)
def _propagate(s, layer):
    """New sums of a layer whose inputs have moved.

    After `Flatten` a channel of the layer below is one of this layer, and its
    positions are taps.
    """
    info = s.layers[layer]
    for one in range(1, s.moved[layer, 0] + 1):
        channel = s.moved[layer, one]
        for tap in range(info[TAPS]):
            at = (tap * info[CHANNELS_IN] + channel) * info[UNITS]
            at += info[WEIGHTS_AT]
            for unit in range(info[UNITS]):
                weight = s.weights[at + unit]
                if weight != 0.0:
                    _add(s, layer, tap, channel, unit, weight, s.changes)


@numba.njit(cache=True, fastmath=_REORDERED)
def _sum_of_labels(s, sums, unit, start):
    """The sum of one logit over the examples with its label."""
    total = 0.0
    for i in range(s.starts[unit], s.starts[unit + 1]):
        total += sums[start + i]
    return total


@numba.njit(cache=True, fastmath=_CONTRACT)
def _add_exps(row, logits, at, shifts):
    """Adds exp(logits - shifts); returns whether that stayed in range."""
    outside = np.int64(0)
    for i in range(shifts.size):
        x = logits[at + i] - shifts[i]
        outside |= np.int64(abs(x) > _LARGEST_EXPONENT)
        row[i] += _exp(x)
    return outside == 0


@numba.njit(cache=True)
def _exact_loss(s):
    """The loss of a trial whose logits are far from the present ones."""
    last = s.layers.shape[0] - 1
    examples, classes = s.shifts.size, s.layers[last, UNITS]
    total, label = 0.0, 0
    logits = np.empty(classes)
    for i in range(examples):
        while i >= s.starts[label + 1]:
            label += 1
        for unit in range(classes):
            at = s.layers[last, SUMS_AT] + unit * examples + i
            marked = s.marks[last, unit]
            logits[unit] = s.new_sums[at] if marked else s.sums[at]
        top = logits.max()
        total += math.log(np.exp(logits - top).sum()) + top - logits[label]
    return total / examples


@numba.njit(cache=True)
def _loss(s):
    """Mean cross-entropy with the new logits of the touched classes."""
    last = s.layers.shape[0] - 1
    examples, classes = s.shifts.size, s.layers[last, UNITS]
    first = s.layers[last, SUMS_AT]
    s.row[:] = 0.0
    of_labels, inside = 0.0, True
    for unit in range(classes):
        at = first + unit * examples
        if s.marks[last, unit]:
            inside &= _add_exps(s.row, s.new_sums, at, s.shifts)
            of_labels += _sum_of_labels(s, s.new_sums, unit, at)
        else:
            _add_row(s.row, 0, 1.0, s.exps, unit * examples, examples)
            of_labels += _sum_of_labels(s, s.sums, unit, at)
    if not inside:
        return _exact_loss(s)
    logs = _sum_of_logs(s.row) + s.shifts.sum()
    return (logs - of_labels) / examples


@numba.njit(cache=True)
def _forget(s):
    """Ends a trial."""
    for layer in range(s.layers.shape[0]):
        for one in range(1, s.touched[layer, 0] + 1):
            s.marks[layer, s.touched[layer, one]] = 0
        s.touched[layer, 0] = 0
        s.moved[layer, 0] = 0


@numba.njit(cache=True)
def _finish_trial(s, layer, loss):
    """The loss with what `_add` has changed in a layer."""
    last = s.layers.shape[0] - 1
    for one in range(layer, last):
        _move_inputs(s, one)
        if s.moved[one + 1, 0] == 0:
            return loss  # nothing arrives above
        _propagate(s, one + 1)
    if s.touched[last, 0] == 0:
        return loss
    return _loss(s)


@numba.njit(cache=True)
def refresh(s: Any) -> float:
    """Begins a search: exponentials of the present logits.

    Returns:
        The mean cross-entropy.
    """
    last = s.layers.shape[0] - 1
    examples, classes = s.shifts.size, s.layers[last, UNITS]
    first = s.layers[last, SUMS_AT]
    s.shifts[:] = s.sums[first : first + examples]
    for unit in range(1, classes):
        at = first + unit * examples
        for i in range(examples):
            s.shifts[i] = max(s.shifts[i], s.sums[at + i])
    s.exps[:] = 0.0
    inside = True
    for unit in range(classes):
        row = s.exps[unit * examples : (unit + 1) * examples]
        inside &= _add_exps(row, s.sums, first + unit * examples, s.shifts)
        if not inside:
            # Of the least likely classes: 0 to any precision.
            for i in range(examples):
                x = s.sums[first + unit * examples + i] - s.shifts[i]
                row[i] = math.exp(x)
            inside = True
    _forget(s)
    return _loss(s)


@numba.njit(cache=True)
def _accept(s):
    """Makes the values of a trial the present ones.

    Returns:
        The mean cross-entropy.
    """
    last = s.layers.shape[0] - 1
    examples = s.shifts.size
    for layer in range(last + 1):
        info = s.layers[layer]
        count = info[POSITIONS] * examples
        for one in range(1, s.touched[layer, 0] + 1):
            at = info[SUMS_AT] + s.touched[layer, one] * count
            s.sums[at : at + count] = s.new_sums[at : at + count]
        if layer == last:
            continue
        above = s.layers[layer + 1, INPUTS_AT]
        for one in range(1, s.moved[layer + 1, 0] + 1):
            unit = s.moved[layer + 1, one]
            for position in range(info[POSITIONS_OUT]):
                _activate_row(s, info, unit, position, s.sums)
                at = unit * info[POSITIONS_OUT] + position
                at = above + at * examples
                s.inputs[at : at + examples] = s.row
    return refresh(s)


@numba.njit(cache=True)
def _place(s, coordinate):
    """Where the value of a coordinate is stored."""
    layer, tap, channel, unit = coordinate
    info = s.layers[layer]
    if channel < 0:
        return info[BIASES_AT] + unit
    at = (tap * info[CHANNELS_IN] + channel) * info[UNITS] + unit
    return info[WEIGHTS_AT] + at


@numba.njit(cache=True)
def _get(s, coordinate):
    at = _place(s, coordinate)
    return s.biases[at] if coordinate[2] < 0 else s.weights[at]


@numba.njit(cache=True)
def _set(s, coordinate, value):
    at = _place(s, coordinate)
    if coordinate[2] < 0:
        s.biases[at] = value
    else:
        s.weights[at] = value


@numba.njit(cache=True)
def _change(s, coordinate, change):
    layer, tap, channel, unit = coordinate
    _add(s, layer, tap, channel, unit, change, s.inputs)


@numba.njit(cache=True)
def trial_loss(s: Any, coordinate: Any, value: float, loss: float) -> float:
    """The mean cross-entropy if one weight had another value."""
    _change(s, coordinate, value - _get(s, coordinate))
    found = _finish_trial(s, coordinate[0], loss)
    _forget(s)
    return found


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
        old = _get(s, coordinate)
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
            _change(s, coordinate, best_value - old)
            _finish_trial(s, coordinate[0], loss)
            _set(s, coordinate, best_value)
            nonzero += np.int64(best_value != 0.0) - np.int64(old != 0.0)
            loss = _accept(s)
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
        old = _get(s, loser)
        if old == 0.0 or _get(s, winner) != 0.0:
            continue
        best, best_value = loss - least, 0.0
        for value in values:
            if value == 0.0:
                continue
            _change(s, loser, -old)
            _change(s, winner, value)
            found = _finish_trial(s, loser[0], loss)
            _forget(s)
            trials += 1
            if found < best:
                best, best_value = found, value
        if best_value != 0.0:
            _change(s, loser, -old)
            _change(s, winner, best_value)
            _finish_trial(s, loser[0], loss)
            _set(s, loser, 0.0)
            _set(s, winner, best_value)
            loss = _accept(s)
            accepted[moves] = loss
            moves += 1
    return loss, trials, visits, accepted[:moves]
