"""What a sparse model is like: its masks, units and kernels."""

from keras_freetickets.inspection.overlap import mask_overlap
from keras_freetickets.inspection.summary import sparsity_summary
from keras_freetickets.inspection.units import count_units
from keras_freetickets.inspection.units import density_of

__all__ = ["count_units", "density_of", "mask_overlap", "sparsity_summary"]
