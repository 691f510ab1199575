"""Layers that hold masks, or the active weights alone."""

from keras_freetickets.layers.compressed_dense import CompressedDense
from keras_freetickets.layers.sparse import Sparse

__all__ = ["CompressedDense", "Sparse"]
