"""Models that train sparse, and the functions that make them."""

from keras_freetickets.models.conversion import sparsify
from keras_freetickets.models.conversion import strip
from keras_freetickets.models.sparse_model import SparseModel

__all__ = ["SparseModel", "sparsify", "strip"]
