"""Ensembles of a network of your own, each by another method."""

from keras_freetickets.recipes.independent import DST
from keras_freetickets.recipes.independent import Dense
from keras_freetickets.recipes.independent import Static
from keras_freetickets.recipes.pruned import LotteryTicketRewinding
from keras_freetickets.recipes.pruned import PruneAndFinetune
from keras_freetickets.recipes.recipe import Recipe
from keras_freetickets.recipes.single_run import EDST
from keras_freetickets.recipes.single_run import MIMO
from keras_freetickets.recipes.single_run import Snapshot

__all__ = [
    "DST",
    "Dense",
    "EDST",
    "Recipe",
    "LotteryTicketRewinding",
    "MIMO",
    "PruneAndFinetune",
    "Snapshot",
    "Static",
]
