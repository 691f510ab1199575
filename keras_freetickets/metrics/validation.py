"""Input validation: predictions and labels of any form, read as rows.

This is the one place that knows these forms. Predictions are
`(batch, ..., classes)`: one axis more for each of time, height or width, of
tokens and pixels. A single column, `(batch, ..., 1)`, is the probability, or
the logit, of class 1 of a binary classifier. Labels are integers
`(batch, ...)` or `(batch, ..., 1)`, or one-hot. Labels that are `ignore_class`,
and predictions that Keras masked, do not count.

A metric is handed `Rows`: a row of two probabilities or more for each label,
the label and its weight. What works on arrays reads the same forms with
`arrays.py`, in double precision.

Values are checked where there are values: called eagerly, or on arrays. In a
step that is being traced only shapes are known, and only they are checked.
"""

import dataclasses
import typing
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_freetickets import data
from keras_freetickets import keras_adapter
from keras_freetickets.arguments import is_integer
from keras_freetickets.types import Tensor

# How far from one the sum of a row of probabilities may be.
_SUM_TOLERANCE = 1e-3
_HALF_SUM_TOLERANCE = 1e-2


@dataclasses.dataclass
class Rows:
    """Predictions and labels, one row for each label.

    Attributes:
        probabilities: Float32 tensor `(rows, classes)`, of two classes or
            more, or `(members, rows, classes)`.
        labels: Int32 tensor `(rows,)`, or `None` if the metric needs none.
        weights: Float32 tensor `(rows,)`, 0 where a label is ignored.
        distributions: Labels as float32 `(rows, classes)` if they were given
            as distributions (one-hot, or a column of floats), else `None`.
    """

    probabilities: typing.Any
    labels: typing.Any
    weights: typing.Any
    distributions: typing.Any = None

    @property
    def targets(self) -> Tensor:
        """Labels as distributions `(rows, classes)`."""
        if self.distributions is not None:
            return self.distributions
        return ops.one_hot(self.labels, self.probabilities.shape[-1])

    @property
    def hits(self) -> Tensor:
        """1 where the most probable class is the label, else 0, `(rows,)`.

        Of equals the first is chosen. NaN where predictions hold NaN, which
        the choice of a class hides.
        """
        guess = ops.cast(ops.argmax(self.probabilities, axis=-1), "int32")
        hit = ops.cast(ops.equal(guess, self.labels), "float32")
        return keep_nan(hit, self.probabilities)


# Predictions.


def concrete(tensor: Tensor) -> np.ndarray | None:
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


def check_ignore_class(value: Any) -> None:
    """Raises unless `ignore_class` is an integer or `None`."""
    if value is not None and not is_integer(value):
        raise ValueError(
            "`ignore_class` must be an integer, the label that is not counted, "
            f"or None. Received: ignore_class={value!r}"
        )


def check_members_axis(value: Any) -> None:
    """Raises unless `members_axis` is 0 or 1."""
    if isinstance(value, bool) or value not in (0, 1):
        raise ValueError(
            f"`members_axis` must be 0 or 1. Received: members_axis={value!r}"
        )


def check_probabilities(values: Tensor, name: str = "y_pred") -> None:
    """Raises unless each row of an array is a distribution over classes.

    A single column holds the probability of class 1.
    """
    half = values.dtype.itemsize <= 2
    tolerance = _HALF_SUM_TOLERANCE if half else _SUM_TOLERANCE
    values = np.asarray(values, "float32")
    if values.size == 0:
        return
    low, high = values.min(), values.max()
    # Written so that NaN fails the check.
    if not (low >= -tolerance and high <= 1 + tolerance):
        raise ValueError(
            f"`{name}` must hold probabilities in [0, 1]; pass "
            "`from_logits=True` for logits. "
            f"Received: {name} with values in [{low:.4g}, {high:.4g}]"
        )
    if values.shape[-1] == 1:
        return
    totals = values.sum(axis=-1).ravel()
    worst = totals[np.argmax(np.abs(totals - 1))]
    if abs(worst - 1) > tolerance:
        raise ValueError(
            f"`{name}` must hold probabilities that sum to one over the "
            "classes, the last axis; where each column is a yes or no of its "
            f"own (several labels at once), pass `{name}[..., None]`. "
            f"Received: {name} with a row that sums to {worst:.4g}"
        )


def is_distribution(values: Tensor) -> bool:
    """Whether each row of an array is a distribution over classes."""
    try:
        check_probabilities(values)
    except ValueError:
        return False
    return True


def check_shape(
    y_pred: Tensor, members: bool = False, name: str = "y_pred"
) -> None:
    """Raises unless a tensor has the shape of predictions."""
    axes = "members, examples" if members else "batch"
    least = 3 if members else 2
    if len(y_pred.shape) < least or y_pred.shape[-1] in (None, 0):
        raise ValueError(
            f"`{name}` must have the shape ({axes}, ..., classes) with two "
            f"classes or more, or ({axes}, ..., 1) for a binary classifier. "
            f"Received: {name} of shape {tuple(y_pred.shape)}"
        )


def two_columns(
    values: Tensor, from_logits: bool, backend: Any = ops
) -> Tensor:
    """Predictions with a column for each class: a single one becomes two.

    [[0.2]] -> [[0.8, 0.2]]; of logits [[z]] -> [[0, z]], whose softmax is
    the sigmoid of z in its second column.

    Args:
        values: Float tensor `(..., classes)` or `(..., 1)`.
        from_logits: Whether they are logits.
        backend: `keras.ops`, or NumPy for arrays.
    """
    if values.shape[-1] != 1:
        return values
    other = backend.zeros_like(values) if from_logits else 1 - values
    return backend.concatenate([other, values], axis=-1)


def as_given(values: Tensor, one_column: bool) -> Tensor:
    """The second column alone, if predictions came as a single column."""
    return values[..., 1:] if one_column else values


def keep_nan(values: Tensor, y_pred: Tensor) -> Tensor:
    """Values of rows, NaN where the predictions hold NaN.

    Choosing a class would hide them.

    Args:
        values: Float tensor `(...)`.
        y_pred: Tensor `(..., classes)` or `(members, ..., classes)`.

    Returns:
        Tensor of the shape of `values`.
    """
    lost = ops.any(ops.isnan(y_pred), axis=-1)
    if len(lost.shape) > len(values.shape):
        lost = ops.any(lost, axis=0)
    return ops.where(lost, float("nan"), values)


def read_predictions(
    y_pred: Tensor,
    from_logits: bool,
    members: bool = False,
    only_chosen: bool = False,
) -> Tensor:
    """Checked float32 probabilities of two classes or more.

    Args:
        y_pred: Probabilities or logits `(batch, ..., classes)`, or
            `(batch, ..., 1)` of class 1; of members with one more axis, the
            first.
        from_logits: Whether they are logits.
        members: Whether they are of several members.
        only_chosen: Whether it matters only which class is largest: then
            two columns or more may be logits or probabilities, and stay.

    Returns:
        Tensor of the same shape, with two columns for one.
    """
    y_pred = ops.convert_to_tensor(y_pred)
    check_shape(y_pred, members)
    any_scale = from_logits or (only_chosen and y_pred.shape[-1] > 1)
    values = None if any_scale else concrete(y_pred)
    if values is not None:
        check_probabilities(values)
    y_pred = two_columns(ops.cast(y_pred, "float32"), from_logits)
    return ops.softmax(y_pred) if from_logits and not only_chosen else y_pred


def members_first(members: Tensor, members_axis: int) -> Tensor:
    """Members' predictions with the members on the first axis."""
    check_members_axis(members_axis)
    members = ops.convert_to_tensor(members)
    if members_axis == 1 and len(members.shape) > 2:
        members = ops.swapaxes(members, 0, 1)
    check_shape(members, members=True)
    if members.shape[0] is None:
        raise ValueError(
            "`members_axis` must be the axis whose length is the number of "
            "members; in a compiled model the batch is first, which asks for "
            "`members_axis=1`. Received: "
            f"members_axis={members_axis} for predictions whose number there "
            "is not known"
        )
    return members


# Labels and weights.


def _with_rank(y_true, y_pred):
    """Labels of a known rank.

    A step of TensorFlow that was traced for labels (batch,) and is then given
    (batch, 1) is traced again for labels of any rank. They are integers: as
    one-hot labels they would not fit in here.
    """
    if getattr(y_true.shape, "rank", 0) is None:
        return ops.reshape(y_true, ops.shape(y_pred)[:-1])
    return y_true


def check_length(y_true: Tensor, wanted: Any) -> None:
    """Raises if shapes are known to differ: a label for each row.

    Args:
        y_true: Labels `(batch, ...)`.
        wanted: Shape of the predictions without their classes.
    """
    found, wanted = tuple(y_true.shape), tuple(wanted)
    alike = len(found) == len(wanted) and all(
        a == b or None in (a, b) for a, b in zip(found, wanted, strict=True)
    )
    if not alike:
        known = None not in found + wanted
        labels, examples = (
            int(np.prod(shape)) if known else shape for shape in (found, wanted)
        )
        raise ValueError(
            "`y_true` must have one label for each example of `y_pred`, and "
            "for each position if there are several. "
            f"Received: {labels} labels for {examples} examples, of the "
            f"shapes {found} and {wanted}"
        )


def check_labels(
    values: Tensor, num_classes: int, name: str = "y_true"
) -> None:
    """Raises unless an array holds integers in [0, num_classes)."""
    values = np.asarray(values)
    if values.size == 0:
        return
    low, high = values.min(), values.max()
    if not (low >= 0 and high < num_classes) or np.any(values % 1):
        raise ValueError(
            f"`{name}` must hold integers in [0, {num_classes}), the classes "
            "of the predictions (or be the `ignore_class`). "
            f"Received: {name} with values in [{low}, {high}]"
        )


def check_chances(values: Tensor, name: str = "y_true") -> None:
    """Raises unless an array holds labels of one column: 0, 1 or between."""
    values = np.asarray(values)
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(
            f"`{name}` must hold integers in [0, 2), the classes of the "
            "predictions (or be the `ignore_class`). Received: "
            f"{name} with values in [{values.min()}, {values.max()}]"
        )


def read_labels(
    y_true: Tensor, y_pred: Tensor, ignore_class: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Labels, which of them count, and their distributions if given so.

    Args:
        y_true: Integers `(batch, ...)` or `(batch, ..., 1)`, or one-hot
            `(batch, ..., classes)`. For predictions of a single column they
            may be probabilities of class 1.
        y_pred: Predictions `(batch, ..., classes)`; only the shape is read.
        ignore_class: Integer or `None`.

    Returns:
        Tuple of int32 labels `(batch, ...)`, 0 where they are ignored; a
        boolean tensor of what is not, or `None` for all; and float32
        distributions `(batch, ..., classes)`, or `None`.
    """
    y_true = _with_rank(ops.convert_to_tensor(y_true), y_pred)
    classes = y_pred.shape[-1]
    one_hot = data.is_one_hot(y_true, y_pred.shape)
    labels = data.class_labels(y_true, y_pred.shape)
    check_length(labels, y_pred.shape[:-1])
    counted = None
    if ignore_class is not None:
        counted = ops.not_equal(ops.cast(labels, "int32"), int(ignore_class))
        labels = ops.where(counted, labels, ops.zeros_like(labels))
    values = None if one_hot else concrete(labels)
    if classes == 1:
        if values is not None:
            check_chances(values)
        chances = ops.expand_dims(ops.cast(labels, "float32"), -1)
        given = two_columns(chances, from_logits=False)
        return ops.cast(ops.argmax(given, axis=-1), "int32"), counted, given
    if values is not None:
        check_labels(values, classes)
    given = ops.cast(y_true, "float32") if one_hot else None
    return ops.cast(labels, "int32"), counted, given


def without_ignored(y_pred: Tensor, counted: Tensor | None) -> Tensor:
    """Predictions that tell nothing, and no NaN, where labels are ignored."""
    if counted is None:
        return y_pred
    # Two equal probabilities, or two equal logits.
    nothing = ops.cast(1 / max(2, y_pred.shape[-1]), y_pred.dtype)
    return ops.where(ops.expand_dims(counted, -1), y_pred, nothing)


def read_weights(sample_weight: Tensor | None, shape: Any) -> Tensor:
    """Weights of the shape of labels, ones if there are none.

    Args:
        sample_weight: Tensor `(batch,)` up to `(batch, ...)`, or `None`.
        shape: Shape of the labels, as `ops.shape` returns it.
    """
    if sample_weight is None:
        return ops.ones(shape, "float32")
    weight = ops.cast(ops.convert_to_tensor(sample_weight), "float32")
    weight = data.without_column(weight, len(shape) + 1)
    return spread(weight, shape, "sample_weight")


def read_known(y_true: Tensor, shape: Any) -> Tensor:
    """Which inputs are known, as floats of the shape of scores.

    Args:
        y_true: Tensor `(batch,)` up to `(batch, ...)`.
        shape: Shape of the scores, as `ops.shape` returns it.
    """
    known = ops.cast(ops.convert_to_tensor(y_true), "float32")
    known = data.without_column(known, len(shape) + 1)
    static = [n if isinstance(n, int) else None for n in shape]
    check_length(known, static[: len(known.shape)])
    return spread(known, shape, "y_true")


def spread(values: Tensor, shape: Any, name: str) -> Tensor:
    """Values of examples, repeated for each position of an example."""
    rank = len(values.shape)
    fits = rank <= len(shape) and all(
        mine in (1, None) or not isinstance(other, int) or mine == other
        for mine, other in zip(values.shape, shape[:rank], strict=True)
    )
    if not fits:
        raise ValueError(
            f"`{name}` must have one number for each example, or for each "
            "position. "
            f"Received: {name} of shape {tuple(values.shape)} for labels of "
            f"shape {tuple(shape)}"
        )
    for _ in range(len(shape) - rank):
        values = ops.expand_dims(values, -1)
    return ops.broadcast_to(values, shape)


def read_rows(
    y_true: Tensor | None,
    y_pred: Tensor,
    sample_weight: Tensor | None = None,
    from_logits: bool = False,
    ignore_class: int | None = None,
    members_axis: int | None = None,
    only_chosen: bool = False,
    needs_labels: bool = True,
) -> Rows:
    """Predictions and labels of any form as `Rows`.

    Args:
        y_true: Labels, see the top of this file.
        y_pred: Predictions, see there; of members with an axis more.
        sample_weight: Weights `(batch,)` up to `(batch, ...)`, or `None`.
        from_logits: Whether predictions are logits.
        ignore_class: Label that is not counted, or `None`.
        members_axis: 0 or 1, the axis of the members, or `None`.
        only_chosen: As for `read_predictions`.
        needs_labels: Whether labels have to be classes. If not they are only
            compared with `ignore_class`, and may be of other classes.

    Returns:
        `Rows`.
    """
    y_pred = ops.convert_to_tensor(y_pred)
    mask = keras_adapter.mask_of(y_pred)
    members = members_axis is not None
    if members_axis is not None:
        y_pred = members_first(y_pred, members_axis)
    check_shape(y_pred, members)
    one = y_pred[0] if members else y_pred
    labels = counted = given = None
    if needs_labels:
        labels, counted, given = read_labels(y_true, one, ignore_class)
    elif y_true is not None:
        counted = _compared(y_true, one, ignore_class)
    shape = ops.shape(one)[:-1]
    weights = read_weights(sample_weight, shape)
    if mask is not None and not members:
        weights = weights * spread(ops.cast(mask, "float32"), shape, "mask")
    if counted is not None:
        weights = ops.where(counted, weights, 0.0)
    y_pred = without_ignored(y_pred, counted)
    probabilities = read_predictions(y_pred, from_logits, members, only_chosen)
    classes = probabilities.shape[-1]
    before = (probabilities.shape[0],) if members else ()

    def flat(values, *axes):
        return None if values is None else ops.reshape(values, (-1, *axes))

    return Rows(
        ops.reshape(probabilities, (*before, -1, classes)),
        flat(labels),
        flat(weights),
        flat(given, classes),
    )


def _compared(y_true, y_pred, ignore_class):
    """What is not ignored, of labels that may be of other classes."""
    y_true = _with_rank(ops.convert_to_tensor(y_true), y_pred)
    labels = data.class_labels(y_true, y_pred.shape)
    check_length(labels, y_pred.shape[:-1])
    if ignore_class is None:
        return None
    return ops.not_equal(ops.cast(labels, "int32"), int(ignore_class))
