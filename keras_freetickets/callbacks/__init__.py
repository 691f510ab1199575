"""Callbacks: methods in `fit`, tickets, and an atomic backup."""

from keras_freetickets.callbacks.backup import Backup
from keras_freetickets.callbacks.drop_and_grow import SET
from keras_freetickets.callbacks.drop_and_grow import DropAndGrow
from keras_freetickets.callbacks.drop_and_grow import RigL
from keras_freetickets.callbacks.tickets import DST
from keras_freetickets.callbacks.tickets import EDST

__all__ = ["Backup", "DST", "DropAndGrow", "EDST", "RigL", "SET"]
