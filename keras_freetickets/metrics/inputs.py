"""What the metrics of this folder are given: read, checked and cast.

Values are checked where there are values: called eagerly, or on arrays. In a
step that is being traced only shapes are known, and only they are checked.
"""

import keras
import numpy as np
from keras import ops

from keras_freetickets import keras_adapter

# How far from one the sum of a row of probabilities may be.
_SUM_TOLERANCE = 1e-3
_HALF_SUM_TOLERANCE = 1e-2


def concrete(tensor):
    """The values of a tensor, or `None` while a step is being traced.

    On PyTorch Keras infers shapes by tensors that hold made-up numbers.
    """
    if isinstance(tensor, keras.KerasTensor):
        return None
    if keras_adapter.infers_shapes():
        return None
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if tf.is_symbolic_tensor(tensor):
            return None
    if keras.backend.backend() == "jax":
        import jax

        if isinstance(tensor, jax.core.Tracer):
            return None
    return ops.convert_to_numpy(tensor)


def check_choice(name, value, choices):
    """Raises unless an argument is one of a few strings."""
    if value not in choices:
        raise ValueError(
            f"`{name}` must be one of {sorted(choices)}. "
            f"Received: {name}={value!r}"
        )


def check_probabilities(values, name="y_pred"):
    """Raises unless each row of an array is a distribution over classes."""
    half = values.dtype.itemsize <= 2
    tolerance = _HALF_SUM_TOLERANCE if half else _SUM_TOLERANCE
    values = np.asarray(values, "float32")
    if values.size == 0:
        return
    low, high = values.min(), values.max()
    # Comparisons that NaN fails.
    if not (low >= -tolerance and high <= 1 + tolerance):
        raise ValueError(
            f"`{name}` must hold probabilities in [0, 1]; pass "
            "`from_logits=True` for logits. "
            f"Received: {name} with values in [{low:.4g}, {high:.4g}]"
        )
    totals = values.sum(axis=-1).ravel()
    worst = totals[np.argmax(np.abs(totals - 1))]
    if abs(worst - 1) > tolerance:
        raise ValueError(
            f"`{name}` must hold probabilities that sum to one over the "
            "classes, the last axis. "
            f"Received: {name} with a row that sums to {worst:.4g}"
        )


def is_distribution(values):
    """Whether each row of an array is a distribution over classes."""
    try:
        check_probabilities(values)
    except ValueError:
        return False
    return True


def check_labels(values, num_classes, name="y_true"):
    """Raises unless an array holds integers in [0, num_classes)."""
    values = np.asarray(values)
    if values.size == 0:
        return
    low, high = values.min(), values.max()
    if not (low >= 0 and high < num_classes) or np.any(values % 1):
        raise ValueError(
            f"`{name}` must hold integers in [0, {num_classes}), the classes "
            f"of the predictions. Received: {name} with values in "
            f"[{low}, {high}]"
        )


def check_shape(y_pred, members=False):
    """Raises unless a tensor has the shape of predictions."""
    shape = "(batch, members, classes)" if members else "(batch, classes)"
    if len(y_pred.shape) != (3 if members else 2) or y_pred.shape[-1] == 1:
        raise ValueError(
            f"`y_pred` must have the shape {shape} with two classes or more. "
            f"Received: y_pred of shape {tuple(y_pred.shape)}"
        )


def check_length(y_true, y_pred):
    """Raises if as many labels as examples are known not to be there."""
    labels, examples = y_true.shape[0], y_pred.shape[0]
    if None not in (labels, examples) and labels != examples:
        raise ValueError(
            "`y_true` must have one label for each example of `y_pred`. "
            f"Received: {labels} labels for {examples} examples"
        )


def is_one_hot(y_true, y_pred):
    """Whether labels are of the shape `(batch, classes)`."""
    return len(y_true.shape) == 2 and y_true.shape[-1] == y_pred.shape[-1] > 1


def keep_nan(values, y_pred):
    """Values of examples, NaN where the predictions hold NaN.

    The choice of a class hides it.

    Args:
        values: Float tensor `(batch,)`.
        y_pred: Tensor of two axes or more, the first of them the batch.

    Returns:
        Tensor `(batch,)`.
    """
    axes = tuple(range(1, len(y_pred.shape)))
    lost = ops.any(ops.isnan(y_pred), axis=axes)
    return ops.where(lost, float("nan"), values)


def read_predictions(y_pred, from_logits, members=False):
    """Checked float32 probabilities.

    Args:
        y_pred: Probabilities or logits `(batch, classes)`, or
            `(batch, members, classes)`.
        from_logits: Whether they are logits.
        members: Whether they are of several members.

    Returns:
        Tensor of the same shape.
    """
    y_pred = ops.convert_to_tensor(y_pred)
    check_shape(y_pred, members)
    values = concrete(y_pred)
    if values is not None and not from_logits:
        check_probabilities(values)
    y_pred = ops.cast(y_pred, "float32")
    return ops.softmax(y_pred) if from_logits else y_pred


def read_labels(y_true, y_pred):
    """Labels `(batch,)`, of integers `(batch,)`, `(batch, 1)` or one-hot.

    Args:
        y_true: The labels.
        y_pred: Predictions; their first axis is the batch, the last the
            classes.

    Returns:
        Tensor `(batch,)` of int32.
    """
    y_true = ops.convert_to_tensor(y_true)
    if is_one_hot(y_true, y_pred):
        labels = ops.argmax(y_true, axis=-1)
    else:
        labels = ops.reshape(y_true, (-1,))
        values = concrete(labels)
        if values is not None:
            check_labels(values, y_pred.shape[-1])
    check_length(labels, y_pred)
    return ops.cast(labels, "int32")


def read_weights(sample_weight, like):
    """Weights `(batch,)`, ones if there are none."""
    if sample_weight is None:
        return ops.ones_like(like)
    weight = ops.cast(ops.convert_to_tensor(sample_weight), "float32")
    return ops.broadcast_to(ops.reshape(weight, (-1,)), ops.shape(like))


def read_arrays(probabilities, labels):
    """Checked arrays `(examples, classes)` and `(examples,)`.

    Args:
        probabilities: Array `(examples, classes)`.
        labels: Array of integers `(examples,)`, `(examples, 1)` or one-hot.

    Returns:
        Tuple of the probabilities, float64 if they were given so and float32
        if of less, and the labels, int64.
    """
    probabilities = np.asarray(probabilities)
    labels = np.asarray(labels)
    one_hot = labels.ndim == 2 and labels.shape == probabilities.shape
    if one_hot:
        labels = labels.argmax(axis=-1)
    is_table = probabilities.ndim == 2 and probabilities.shape[-1] > 1
    if not is_table or labels.size != len(probabilities):
        raise ValueError(
            "`labels` must have one integer for each row of `probabilities`, "
            "an array (examples, classes) with two classes or more. Received: "
            f"{labels.size} labels for probabilities of shape "
            f"{probabilities.shape}"
        )
    labels = labels.reshape(-1)
    check_probabilities(probabilities, "probabilities")
    check_labels(labels, probabilities.shape[-1], "labels")
    kind = "float64" if probabilities.dtype.itemsize > 4 else "float32"
    return probabilities.astype(kind), labels.astype("int64")
