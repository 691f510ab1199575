"""Kernels that hold and compute with the active weights alone.

Importing this imports no numba, and neither does a structure or a conversion.
The first product does.
"""

from keras_freetickets.kernels.image_network import ImageNetwork
from keras_freetickets.kernels.network import CompressedLayer
from keras_freetickets.kernels.network import CompressedNetwork
from keras_freetickets.kernels.operations import PackedBatch
from keras_freetickets.kernels.operations import backward
from keras_freetickets.kernels.operations import forward
from keras_freetickets.kernels.operations import forward_packed
from keras_freetickets.kernels.operations import pack
from keras_freetickets.kernels.operations import unpack
from keras_freetickets.kernels.reference import dense_gradient_block
from keras_freetickets.kernels.structure import CompressedStructure
from keras_freetickets.kernels.structure import compress
from keras_freetickets.kernels.structure import decompress
from keras_freetickets.kernels.structure import mask_of
from keras_freetickets.kernels.threads import get_num_threads
from keras_freetickets.kernels.threads import set_num_threads

__all__ = [
    "CompressedLayer",
    "CompressedNetwork",
    "CompressedStructure",
    "ImageNetwork",
    "PackedBatch",
    "backward",
    "compress",
    "decompress",
    "dense_gradient_block",
    "forward",
    "forward_packed",
    "get_num_threads",
    "mask_of",
    "pack",
    "set_num_threads",
    "unpack",
]
