"""Layers that hold masks, or the active weights alone."""

from keras_freetickets.layers.compressed_attention import (
    CompressedGroupQueryAttention,
)
from keras_freetickets.layers.compressed_attention import (
    CompressedMultiHeadAttention,
)
from keras_freetickets.layers.compressed_convolution import CompressedConv1D
from keras_freetickets.layers.compressed_convolution import CompressedConv2D
from keras_freetickets.layers.compressed_dense import CompressedDense
from keras_freetickets.layers.compressed_dense import CompressedEinsumDense
from keras_freetickets.layers.compressed_separable import (
    CompressedSeparableConv1D,
)
from keras_freetickets.layers.compressed_separable import (
    CompressedSeparableConv2D,
)
from keras_freetickets.layers.sparse import Sparse

__all__ = [
    "CompressedConv1D",
    "CompressedConv2D",
    "CompressedDense",
    "CompressedEinsumDense",
    "CompressedGroupQueryAttention",
    "CompressedMultiHeadAttention",
    "CompressedSeparableConv1D",
    "CompressedSeparableConv2D",
    "Sparse",
]
