"""Which layers can be compressed, and those that compute in their place."""

import keras

from keras_freetickets.layers.compressed_attention import (
    CompressedGroupQueryAttention,
)
from keras_freetickets.layers.compressed_attention import (
    CompressedMultiHeadAttention,
)
from keras_freetickets.layers.compressed_convolution import CompressedConv1D
from keras_freetickets.layers.compressed_convolution import CompressedConv2D
from keras_freetickets.layers.compressed_dense import CompressedDense
from keras_freetickets.layers.compressed_dense import CompressedEinsumDense
from keras_freetickets.layers.compressed_kernels import CompressesKernels
from keras_freetickets.layers.compressed_separable import (
    CompressedSeparableConv1D,
)
from keras_freetickets.layers.compressed_separable import (
    CompressedSeparableConv2D,
)
from keras_freetickets.types import Layer

_KINDS: dict[type, type[CompressesKernels]] = {
    keras.layers.Dense: CompressedDense,
    keras.layers.EinsumDense: CompressedEinsumDense,
    keras.layers.Conv1D: CompressedConv1D,
    keras.layers.Conv2D: CompressedConv2D,
    keras.layers.SeparableConv1D: CompressedSeparableConv1D,
    keras.layers.SeparableConv2D: CompressedSeparableConv2D,
    keras.layers.MultiHeadAttention: CompressedMultiHeadAttention,
    keras.layers.GroupQueryAttention: CompressedGroupQueryAttention,
}


def compressed_kind(layer: Layer) -> type[CompressesKernels] | None:
    """The class of compressed layers that stands for a layer.

    A subclass of Keras' layer may compute something else, so that there is
    none for it.

    Args:
        layer: A Keras layer.
    """
    return _KINDS.get(type(layer))


def reason_against(layer: Layer) -> str:
    """Why a built layer cannot be compressed, "" if it can.

    Args:
        layer: A Keras layer.
    """
    kind = compressed_kind(layer)
    if kind is None:
        return f"there is no compressed {type(layer).__name__}"
    return kind.reason_against(layer)
