"""How much the masks of several sparse models have in common."""

from collections.abc import Sequence

import numpy as np

from keras_freetickets.types import Array
from keras_freetickets.types import Model


def mask_overlap(members: Sequence[Model]) -> Array:
    """Share of connections that each pair of models has in common.

    It is the intersection of the two masks over their union, of all masked
    kernels together: 1 for equal masks, 0 for masks with nothing in common.

    Args:
        members: List of sparse models of the same architecture, e.g.
            `[ensemble.member(i) for i in range(ensemble.num_members)]`.

    Returns:
        Array `(members, members)`, symmetric with a diagonal of ones. Random
        masks of density `d` have `d / (2 - d)` in common.

    Raises:
        ValueError: If a model has no masks, or others than the first.

    Example:

    ```python
    kept = keras_freetickets.mask_overlap([first_ticket, second_ticket])
    ```
    """
    masks = [_masks(member, i) for i, member in enumerate(members)]
    shapes = [[kernel.shape for kernel in member] for member in masks]
    for i, one in enumerate(shapes):
        if one != shapes[0]:
            raise ValueError(
                "`members` must have kernels of the same shapes masked. "
                f"Received: {shapes[0]} for member 0, {one} for member {i}"
            )
    shared = np.array([[_shared(a, b) for b in masks] for a in masks])
    size = np.diag(shared)
    return shared / (size[:, None] + size - shared)


def _shared(one, other):
    return sum(int(np.sum(a & b)) for a, b in zip(one, other, strict=True))


def _masks(member, i):
    masked_kernels = getattr(member, "masked_kernels", [])
    if not masked_kernels:
        raise ValueError(
            "`members` must be sparse models with masks. "
            f"Received: member {i}, a {type(member).__name__} without"
        )
    return [masked.mask_array() for masked in masked_kernels]
