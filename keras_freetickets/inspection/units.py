"""Mask diagnostics: units without inputs, and inputs that no unit reads."""

import dataclasses
import typing
from collections.abc import Callable

from keras_freetickets.layers.compressed import Compressed
from keras_freetickets.layers.compressed_separable import (
    CompressedSeparableConv1D,
)
from keras_freetickets.layers.compressed_separable import (
    CompressedSeparableConv2D,
)
from keras_freetickets.metrics import flop_rules
from keras_freetickets.metrics import flops
from keras_freetickets.models.sparse_model import SparseModel
from keras_freetickets.types import Model


@dataclasses.dataclass
class UnitCount:
    """Units of one kernel.

    Attributes:
        name: Path of the kernel.
        units: Integer, the kernel's last axis: its outputs.
        dead: Integer, outputs without a connection.
        unread: Integer, inputs that no connection reads.
        inputs: Integer, the kernel's second last axis.
    """

    name: str
    units: int
    dead: int
    unread: int
    inputs: int


def _check_sparse(name, model):
    if not isinstance(model, SparseModel):
        raise TypeError(
            f"`{name}` must be a SparseModel. "
            f"Received: model of type {type(model).__name__}"
        )


def _masks(model):
    return [
        (masked.name, masked.mask_array()) for masked in model.masked_kernels
    ]


def density_of(model: Model) -> Callable[[typing.Any], float]:
    """A function from a kernel of a model to its density.

    Args:
        model: A Keras model, sparse or dense.

    Returns:
        Callable from a variable to a float; 1.0 for those without a mask.

    Example:

    ```python
    flops.forward_flops(model, density_of(model))
    ```
    """
    shares = {
        id(masked.kernel): masked.count() / masked.size
        for masked in getattr(model, "masked_kernels", [])
    }
    return lambda kernel: shares.get(id(kernel), 1.0)


@flops.register_rule(Compressed)
def _compressed(layer, inputs, outputs):
    (record,) = layer.masked_kernels
    rows = flop_rules.product(outputs[: len(outputs) - layer.output_rank])
    return {"values": record.size * rows}


@flops.register_rule(CompressedSeparableConv1D, CompressedSeparableConv2D)
def _compressed_separable(layer, inputs, outputs):
    # Its pointwise convolution is a layer, which counts for itself.
    pixels = flop_rules.positions(layer, outputs)
    depthwise = flop_rules.size_of(layer.depthwise_kernel) * pixels
    return {"depthwise_kernel": depthwise}


def count_units(model: Model) -> list:
    """Counts, for each masked kernel, units that lost all connections.

    A unit is an entry of the kernel's last axis, an input one of the second
    last; in a convolution all positions count together.

    Args:
        model: A `SparseModel`.

    Returns:
        List of `UnitCount`.

    Raises:
        TypeError: If `model` is not a `SparseModel`.

    Example:

    ```python
    for kernel in keras_freetickets.count_units(model):
        print(kernel.name, kernel.dead, "of", kernel.units)
    ```
    """
    _check_sparse("model", model)
    counts = []
    for name, mask in _masks(model):
        mask = mask.reshape((1,) * max(0, 2 - mask.ndim) + mask.shape)
        both = mask.reshape(-1, *mask.shape[-2:]).any(axis=0)
        counts.append(
            UnitCount(
                name,
                units=both.shape[1],
                dead=int((~both.any(axis=0)).sum()),
                unread=int((~both.any(axis=1)).sum()),
                inputs=both.shape[0],
            )
        )
    return counts
