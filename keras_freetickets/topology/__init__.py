"""Masks and methods: which connections exist, and how they change."""

from keras_freetickets.topology import criteria
from keras_freetickets.topology import distributions
from keras_freetickets.topology import mask_initializers
from keras_freetickets.topology import methods
from keras_freetickets.topology import schedules
from keras_freetickets.topology.kernel_view import KernelView
from keras_freetickets.topology.mask_initializers import ConstantFanInMask
from keras_freetickets.topology.mask_initializers import NMMask
from keras_freetickets.topology.methods import *  # noqa: F403
from keras_freetickets.topology.randomness import random_bits
from keras_freetickets.topology.selection import select

__all__ = [
    "ConstantFanInMask",
    "KernelView",
    "NMMask",
    "criteria",
    "distributions",
    "mask_initializers",
    "random_bits",
    "schedules",
    "select",
    *methods.__all__,
]
