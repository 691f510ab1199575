"""Weights in blocks of inputs, for the prediction of batches.

Activations of a block of inputs stay in the first cache (128 inputs times 64
examples take 32 KB) while the weights of all output units that read them are
multiplied.
"""

import typing

import numpy as np

from keras_freetickets.kernels.structure import CompressedStructure
from keras_freetickets.types import Array

BLOCK = 128  # inputs; a place within a block takes a byte


class Blocks(typing.NamedTuple):
    """Active weights by block of inputs, and within a block by output unit.

    The units of a block begin with those of most weights, so that a processor
    foresees the end of the loop over them.

    Attributes:
        values: float32 array `(active,)`.
        inputs: uint8 array `(active,)`, places within the block.
        pointers: int64 array `(blocks + 1,)`, where the entries of each block
            begin.
        units: int32 array `(entries,)`, output units.
        counts: uint8 array `(entries,)`, the weights of each.
    """

    values: np.ndarray
    inputs: np.ndarray
    pointers: np.ndarray
    units: np.ndarray
    counts: np.ndarray


def blocked(values: Array, structure: CompressedStructure) -> Blocks:
    """The weights of a layer in blocks.

    Args:
        values: Float array of shape `(active,)`.
        structure: `CompressedStructure`.

    Returns:
        `Blocks`.
    """
    shape = -(-structure.num_inputs // BLOCK), structure.num_outputs
    units = structure.row_indices
    block, place = np.divmod(structure.column_indices.astype("int64"), BLOCK)
    cell = block * structure.num_outputs + units
    counts = np.bincount(cell, minlength=np.prod(shape)).reshape(shape)
    order = np.argsort(-counts, axis=1, kind="stable")
    ranks = np.argsort(order, axis=1)
    # Stable: within a unit inputs go on rising.
    sequence = np.lexsort((ranks[block, units], block))
    sizes = np.take_along_axis(counts, order, 1)
    kept = sizes > 0
    return Blocks(
        values=np.asarray(values, "float32")[sequence],
        inputs=place[sequence].astype("uint8"),
        pointers=np.concatenate([[0], kept.sum(1)]).cumsum(),
        units=order[kept].astype("int32"),
        counts=sizes[kept].astype("uint8"),
    )
