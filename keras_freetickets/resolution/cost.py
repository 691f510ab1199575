"""What a step costs at full and at reduced resolution."""

import math
import typing

import keras
import numpy as np
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.inspection.units import density_of
from keras_freetickets.metrics import flops
from keras_freetickets.resolution.layers import ReducibleConv2D
from keras_freetickets.resolution.pooling import pool_kernel
from keras_freetickets.types import Model


def forward_flops(
    model: Model, input_shape: tuple[int, ...]
) -> tuple[float, float]:
    """Theoretical FLOPs of one example at full and at reduced resolution.

    In a sparse kernel a pooled tap is zero only if all taps of its window are:
    of a random mask with density d, 1 - (1 - d)^4 remain of a 3x3 kernel.
    Sparsity and pooling therefore do not multiply, and the second number
    counts the taps of the pooled kernels.

    Args:
        model: A built model with reducible layers.
        input_shape: Tuple, the shape of one image, `(height, width,
            channels)`.

    Returns:
        Tuple of two floats.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If `input_shape` does not fit the model.

    Example:

    ```python
    full, reduced = kft.resolution.forward_flops(model, (64, 64, 3))
    ```
    """
    first = 1 if keras.config.image_data_format() == "channels_first" else 0
    half = list(input_shape)
    for axis in (first, first + 1):
        half[axis] = math.ceil(half[axis] / 2)
    density = density_of(model)
    full = flops.forward_flops(model, density, tuple(input_shape))
    taps = _pooled_taps(model)
    reduced = 2.0 * sum(
        cost.macs * taps.get(id(cost.kernel), density(cost.kernel))
        for cost in flops.kernel_macs(model, tuple(half)).values()
    )
    return full, reduced


def _pooled_taps(model: Model) -> dict[int, float]:
    """Taps of pooled kernels that are not zero, as shares of all taps."""
    masks: dict[int, typing.Any] = {
        id(one.kernel): one.mask_array()
        for one in getattr(model, "masked_kernels", [])
    }
    found = {}
    for part in keras_adapter.sublayers(model):
        if isinstance(part, ReducibleConv2D):
            kernel = part.kernel
            mask = masks.get(id(kernel), np.ones(kernel.shape))
            pooled = pool_kernel(np.asarray(mask, "float32"), "average")
            left = np.count_nonzero(ops.convert_to_numpy(pooled))
            found[id(kernel)] = left / math.prod(kernel.shape)
    return found
