"""Training data that an ensemble chooses.

Pseudo-labels that it can be trusted in: see docs/self_training.md. Examples
that it trusts itself: see docs/confident_learning.md.
"""

from keras_freetickets.curation.confident_learning import ConfidentLearning
from keras_freetickets.curation.confident_learning import FilteredBatches
from keras_freetickets.curation.mixed_batches import MixedBatches
from keras_freetickets.curation.nested_filter import NestedFilter
from keras_freetickets.curation.nested_filter import label_scores
from keras_freetickets.curation.pseudo_labels import LabelSplit
from keras_freetickets.curation.pseudo_labels import PseudoLabels
from keras_freetickets.curation.pseudo_labels import Votes
from keras_freetickets.curation.pseudo_labels import pseudo_labels
from keras_freetickets.curation.pseudo_labels import split_labels
from keras_freetickets.curation.pseudo_labels import votes

__all__ = [
    "ConfidentLearning",
    "FilteredBatches",
    "LabelSplit",
    "MixedBatches",
    "NestedFilter",
    "PseudoLabels",
    "Votes",
    "label_scores",
    "pseudo_labels",
    "split_labels",
    "votes",
]
