"""Weights of a finite set, such as ternary ones, found by search."""

from keras_freetickets.discrete.coordinate_descent import CoordinateDescent
from keras_freetickets.discrete.coordinate_descent import DiscreteSearch
from keras_freetickets.discrete.files import save
from keras_freetickets.discrete.layers import DiscreteConv2D
from keras_freetickets.discrete.layers import DiscreteDense

__all__ = [
    "CoordinateDescent",
    "DiscreteConv2D",
    "DiscreteDense",
    "DiscreteSearch",
    "save",
]
