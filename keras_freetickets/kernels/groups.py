"""Weights in groups, for the prediction of one example.

With one example there is no batch to make vectors of, and to fetch the input
of each weight takes as long as two multiplications. Here the vectors are of
weights: 16 output units of a group, whose inputs come from a block of 32. A
block fits into two registers of AVX-512, and one instruction takes 16 of its
entries in any order, by five bits of each lane of a vector of codes. To shift
a vector of codes takes half as long as to load the next one.
"""

import typing

import numpy as np

from keras_freetickets.kernels.structure import CompressedStructure
from keras_freetickets.types import Array

BLOCK = 32  # inputs
GROUP = 16  # output units
ROWS = 5  # of a vector of codes
PLACE_BITS = 5
LANE_SHIFT = ROWS * PLACE_BITS
MOST_ROWS = 8  # of an entry for which the loop over rows is unrolled
# Weights of a group in a block, on average, below which rows are faster
# (measured with layers of 1,024 at sparsities of .98 to .998).
_FEWEST_WEIGHTS = 4


class Groups(typing.NamedTuple):
    """Active weights by block of inputs, and within a block by group.

    An entry is a group in a block. Within an entry, units with more weights
    come first, and a row holds one weight of each unit that has one left: the
    first lanes of a vector. The second half of an entry's rows holds no more
    than 8 weights each, so that vectors of 8 do; to make it so, an entry may
    end with rows of no weight. The entries of a block begin with those of most
    rows, so that one loop computes all entries of as many.

    Attributes:
        values: float32 array `(active + 16,)`, row by row. The last 16 are 0:
            a vector may be read from any weight on.
        codes: uint32 array `(vectors * 16,)`, of each lane the places of the
            inputs within the block, of five rows. Then, from bit 25 on, the
            lane of the unit of that number. An entry has as many vectors as
            its rows need.
        counts: uint8 array `(rows,)`, the weights of each row.
        ends: int64 array `(blocks * (MOST_ROWS + 1),)`. For each block, where
            the entries end that have more than `MOST_ROWS` rows, then those
            of `MOST_ROWS`, and so on to those of one.
        groups: int32 array `(entries,)`.
        rows: uint8 array `(entries,)`.
    """

    values: np.ndarray
    codes: np.ndarray
    counts: np.ndarray
    ends: np.ndarray
    groups: np.ndarray
    rows: np.ndarray

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
    lanes, rows = _ranks(counts), _rows(counts)
    ranks = _ranks(rows)
    # Values stand unit by unit and rise by input: the rank of a weight among
    # those of its unit in its block is its place after the first of them.
    firsts = np.flatnonzero(np.diff(units * num_blocks + block, prepend=-1))
    lengths = np.diff(firsts, append=len(units))
    row = np.arange(len(units)) - np.repeat(firsts, lengths)
    lane, rank = lanes[block, group, unit], ranks[block, group]
    order = np.lexsort((lane, row, rank, block))
    descending = -np.sort(-rows, axis=1)
    in_block, in_rank = np.nonzero(descending)
    groups = np.argsort(ranks, axis=1)[in_block, in_rank]
    entry_rows = rows[in_block, groups]
    every_row = np.arange(entry_rows.max(initial=0))
    row_counts = (counts[in_block, groups][:, :, None] > every_row).sum(1)
    least = np.arange(MOST_ROWS + 1, 0, -1)
    of_block = (rows[:, :, None] >= least).sum(1)
    first_entries = np.cumsum(of_block[:, -1]) - of_block[:, -1]
    codes = _codes(
        entry_rows,
        lanes[in_block, groups],
        (first_entries[block] + rank, row, lane, place),
    )
    stored = np.asarray(values, "float32")[order]
    return Groups(
        values=np.append(stored, np.zeros(GROUP, "float32")),
        codes=codes.reshape(-1),
        counts=row_counts[entry_rows[:, None] > every_row].astype("uint8"),
        ends=(first_entries[:, None] + of_block).reshape(-1),
        groups=groups.astype("int32"),
        rows=entry_rows.astype("uint8"),
    )


def _rows(counts):
    """Rows of each entry `(blocks, groups)`, by the weights of its units."""
    rows = counts.max(-1)
    # A row is wide if the ninth of the units still has a weight.
    wide = -np.partition(-counts, GROUP // 2, axis=-1)[..., GROUP // 2]
    return np.maximum(rows, 2 * wide - 1)


def _codes(rows, lanes, weights):
    """Vectors of codes `(vectors, 16)` of all entries.

    Args:
        rows: Array `(entries,)`.
        lanes: Array `(entries, 16)`.
        weights: Arrays `(active,)`: the entry of each weight, its row and lane
            there, and its place within the block.
    """
    entry, row, lane, place = weights
    lengths = -(-rows // ROWS)
    found = np.repeat(lanes.astype("uint32") << LANE_SHIFT, lengths, axis=0)
    first = np.cumsum(lengths) - lengths
    vector, shift = np.divmod(row, ROWS)
    code = (place << (shift * PLACE_BITS)).astype("uint32")
    np.bitwise_or.at(found, (first[entry] + vector, lane), code)
    return found


def _ranks(counts: np.ndarray) -> np.ndarray:
    """Places along the last axis if the largest came first."""
    order = np.argsort(-counts, axis=-1, kind="stable")
    return np.argsort(order, axis=-1)
