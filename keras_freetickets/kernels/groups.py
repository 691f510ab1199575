"""Weights in groups, for the prediction of one example.

With one example there is no batch to make vectors of, and to fetch the input
of each weight takes as long as two multiplications. Here the vectors are of
weights: 16 output units of a group, whose inputs come from a block of 32. A
block fits into two registers of AVX-512, and one instruction takes 16 of its
entries in any order.
"""

import typing

import numpy as np

from keras_freetickets.kernels.structure import CompressedStructure
from keras_freetickets.types import Array

BLOCK = 32  # inputs
GROUP = 16  # output units
# Weights of a group in a block, on average, below which rows are faster
# (measured with layers of 1,024 at sparsities of .98 to .998).
_FEWEST_WEIGHTS = 4


class Groups(typing.NamedTuple):
    """Active weights by block of inputs, and within a block by group.

    An entry is a group in a block. Within an entry, units with more weights
    come first, and a row holds one weight of each unit that has one left: the
    first lanes of a vector. The entries of a block begin with those of most
    rows, so that a processor foresees the end of the loop over rows.

    Attributes:
        values: float32 array `(active + 16,)`, row by row. The last 16 are 0:
            a vector may be read from any weight on.
        inputs: uint8 array `(active + 16,)`, places within the block.
        counts: uint8 array `(rows,)`, the weights of each row.
        pointers: int64 array `(blocks + 1,)`, where the entries of each block
            begin.
        groups: int32 array `(entries,)`.
        rows: uint8 array `(entries,)`.
        lanes: uint8 array `(entries * 16,)`, the lane of each unit of the
            group.
    """

    values: np.ndarray
    inputs: np.ndarray
    counts: np.ndarray
    pointers: np.ndarray
    groups: np.ndarray
    rows: np.ndarray
    lanes: np.ndarray

    @property
    def pays(self) -> bool:
        """Whether there are enough weights in a group."""
        active = len(self.values) - GROUP
        return active >= _FEWEST_WEIGHTS * len(self.groups)


def grouped(values: Array, structure: CompressedStructure) -> Groups:
    """The weights of a layer in groups.

    Args:
        values: Float array of shape `(active,)`.
        structure: `CompressedStructure`.

    Returns:
        `Groups`.
    """
    num_blocks = -(-structure.num_inputs // BLOCK)
    num_groups = -(-structure.num_outputs // GROUP)
    shape = num_blocks, num_groups, GROUP
    units, inputs = structure.row_indices, structure.column_indices
    block, place = np.divmod(inputs.astype("int64"), BLOCK)
    group, unit = np.divmod(units, GROUP)
    cell = (block * num_groups + group) * GROUP + unit
    counts = np.bincount(cell, minlength=np.prod(shape)).reshape(shape)
    lanes = _ranks(counts)
    rows = counts.max(-1)
    order = np.argsort(-rows, axis=1, kind="stable")
    # Values stand unit by unit and rise by input: the rank of a weight among
    # those of its unit in its block is its place after the first of them.
    firsts = np.flatnonzero(np.diff(units * num_blocks + block, prepend=-1))
    lengths = np.diff(firsts, append=len(units))
    row = np.arange(len(units)) - np.repeat(firsts, lengths)
    sequence = np.lexsort(
        (lanes[block, group, unit], row, _ranks(rows)[block, group], block)
    )
    kept = np.take_along_axis(rows, order, 1) > 0
    in_block, groups = np.nonzero(kept)[0], order[kept]
    entry_rows = rows[in_block, groups]
    entry_counts = counts[in_block, groups]
    most = int(rows.max(initial=0))
    row_counts = (entry_counts[:, :, None] > np.arange(most)).sum(1)
    return Groups(
        values=_ended(np.asarray(values, "float32")[sequence]),
        inputs=_ended(place[sequence].astype("uint8")),
        counts=row_counts[row_counts > 0].astype("uint8"),
        pointers=np.concatenate([[0], kept.sum(1)]).cumsum(),
        groups=groups.astype("int32"),
        rows=entry_rows.astype("uint8"),
        lanes=lanes[in_block, groups].astype("uint8").reshape(-1),
    )


def _ranks(counts: np.ndarray) -> np.ndarray:
    """Places along the last axis if the largest came first."""
    order = np.argsort(-counts, axis=-1, kind="stable")
    return np.argsort(order, axis=-1)


def _ended(array: np.ndarray) -> np.ndarray:
    return np.concatenate([array, np.zeros(GROUP, array.dtype)])
