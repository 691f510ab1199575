"""Predictions and labels of any form, read as arrays in double precision.

The forms are those of `validation.py`.
"""

from typing import Any

import numpy as np

from keras_freetickets import data
from keras_freetickets.metrics import validation
from keras_freetickets.types import Tensor


def _has_fractions(values):
    return values.dtype.kind == "f" and bool(np.any(values % 1))


def check_order(y_true: Tensor, y_pred: Tensor) -> None:
    """Raises if arrays were given as `(predictions, labels)`.

    What was given second holds integers only, and what was given first has
    more axes or columns, as predictions have, or holds fractions.

    Args:
        y_true: Array given as labels.
        y_pred: Array given as predictions.
    """
    wider = y_true.ndim > y_pred.ndim
    if y_true.ndim == y_pred.ndim > 0:
        wider = y_true.shape[-1] > 1 == y_pred.shape[-1]
        wider = wider or _has_fractions(y_true)
    if wider and not _has_fractions(y_pred):
        raise ValueError(
            "`y_true` must be labels and `y_pred` predictions: the order of "
            "arguments is (y_true, y_pred), as in Keras; it used to be "
            "(probabilities, labels). Received: y_true of shape "
            f"{y_true.shape}, y_pred of shape {y_pred.shape}"
        )


def read_label_array(
    y_true: Tensor,
    shape: Any,
    ignore_class: int | None = None,
    name: str = "y_true",
) -> tuple[np.ndarray, np.ndarray]:
    """Labels as an array of integers, and which of them count.

    Args:
        y_true: Array of integers `(examples, ...)` or `(examples, ..., 1)`,
            or one-hot.
        shape: Shape of the predictions, `(examples, ..., classes)`.
        ignore_class: Integer or `None`.
        name: Name of the argument in errors.

    Returns:
        Tuple of int64 labels `(examples, ...)`, 0 where they are ignored, and
        a boolean array of the same shape.
    """
    validation.check_ignore_class(ignore_class)
    labels = data.class_labels(np.asarray(y_true), shape, np)
    numeric = labels.dtype.kind in "biuf"
    if labels.shape != tuple(shape[:-1]) or not numeric:
        raise ValueError(
            f"`{name}` must have one integer for each row of the predictions, "
            "an array (examples, ..., classes) with two classes or more, or "
            "(examples, ..., 1) for a binary classifier. Received: "
            f"{labels.size} labels of shape {labels.shape} and dtype "
            f"{labels.dtype} for predictions of shape {tuple(shape)}"
        )
    counted = np.ones(labels.shape, bool)
    if ignore_class is not None:
        counted = labels != ignore_class
        labels = np.where(counted, labels, 0)
    validation.check_labels(labels, max(2, shape[-1]), name)
    return labels.astype("int64"), counted


def read_arrays(
    y_true: Tensor, y_pred: Tensor, ignore_class: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Checked arrays `(rows,)` and `(rows, classes)` of what counts.

    As `read_counted_arrays`, without the boolean array.
    """
    return read_counted_arrays(y_true, y_pred, ignore_class)[:2]


def read_counted_arrays(
    y_true: Tensor, y_pred: Tensor, ignore_class: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Checked arrays `(rows,)` and `(rows, classes)` of what counts.

    Args:
        y_true: Array of integers `(examples, ...)` or `(examples, ..., 1)`,
            or one-hot.
        y_pred: Array `(examples, ..., classes)`, or of one column with
            the probability of class 1.
        ignore_class: Integer, the label whose rows are left out, or `None`.

    Returns:
        Tuple of the labels, int64; the probabilities, float64 if they were
        given so and float32 if of less; and a boolean array `(examples, ...)`
        of which labels they are.
    """
    y_true, y_pred = np.asarray(y_true), np.asarray(y_pred)
    check_order(y_true, y_pred)
    validation.check_shape(y_pred)
    labels, counted = read_label_array(y_true, y_pred.shape, ignore_class)
    rows = y_pred[counted]
    validation.check_probabilities(rows)
    kind = "float64" if rows.dtype.itemsize > 4 else "float32"
    rows = validation.two_columns(
        rows.astype(kind), from_logits=False, backend=np
    )
    return labels[counted], rows, counted
