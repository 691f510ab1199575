"""Training data that an ensemble chooses: pseudo-labels it can be trusted in.

See docs/self_training.md.
"""

from keras_freetickets.curation.mixed_batches import MixedBatches
from keras_freetickets.curation.pseudo_labels import LabelSplit
from keras_freetickets.curation.pseudo_labels import PseudoLabels
from keras_freetickets.curation.pseudo_labels import Votes
from keras_freetickets.curation.pseudo_labels import pseudo_labels
from keras_freetickets.curation.pseudo_labels import split_labels
from keras_freetickets.curation.pseudo_labels import votes

__all__ = [
    "LabelSplit",
    "MixedBatches",
    "PseudoLabels",
    "Votes",
    "pseudo_labels",
    "split_labels",
    "votes",
]
