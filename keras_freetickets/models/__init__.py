"""Models that train sparse and ensembles of them."""

from keras_freetickets.models.conversion import sparsify
from keras_freetickets.models.conversion import strip
from keras_freetickets.models.sparse_model import SparseModel
from keras_freetickets.models.summary import sparsity_summary

__all__ = ["SparseModel", "sparsify", "sparsity_summary", "strip"]
