"""One model of several tickets: its members, their files and selection."""

from keras_freetickets.ensembles.ensemble_model import EnsembleModel
from keras_freetickets.ensembles.member_selection import MemberSelection
from keras_freetickets.ensembles.outputs import logits_model
from keras_freetickets.ensembles.outputs import renormalized
from keras_freetickets.ensembles.outputs import returns_logits
from keras_freetickets.ensembles.regression import GaussianNegativeLogLikelihood
from keras_freetickets.ensembles.regression import squared_error_of_mean
from keras_freetickets.ensembles.ticket_files import TicketStore

__all__ = [
    "EnsembleModel",
    "GaussianNegativeLogLikelihood",
    "MemberSelection",
    "TicketStore",
    "logits_model",
    "renormalized",
    "returns_logits",
    "squared_error_of_mean",
]
