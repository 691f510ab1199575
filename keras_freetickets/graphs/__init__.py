"""Rare classes on graphs: convolution, influence functions, intervals."""

from keras_freetickets.graphs.conjugate_gradients import conjugate_gradients
from keras_freetickets.graphs.data import LabelledGraph
from keras_freetickets.graphs.data import block_model
from keras_freetickets.graphs.data import class_weights
from keras_freetickets.graphs.data import load_planetoid
from keras_freetickets.graphs.graph import Graph
from keras_freetickets.graphs.graph import undirected
from keras_freetickets.graphs.influence import LeaveOneOut
from keras_freetickets.graphs.layers import GraphConvolution
from keras_freetickets.graphs.layers import graph_network
from keras_freetickets.graphs.losses import IndividualCalibrationLoss
from keras_freetickets.graphs.losses import with_intervals

__all__ = [
    "Graph",
    "GraphConvolution",
    "IndividualCalibrationLoss",
    "LabelledGraph",
    "LeaveOneOut",
    "block_model",
    "class_weights",
    "conjugate_gradients",
    "graph_network",
    "load_planetoid",
    "undirected",
    "with_intervals",
]
