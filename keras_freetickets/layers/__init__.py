"""Layer wrappers that hold the masks."""

from keras_freetickets.layers.sparse import Sparse

__all__ = ["Sparse"]
