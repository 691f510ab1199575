"""Recipes: ways to make an ensemble of a network of your own."""

from keras_freetickets.recipes.independent import DST
from keras_freetickets.recipes.independent import Dense
from keras_freetickets.recipes.independent import Static
from keras_freetickets.recipes.pruned import LotteryTicketRewinding
from keras_freetickets.recipes.pruned import PruneAndFinetune
from keras_freetickets.recipes.recipe import Recipe
from keras_freetickets.recipes.registry import class_of
from keras_freetickets.recipes.registry import get
from keras_freetickets.recipes.registry import names
from keras_freetickets.recipes.registry import register
from keras_freetickets.recipes.run_data import bootstrap
from keras_freetickets.recipes.run_data import folds
from keras_freetickets.recipes.single_run import EDST
from keras_freetickets.recipes.single_run import MIMO
from keras_freetickets.recipes.single_run import Snapshot
from keras_freetickets.recipes.sparse_training import SPARSE_TRAININGS
from keras_freetickets.recipes.sparse_training import SparseTraining
from keras_freetickets.recipes.sparse_training import sparse_training
from keras_freetickets.recipes.workspace import TrainingRun
from keras_freetickets.recipes.workspace import Workspace
from keras_freetickets.recipes.workspace import step_decay

__all__ = [
    "DST",
    "EDST",
    "MIMO",
    "SPARSE_TRAININGS",
    "Dense",
    "LotteryTicketRewinding",
    "PruneAndFinetune",
    "Recipe",
    "Snapshot",
    "SparseTraining",
    "Static",
    "TrainingRun",
    "Workspace",
    "bootstrap",
    "class_of",
    "folds",
    "get",
    "names",
    "register",
    "sparse_training",
    "step_decay",
]
