"""The layer wrapper that holds the masks."""

from keras_freetickets.layers.sparse import Sparse

__all__ = ["Sparse"]
