"""Samplers of discrete states, and what they choose: members, channels."""

from keras_freetickets.sampling.channel_masks import ChannelMasks
from keras_freetickets.sampling.diagnostics import effective_sample_size
from keras_freetickets.sampling.samplers import DiscreteSampler
from keras_freetickets.sampling.samples import Samples
from keras_freetickets.sampling.sub_ensembles import SubEnsembles

__all__ = [
    "ChannelMasks",
    "DiscreteSampler",
    "Samples",
    "SubEnsembles",
    "effective_sample_size",
]
