"""The flat arrays that the compiled trials read and write."""

import collections
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np

from keras_freetickets.discrete.network import Network
from keras_freetickets.discrete.stages import Stage

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

# All arrays of a search; `state_of` makes them.
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


def state_of(
    network: Network,
    inputs: np.ndarray,
    labels: np.ndarray,
) -> State:
    """The arrays that the compiled trials read and write.

    Args:
        network: `Network`, whose weights and biases are copied.
        inputs: Array, as `Network.inputs` returns it.
        labels: Sorted integer array, the class of each example.
    """
    stages, examples = network.stages, inputs.shape[-1]
    all_inputs, all_sums = network.forward(inputs)
    columns = np.zeros((len(stages), len(COLUMNS)), "int64")
    names = ("inputs", "sums", "weights", "biases", "taps", "pools")
    at = dict.fromkeys(names, 0)
    for row, stage in zip(columns, stages, strict=True):
        pools = np.empty((0, 0)) if stage.pools is None else stage.pools
        row[:] = (
            stage.channels_in,
            stage.positions_in,
            stage.units,
            stage.taps.shape[1],
            len(stage.taps),
            stage.rectified,
            pools.shape[1],
            stage.pool_mean,
            stage.positions_out,
            *at.values(),
        )
        at["inputs"] += stage.channels_in * stage.positions_in * examples
        at["sums"] += stage.units * stage.taps.shape[1] * examples
        at["weights"] += stage.weights.size
        at["biases"] += stage.units
        at["taps"] += stage.taps.size
        at["pools"] += pools.size
    units = max(stage.units for stage in stages)
    channels = max(stage.channels_in for stage in stages)
    classes = stages[-1].units
    sums = flat(all_sums)
    flat_inputs = flat(all_inputs)
    return State(
        layers=columns,
        scales=np.array([stage.scale for stage in stages]),
        weights=flat([stage.weights for stage in stages]),
        biases=flat([stage.biases for stage in stages]),
        taps=flat([stage.taps for stage in stages]),
        pools=flat(
            [one.pools for one in stages if one.pools is not None]
            or [np.empty(0, "int64")]
        ).astype("int64"),
        inputs=flat_inputs,
        sums=sums,
        new_sums=np.zeros_like(sums),
        changes=np.zeros_like(flat_inputs),
        exps=np.zeros(classes * examples),
        shifts=np.zeros(examples),
        starts=np.searchsorted(labels, np.arange(classes + 1)).astype("int64"),
        touched=np.zeros((len(stages), units + 1), "int64"),
        moved=np.zeros((len(stages), channels + 1), "int64"),
        marks=np.zeros((len(stages), units), "uint8"),
        row=np.zeros(examples),
    )


def flat(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays of any shapes as one array of one axis.

    Args:
        arrays: Sequence of arrays.
    """
    return np.concatenate([np.ascontiguousarray(one).ravel() for one in arrays])


def parts_of(
    state: State, stages: Sequence[Stage]
) -> Iterator[tuple[Stage, np.ndarray, np.ndarray]]:
    """Stages with their weights and biases, as views of a state.

    Args:
        state: `State`.
        stages: The stages of its network.
    """
    weights_at = biases_at = 0
    for stage in stages:
        size, units = stage.weights.size, stage.units
        weights = state.weights[weights_at : weights_at + size]
        yield (
            stage,
            weights.reshape(stage.weights.shape),
            state.biases[biases_at : biases_at + units],
        )
        weights_at += size
        biases_at += units
