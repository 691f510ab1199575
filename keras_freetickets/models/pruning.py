"""Sparse models from trained ones: magnitude pruning and rewinding."""

import typing

import numpy as np
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.ensembles.members import architecture
from keras_freetickets.ensembles.members import revived
from keras_freetickets.ensembles.members import uncompiled
from keras_freetickets.models.compressed_training import check_masked
from keras_freetickets.models.conversion import check_sparsity
from keras_freetickets.models.conversion import sparsify
from keras_freetickets.models.copying import copied
from keras_freetickets.models.copying import copy_state
from keras_freetickets.models.sparse_model import SparseModel
from keras_freetickets.topology.selection import select
from keras_freetickets.types import Model

_SCOPES = ("global", "layer")
_HIGHEST = np.finfo("float32").max


def _check_scope(scope):
    if scope not in _SCOPES:
        raise ValueError(
            f"`scope` must be one of {list(_SCOPES)}. Received: scope={scope!r}"
        )


def _with_masks(model, filters, kernels):
    """A sparse copy of a model; nothing is removed from a dense one."""
    if not isinstance(model, SparseModel):
        return sparsify(
            model,
            0.0,
            filters=filters,
            mask_initializer="magnitude",
            kernels=kernels,
        )
    graph = isinstance(model, keras_adapter.Functional)
    if graph and keras_adapter.functional_like_constructor(type(model)):
        clone = copied(model, type(model))
    else:
        clone = revived(uncompiled(model))
    copy_state(model, clone)
    return clone


def _check_alike(model, target):
    if architecture(model) != architecture(target):
        shapes = [
            [tuple(masked.kernel.shape) for masked in one.masked_kernels]
            for one in (model, target)
        ]
        raise ValueError(
            "`rewind_to` must have the architecture of `model`. Received: a "
            f"model with kernels of shapes {shapes[1]} where `model` has "
            f"{shapes[0]}, or with different layers or settings"
        )


def _number_kept(size, sparsity):
    # The float product may be slightly below the exact integer.
    return int(size * (1.0 - sparsity) + 1e-6)


def prune(
    model: Model,
    sparsity: typing.Any,
    scope: str = "global",
    rewind_to: Model | None = None,
    filters: typing.Any = None,
    kernels: typing.Any = None,
) -> Model:
    """Makes a sparse copy without the weights of smallest magnitude.

    Use it for methods that start from a trained network: prune and fine-tune,
    or prune, rewind to early weights and train again (lottery tickets).
    Removed weights stay removed, so a model that is pruned repeatedly, with
    training in between, becomes sparser in steps.

    Args:
        model: A trained Functional or Sequential model, or a `SparseModel`.
            It is not changed.
        sparsity: Float in [0, 1), the share of all maskable weights that is
            removed afterwards; `int(weights * (1 - sparsity))` are kept, and
            always the largest weight of each kernel.
        scope: `"global"` (default, VITA-Group/FreeTickets) ranks all weights
            together; `"layer"` ranks those of each kernel.
        rewind_to: Model of the same architecture that provides the values of
            the remaining weights, such as `model` early in its training.
            `None` keeps their values.
        filters: As for `sparsify`; used if `model` is dense.
        kernels: As for `sparsify`; used if `model` is dense.

    Returns:
        A `SparseModel`, not compiled.

    Raises:
        ValueError: If an argument is out of range, `sparsity` is lower than
            that of `model`, the two models differ, or one has compressed
            kernels.

    Example:

    ```python
    sparse = keras_freetickets.prune(trained, sparsity=0.8)
    ```

    Reference:
        Global magnitude pruning as in VITA-Group/FreeTickets (main_PF.py);
        rewinding: Frankle et al., 2020, arXiv:1912.05671.
    """
    check_sparsity(sparsity)
    _check_scope(scope)
    check_masked("model", model)
    check_masked("rewind_to", rewind_to)
    source = target = _with_masks(model, filters, kernels)
    if rewind_to is not None:
        target = _with_masks(rewind_to, filters, kernels)
    _check_alike(source, target)
    masked_kernels = source.masked_kernels
    scores = [
        np.abs(ops.convert_to_numpy(r.kernel.value)) for r in masked_kernels
    ]
    masks = [ops.convert_to_numpy(r.mask.value) for r in masked_kernels]
    for masked, mask in zip(
        target.masked_kernels,
        _selected(scores, masks, sparsity, scope),
        strict=True,
    ):
        masked.mask.assign(mask)
        masked.active = int(mask.sum())
    target.project()
    return target


def _first_wins(scores, mask):
    """Raises the best remaining score above all others."""
    scores = np.where(mask, scores, 0.0).astype("float32")
    scores[np.unravel_index(np.argmax(scores), scores.shape)] = _HIGHEST
    return scores


def _selected(scores, masks, sparsity, scope):
    """The masks of the largest scores among the remaining weights."""
    groups = [list(range(len(scores)))]
    if scope == "layer":
        groups = [[i] for i in range(len(scores))]
    chosen = []
    for group in groups:
        kept = _number_kept(sum(scores[i].size for i in group), sparsity)
        kept = max(kept, len(group))
        left = sum(int(masks[i].sum()) for i in group)
        if kept > left:
            raise ValueError(
                "`sparsity` must not be lower than that of `model`, which has "
                f"{left} weights left. Received: sparsity={sparsity}, which "
                f"would keep {kept}"
            )
        # No kernel loses all its weights.
        chosen += select(
            [_first_wins(scores[i], masks[i]) for i in group],
            kept,
            eligible=[masks[i] for i in group],
        )
    return [ops.convert_to_numpy(mask) for mask in chosen]
