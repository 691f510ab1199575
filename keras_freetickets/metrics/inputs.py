"""What the metrics of this folder are given: read, checked and cast.

Values are checked where there are values: called eagerly, or on arrays. In a
step that is being traced only shapes are known, and only they are checked.
"""

import keras
import numpy as np
from keras import ops

# How far from one the sum of a row of probabilities may be.
_SUM_TOLERANCE = 1e-3
_HALF_SUM_TOLERANCE = 1e-2


def concrete(tensor):
    """The values of a tensor, or `None` while a step is being traced."""
    if isinstance(tensor, keras.KerasTensor):
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


def _check_rank(tensor, rank, shape):
    if len(tensor.shape) != rank or tensor.shape[-1] == 1:
        raise ValueError(
            f"`y_pred` must have the shape {shape} with two classes or more. "
            f"Received: y_pred of shape {tuple(tensor.shape)}"
        )


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
    shape = "(batch, members, classes)" if members else "(batch, classes)"
    _check_rank(y_pred, 3 if members else 2, shape)
    values = concrete(y_pred)
    if values is not None and not from_logits:
        check_probabilities(values)
    y_pred = ops.cast(y_pred, "float32")
    return ops.softmax(y_pred) if from_logits else y_pred


def read_labels(y_true, y_pred):
    """Labels `(batch,)`, of integers `(batch,)`, `(batch, 1)` or one-hot."""
    y_true = ops.convert_to_tensor(y_true)
    num_classes = y_pred.shape[-1]
    if len(y_true.shape) == 2 and y_true.shape[-1] == num_classes > 1:
        return ops.argmax(y_true, axis=-1)
    values = concrete(y_true)
    if values is not None:
        check_labels(values, num_classes)
    return ops.cast(ops.reshape(y_true, (-1,)), "int32")


def read_weights(sample_weight, like):
    """Weights `(batch,)`, ones if there are none."""
    if sample_weight is None:
        return ops.ones_like(like)
    weight = ops.cast(ops.convert_to_tensor(sample_weight), "float32")
    return ops.broadcast_to(ops.reshape(weight, (-1,)), ops.shape(like))


def read_arrays(probabilities, labels):
    """Checked arrays `(examples, classes)` and `(examples,)`."""
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
    check_probabilities(
        np.asarray(probabilities, np.result_type(probabilities, "float16")),
        "probabilities",
    )
    check_labels(labels, probabilities.shape[-1], "labels")
    return probabilities.astype("float32"), labels.astype("int64")
