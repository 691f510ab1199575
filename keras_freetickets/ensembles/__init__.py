"""One model of several tickets: its members, their files and selection."""

from keras_freetickets.ensembles.ensemble_model import EnsembleModel
from keras_freetickets.ensembles.ticket_files import TicketStore

__all__ = ["EnsembleModel", "TicketStore"]
