"""Ensembles of a network of your own, each by another method."""

from keras_freetickets.ensembles.independent import DST
from keras_freetickets.ensembles.independent import Dense
from keras_freetickets.ensembles.independent import Static
from keras_freetickets.ensembles.method import EnsembleMethod
from keras_freetickets.ensembles.one_run import EDST
from keras_freetickets.ensembles.one_run import MIMO
from keras_freetickets.ensembles.one_run import Snapshot
from keras_freetickets.ensembles.pruned import LTR
from keras_freetickets.ensembles.pruned import PF

__all__ = [
    "DST",
    "Dense",
    "EDST",
    "EnsembleMethod",
    "LTR",
    "MIMO",
    "PF",
    "Snapshot",
    "Static",
]
