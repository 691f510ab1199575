"""Training of convolutional networks on images of half the size, in turns.

See docs/resolution.md.
"""

from keras_freetickets.resolution.conversion import plain
from keras_freetickets.resolution.conversion import reducible
from keras_freetickets.resolution.cost import forward_flops
from keras_freetickets.resolution.interleaved import InterleavedResolution
from keras_freetickets.resolution.layers import ReducibleBatchNormalization
from keras_freetickets.resolution.layers import ReducibleConv2D
from keras_freetickets.resolution.layers import is_reduced
from keras_freetickets.resolution.layers import reduced
from keras_freetickets.resolution.pooling import downsample
from keras_freetickets.resolution.pooling import pool_kernel
from keras_freetickets.resolution.pooling import pooled_size
from keras_freetickets.resolution.schedules import Annealed
from keras_freetickets.resolution.schedules import Bernoulli
from keras_freetickets.resolution.schedules import Periodic
from keras_freetickets.resolution.schedules import Schedule

__all__ = [
    "Annealed",
    "Bernoulli",
    "InterleavedResolution",
    "Periodic",
    "ReducibleBatchNormalization",
    "ReducibleConv2D",
    "Schedule",
    "downsample",
    "forward_flops",
    "is_reduced",
    "plain",
    "pool_kernel",
    "pooled_size",
    "reduced",
    "reducible",
]
