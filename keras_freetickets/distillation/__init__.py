"""Small sets of images that stand in for a large one: dataset distillation.

See docs/distillation.md.
"""

from keras_freetickets.distillation.augmentation import SharedAugmentation
from keras_freetickets.distillation.augmentation import cutmix
from keras_freetickets.distillation.distilled import DistilledSet
from keras_freetickets.distillation.distilled import decode
from keras_freetickets.distillation.distilled import real_start
from keras_freetickets.distillation.matching import DistillationState
from keras_freetickets.distillation.matching import GradientMatching
from keras_freetickets.distillation.networks import FreshNetworks
from keras_freetickets.distillation.networks import Network
from keras_freetickets.distillation.networks import NetworkBank
from keras_freetickets.distillation.networks import filter_normalized_direction

__all__ = [
    "DistillationState",
    "DistilledSet",
    "FreshNetworks",
    "GradientMatching",
    "Network",
    "NetworkBank",
    "SharedAugmentation",
    "cutmix",
    "decode",
    "filter_normalized_direction",
    "real_start",
]
