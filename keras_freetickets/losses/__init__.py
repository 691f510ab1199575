"""Losses that sparse training brings along."""

from keras_freetickets.losses.moon import MOON
from keras_freetickets.losses.objective import Objective

__all__ = ["MOON", "Objective"]
