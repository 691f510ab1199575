"""Losses that sparse training brings along."""

from keras_freetickets.losses.moon import MOON

__all__ = ["MOON"]
