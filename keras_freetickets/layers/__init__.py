"""Layers that hold masks, or the active weights alone."""

from keras_freetickets.layers.compressed_convolution import CompressedConv2D
from keras_freetickets.layers.compressed_kinds import CompressedDense
from keras_freetickets.layers.compressed_kinds import CompressedEinsumDense
from keras_freetickets.layers.compressed_kinds import (
    CompressedGroupQueryAttention,
)
from keras_freetickets.layers.compressed_kinds import (
    CompressedMultiHeadAttention,
)
from keras_freetickets.layers.sparse import Sparse

__all__ = [
    "CompressedConv2D",
    "CompressedDense",
    "CompressedEinsumDense",
    "CompressedGroupQueryAttention",
    "CompressedMultiHeadAttention",
    "Sparse",
]
