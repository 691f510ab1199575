"""What a sparse model is like: its masks, units and kernels."""

from keras_freetickets.inspection.overlap import mask_overlap
from keras_freetickets.inspection.summary import sparsity_summary
from keras_freetickets.inspection.units import count_units

__all__ = ["count_units", "mask_overlap", "sparsity_summary"]
