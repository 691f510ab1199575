"""Readers of inputs and labels, in the forms that Keras accepts."""

from collections.abc import Sized
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.types import Tensor


def without_column(
    values: Tensor, rank: int | None = None, backend: Any = ops
) -> Tensor:
    """Removes a last axis of size 1: `(batch, ..., 1)` to `(batch, ...)`.

    Args:
        values: Tensor.
        rank: Integer, remove the axis only if the tensor has this many axes.
            `None` for two or more.
        backend: `keras.ops`, or NumPy for arrays.
    """
    axes = len(values.shape)
    has_column = axes == rank or (rank is None and axes > 1)
    if has_column and values.shape[-1] == 1:
        return backend.squeeze(values, axis=-1)
    return values


def is_one_hot(y_true: Tensor, shape: Any, optional_columns: int = 0) -> bool:
    """Whether labels have one column for each class, like predictions.

    Args:
        y_true: Labels, a tensor or an array.
        shape: Shape of the predictions, `(batch, ..., classes)`.
        optional_columns: Integer, how many of the last columns labels may
            lack: 1 if the model has an output for unknown inputs (MOON).
    """
    columns = range(max(2, shape[-1] - optional_columns), shape[-1] + 1)
    return len(y_true.shape) == len(shape) and y_true.shape[-1] in columns


def class_labels(
    y_true: Tensor, shape: Any, backend: Any = ops, optional_columns: int = 0
) -> Tensor:
    """Returns labels `(batch, ...)`; one-hot labels become class indices.

    Args:
        y_true: Labels `(batch, ...)` or `(batch, ..., 1)`, or one-hot
            `(batch, ..., classes)`: a tensor or an array.
        shape: Shape of the predictions, `(batch, ..., classes)`.
        backend: `keras.ops`, or NumPy for arrays.
        optional_columns: As for `is_one_hot`.

    Example:

    >>> class_labels(np.array([[0, 1], [1, 0]]), (2, 2), np).tolist()
    [1, 0]
    """
    if is_one_hot(y_true, shape, optional_columns):
        return backend.argmax(y_true, axis=-1)
    return without_column(y_true, len(shape), backend)


def as_arrays(x: Any, y: Any = None) -> tuple[Any, Any]:
    """Returns inputs and labels as arrays; concatenates batches.

    A shuffled dataset has a different order each time it is iterated.

    Args:
        x: Inputs, with `y`, or an iterable of batches `(inputs, labels)`.
        y: Labels, or `None` to take them from the batches.

    Returns:
        Tuple of inputs and labels: unchanged if `y` is given, else arrays in
        the structure of a batch.

    Raises:
        ValueError: If there are no labels, or no batches.
    """
    if y is not None:
        return x, y
    if hasattr(x, "shape") or isinstance(x, list | tuple | dict):
        raise ValueError("`y` must be given with arrays. Received: y=None")
    batches = [_pair(batch) for batch in x]
    if not batches:
        raise ValueError("`x` must hold examples. Received: no batches")
    return keras.tree.map_structure(_concatenated, *batches)


def _pair(batch: Any) -> tuple[Any, Any]:
    if not isinstance(batch, list | tuple) or len(batch) < 2:
        raise ValueError(
            "`x` must be a dataset of inputs and labels, or `y` must be given. "
            f"Received: batches of type {type(batch).__name__}"
        )
    return batch[0], batch[1]


def _concatenated(*parts: Tensor) -> np.ndarray:
    return np.concatenate([ops.convert_to_numpy(part) for part in parts])


def check_examples(x: Sized, y: Sized) -> None:
    """Raises unless there are examples, and one label for each."""
    if len(x) == 0 or len(x) != len(y):
        raise ValueError(
            "`x` and `y` must have the same number of examples, at least one. "
            f"Received: {len(x)} inputs and {len(y)} labels"
        )


def input_specs(model: keras.Model) -> Any:
    """Returns specs of a Functional model's inputs, for any batch size.

    Args:
        model: Built Keras model.

    Returns:
        `keras.InputSpec`s in the structure of the inputs; a single input is
        named `"inputs"`.
    """
    one = len(model.inputs) == 1

    def spec(tensor: Any) -> keras.InputSpec:
        return keras.InputSpec(
            shape=(None, *tensor.shape[1:]),
            dtype=tensor.dtype,
            name="inputs" if one else tensor.name,
        )

    structure, _ = keras_adapter.ends_of_graph(model)
    return keras.tree.map_structure(spec, structure)
