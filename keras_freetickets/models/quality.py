"""What masks are like: units without inputs, overlap of two networks."""

import dataclasses

import numpy as np
from keras import ops

from keras_freetickets.models.sparse_model import SparseModel


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
        (record.name, ops.convert_to_numpy(record.mask.value))
        for record in model.connections
    ]


def count_units(model):
    """Counts, for each masked kernel, units that lost all connections.

    A unit is an entry of the kernel's last axis, an input one of the second
    last; in a convolution all positions count together.

    Args:
        model: A `SparseModel`.

    Returns:
        List of `UnitCount`.

    Raises:
        TypeError: If `model` is no `SparseModel`.

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


def mask_overlap(one, other):
    """The share of connections that two networks have in common.

    Args:
        one: A `SparseModel`.
        other: A `SparseModel` of the same architecture.

    Returns:
        Float in [0, 1]: connections that both have over those that either
        has. Two random masks of density `d` have `d / (2 - d)`.

    Raises:
        TypeError: If one is no `SparseModel`.
        ValueError: If the kernels differ in number or shape.

    Example:

    ```python
    tickets = [keras.saving.load_model(path) for path in paths]
    keras_freetickets.mask_overlap(tickets[0], tickets[1])
    ```
    """
    _check_sparse("one", one)
    _check_sparse("other", other)
    masks = [[mask for _, mask in _masks(model)] for model in (one, other)]
    shapes = [[mask.shape for mask in part] for part in masks]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "`one` and `other` must have masked kernels of the same shapes. "
            f"Received: {shapes[0]} and {shapes[1]}"
        )
    common = sum(int(np.sum(a & b)) for a, b in zip(*masks))
    either = sum(int(np.sum(a | b)) for a, b in zip(*masks))
    return common / either
