"""One model of several tickets: its members, their files and selection."""

from keras_freetickets.ensembles.ensemble_model import EnsembleModel

__all__ = ["EnsembleModel"]
