"""Where a search begins: masks, labels, scales and the first values."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_freetickets.arguments import is_real
from keras_freetickets.discrete.stages import Stage
from keras_freetickets.layers.sparse import Sparse
from keras_freetickets.models.sparse_model import SparseModel
from keras_freetickets.types import Array


def masks_of(model: SparseModel) -> list[np.ndarray | None]:
    """The masks of a sparse model, one for each layer with weights."""
    masks = []
    for layer in model.layers:
        if isinstance(layer, Sparse):
            found = layer.masked_kernels
            mask = keras.ops.convert_to_numpy(found[0].mask.value)
            masks.append(mask.astype(bool))
        elif hasattr(layer, "kernel"):
            masks.append(None)
    return masks


def set_masks(
    stages: Sequence[Stage], masks: Any, values: tuple[float, ...]
) -> None:
    """Restricts stages to masks.

    Args:
        stages: Stages, whose `allowed` is set.
        masks: List of boolean arrays of the shapes of the kernels, or of
            `None`; or `None`.
        values: The finite set.

    Raises:
        ValueError: If masks do not fit, or the set has no 0 for the weights
            outside them.
    """
    if masks is None:
        return
    shapes = [tuple(stage.layer.kernel.shape) for stage in stages]
    fits = isinstance(masks, (list, tuple)) and len(masks) == len(shapes)
    if fits:
        fits = all(
            mask is None
            or (np.shape(mask) == shape and np.asarray(mask).dtype == bool)
            for mask, shape in zip(masks, shapes, strict=True)
        )
    if not fits:
        found = masks
        if isinstance(masks, (list, tuple)):
            found = [None if m is None else np.shape(m) for m in masks]
        raise ValueError(
            f"`masks` must be a list of boolean arrays of the shapes {shapes}, "
            f"or None for a whole layer. Received: masks={found}"
        )
    for stage, mask in zip(stages, masks, strict=True):
        if mask is not None:
            stage.allowed = np.asarray(mask).reshape(stage.weights.shape)
    absent = any(not stage.allowed.all() for stage in stages)
    if absent and 0.0 not in values:
        raise ValueError(
            "`values` must have 0 inside a mask, because the weights outside "
            "it are zero. To search signs alone give (-1, 0, 1) with "
            f"keep_count=True. Received: values={values}"
        )


def checked_labels(y: Array, examples: int, classes: int) -> np.ndarray:
    """Labels as an array of int64.

    Args:
        y: Integer array `(examples,)`.
        examples: Integer, number of examples.
        classes: Integer, number of classes.

    Raises:
        ValueError: If labels are something else.
    """
    labels = np.asarray(y)
    fits = labels.shape == (examples,) and labels.dtype.kind in "iu"
    if not fits or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"`y` must be an integer array of shape ({examples},), of classes "
            f"from 0 to {classes - 1}. Received: y of shape {labels.shape} "
            f"and dtype {labels.dtype}"
        )
    return labels.astype("int64")


def set_start(
    stages: Sequence[Stage], settings: Any, random: np.random.Generator
) -> None:
    """Gives stages their scales, and their first weights and biases.

    Args:
        stages: Stages with the weights of a model, inside their masks.
        settings: `CoordinateDescent`.
        random: Generator of values at random.

    Raises:
        ValueError: If the scales of the settings do not fit.
    """
    last = stages[-1]
    if settings.scales is not None:
        _check_scales(settings.scales, len(stages))
    for i, stage in enumerate(stages):
        gain = 3.0 if stage is last else 1.0
        stage.scale = gain / stage.fan_in**0.5
        if settings.start == "nearest":
            stage.scale = _fitted_scale(stage, settings.values)
        if settings.scales is not None:
            stage.scale = float(settings.scales[i])
        _start_weights(stage, settings, random)
        if settings.biases == "zero":
            stage.biases[:] = 0.0
        elif settings.biases == "keep":
            stage.biases /= stage.scale
        elif settings.start == "nearest":
            stage.biases[:] = _nearest(
                stage.biases / stage.scale, settings.values
            )
        else:
            stage.biases[:] = random.choice(settings.values, stage.units)


def _start_weights(stage, settings, random):
    values = np.asarray(settings.values)
    if settings.start == "nearest":
        found = _nearest(stage.weights / stage.scale, values)
    else:
        if settings.keep_count:
            values = values[values != 0.0]
        found = random.choice(values, stage.weights.shape)
    stage.weights[:] = np.where(stage.allowed, found, 0.0)


def _check_scales(scales, count):
    if not isinstance(scales, (list, tuple)) or len(scales) != count:
        raise ValueError(
            f"`scales` must be a list of {count} numbers, one for each layer "
            f"with weights. Received: scales={scales!r}"
        )
    for scale in scales:
        if not is_real(scale) or not 0 < scale < np.inf:
            raise ValueError(
                f"`scales` must be positive. Received: scales={scales!r}"
            )


def _nearest(weights, values):
    """The nearest member of the set; of two, the one nearer to zero."""
    known = np.asarray(sorted(values, key=abs))
    distances = np.abs(weights[..., None] - known)
    return known[distances.argmin(axis=-1)]


def _fitted_scale(stage: Stage, values: tuple[float, ...]) -> float:
    """The scale of the smallest squared error, by alternating minimization.

    Several starts, because the error has local minima.
    """
    weights = stage.weights[stage.allowed]
    largest = np.abs(weights).max() if weights.size else 0.0
    if largest == 0.0:
        return 1.0 / stage.fan_in**0.5
    top = max(abs(value) for value in values)
    best, best_error = largest / top, np.inf
    for start in np.geomspace(0.1, 1.0, 8) * largest / top:
        scale = start
        for _ in range(20):
            found = _nearest(weights / scale, values)
            squares = float(np.square(found).sum())
            if squares == 0.0:
                break
            scale = float((weights * found).sum()) / squares
        if not scale > 0:
            continue
        error = np.square(
            weights - scale * _nearest(weights / scale, values)
        ).sum()
        if error < best_error:
            best, best_error = scale, error
    return float(best)
