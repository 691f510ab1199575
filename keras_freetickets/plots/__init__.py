"""Plots of runs and models. They need matplotlib: the extra `plots`."""

from keras_freetickets.plots.costs import scores_against_cost
from keras_freetickets.plots.members import matrices
from keras_freetickets.plots.members import predictions_in_plane
from keras_freetickets.plots.training import density_per_layer
from keras_freetickets.plots.training import learning_curve
from keras_freetickets.plots.trust import reliability_diagram
from keras_freetickets.plots.trust import risk_coverage_curves
from keras_freetickets.plots.trust import roc_curves
from keras_freetickets.plots.trust import score_histograms
from keras_freetickets.plots.trust import severity_curves

__all__ = [
    "density_per_layer",
    "learning_curve",
    "matrices",
    "predictions_in_plane",
    "reliability_diagram",
    "risk_coverage_curves",
    "roc_curves",
    "score_histograms",
    "scores_against_cost",
    "severity_curves",
]
