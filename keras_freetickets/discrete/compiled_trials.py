"""Trials of changed weights, compiled by numba. Importing this imports numba.

Activations of the whole batch are kept in flat arrays with the batch
innermost: `(channels, positions, examples)`, so that every inner loop runs over
a contiguous row of examples, which the compiler vectorizes. A trial computes
the sums of the units that it touches, and follows their changes upwards along
the weights that are not zero.
"""

import math
from typing import Any

import numpy as np

from keras_freetickets.discrete.compiled_arithmetic import REORDERED
from keras_freetickets.discrete.compiled_arithmetic import add_exps
from keras_freetickets.discrete.compiled_arithmetic import add_row
from keras_freetickets.discrete.compiled_arithmetic import sum_of_logs
from keras_freetickets.discrete.state import BIASES_AT
from keras_freetickets.discrete.state import CHANNELS_IN
from keras_freetickets.discrete.state import INPUTS_AT
from keras_freetickets.discrete.state import POOL_MEAN
from keras_freetickets.discrete.state import POOL_SIZE
from keras_freetickets.discrete.state import POOLS_AT
from keras_freetickets.discrete.state import POSITIONS
from keras_freetickets.discrete.state import POSITIONS_IN
from keras_freetickets.discrete.state import POSITIONS_OUT
from keras_freetickets.discrete.state import RECTIFIED
from keras_freetickets.discrete.state import SUMS_AT
from keras_freetickets.discrete.state import TAPS
from keras_freetickets.discrete.state import TAPS_AT
from keras_freetickets.discrete.state import UNITS
from keras_freetickets.discrete.state import WEIGHTS_AT
from keras_freetickets.optional import import_optional

numba = import_optional("numba")


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
            add_row(s.new_sums, at, factor, source, start, examples)


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
def _row_above(s, layer, unit, position):
    """Where the layer above stores what a unit gives at a position."""
    at = unit * s.layers[layer, POSITIONS_OUT] + position
    return s.layers[layer + 1, INPUTS_AT] + at * s.shifts.size


@numba.njit(cache=True)
def _move_inputs(s, layer):
    """Changes of the inputs above a layer, from its new sums."""
    info, examples = s.layers[layer], s.shifts.size
    for one in range(1, s.touched[layer, 0] + 1):
        unit = s.touched[layer, one]
        differs = np.int64(0)
        for position in range(info[POSITIONS_OUT]):
            _activate_row(s, info, unit, position, s.new_sums)
            at = _row_above(s, layer, unit, position)
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


@numba.njit(cache=True, fastmath=REORDERED)
def _sum_of_labels(s, sums, unit, start):
    """The sum of one logit over the examples with its label."""
    total = 0.0
    for i in range(s.starts[unit], s.starts[unit + 1]):
        total += sums[start + i]
    return total


@numba.njit(cache=True)
def _logits(s):
    """The last layer, examples, classes, and where the logits begin."""
    last = s.layers.shape[0] - 1
    info = s.layers[last]
    return last, s.shifts.size, info[UNITS], info[SUMS_AT]


@numba.njit(cache=True)
def _exact_loss(s):
    """The loss of a trial whose logits are far from the present ones."""
    last, examples, classes, first = _logits(s)
    total, label = 0.0, 0
    logits = np.empty(classes)
    for i in range(examples):
        while i >= s.starts[label + 1]:
            label += 1
        for unit in range(classes):
            at = first + unit * examples + i
            marked = s.marks[last, unit]
            logits[unit] = s.new_sums[at] if marked else s.sums[at]
        top = logits.max()
        total += math.log(np.exp(logits - top).sum()) + top - logits[label]
    return total / examples


@numba.njit(cache=True)
def _loss(s):
    """Mean cross-entropy with the new logits of the touched classes."""
    last, examples, classes, first = _logits(s)
    s.row[:] = 0.0
    of_labels, inside = 0.0, True
    for unit in range(classes):
        at = first + unit * examples
        if s.marks[last, unit]:
            inside &= add_exps(s.row, s.new_sums, at, s.shifts)
            of_labels += _sum_of_labels(s, s.new_sums, unit, at)
        else:
            add_row(s.row, 0, 1.0, s.exps, unit * examples, examples)
            of_labels += _sum_of_labels(s, s.sums, unit, at)
    if not inside:
        return _exact_loss(s)
    logs = sum_of_logs(s.row) + s.shifts.sum()
    return (logs - of_labels) / examples


@numba.njit(cache=True)
def forget(s: Any) -> None:
    """Ends a trial."""
    for layer in range(s.layers.shape[0]):
        for one in range(1, s.touched[layer, 0] + 1):
            s.marks[layer, s.touched[layer, one]] = 0
        s.touched[layer, 0] = 0
        s.moved[layer, 0] = 0


@numba.njit(cache=True)
def finish_trial(s: Any, layer: int, loss: float) -> float:
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
    _, examples, classes, first = _logits(s)
    s.shifts[:] = s.sums[first : first + examples]
    for unit in range(1, classes):
        at = first + unit * examples
        for i in range(examples):
            s.shifts[i] = max(s.shifts[i], s.sums[at + i])
    s.exps[:] = 0.0
    inside = True
    for unit in range(classes):
        row = s.exps[unit * examples : (unit + 1) * examples]
        inside &= add_exps(row, s.sums, first + unit * examples, s.shifts)
        if not inside:
            # Of the least likely classes: 0 to any precision.
            for i in range(examples):
                x = s.sums[first + unit * examples + i] - s.shifts[i]
                row[i] = math.exp(x)
            inside = True
    forget(s)
    return _loss(s)


@numba.njit(cache=True)
def accept(s: Any) -> float:
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
        for one in range(1, s.moved[layer + 1, 0] + 1):
            unit = s.moved[layer + 1, one]
            for position in range(info[POSITIONS_OUT]):
                _activate_row(s, info, unit, position, s.sums)
                at = _row_above(s, layer, unit, position)
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
def get_weight(s: Any, coordinate: Any) -> float:
    """The present value of a coordinate."""
    at = _place(s, coordinate)
    return s.biases[at] if coordinate[2] < 0 else s.weights[at]


@numba.njit(cache=True)
def set_weight(s: Any, coordinate: Any, value: float) -> None:
    """Gives a coordinate a value; its sums are those of a trial."""
    at = _place(s, coordinate)
    if coordinate[2] < 0:
        s.biases[at] = value
    else:
        s.weights[at] = value


@numba.njit(cache=True)
def change_weight(s: Any, coordinate: Any, change: float) -> None:
    """Begins a trial, or adds to one: a coordinate that changes."""
    layer, tap, channel, unit = coordinate
    _add(s, layer, tap, channel, unit, change, s.inputs)


@numba.njit(cache=True)
def trial_loss(s: Any, coordinate: Any, value: float, loss: float) -> float:
    """The mean cross-entropy if one weight had another value."""
    change_weight(s, coordinate, value - get_weight(s, coordinate))
    found = finish_trial(s, coordinate[0], loss)
    forget(s)
    return found
