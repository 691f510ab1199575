"""Accuracy, likelihood and Brier score, of labels as integers or one-hot.

Each of Keras' own metrics takes only one of these.
"""

from typing import Any

import keras
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.metrics import validation
from keras_freetickets.metrics.base import MeanOfRows
from keras_freetickets.metrics.validation import Rows
from keras_freetickets.types import Tensor


@keras.saving.register_keras_serializable(package="keras_freetickets")
def negative_log_likelihood(
    y_true: Tensor, y_pred: Tensor, ignore_class: int | None = None
) -> Tensor:
    """Cross-entropy of predicted probabilities, in nats.

    Args:
        y_true: Integer tensor of shape `(batch, ...)` or `(batch, ..., 1)`,
            or distributions (one-hot) of shape `(batch, ..., classes)`.
        y_pred: Probabilities of shape `(batch, ..., classes)`, or
            `(batch, ..., 1)` with that of class 1.
        ignore_class: Integer, the label that is not counted, or `None`
            (default).

    Returns:
        Tensor of shape `(batch, ...)`, 0 where a label is ignored, with a
        mask that lets Keras leave these out of a mean. As in Keras, each row
        is divided by its sum, which half precision may have moved from one;
        `NegativeLogLikelihood` refuses rows that do not sum to one.

    Raises:
        ValueError: If `y_pred` has no axis of classes, there is not one
            label for each example or, called eagerly, labels are not classes.

    Example:

    >>> loss = negative_log_likelihood([1], [[0.25, 0.75]])  # -log(0.75)
    >>> round(float(loss[0]), 4)
    0.2877
    """
    y_true = ops.convert_to_tensor(y_true)
    y_pred = ops.convert_to_tensor(y_pred)
    validation.check_shape(y_pred)
    labels, counted, given = validation.read_labels(
        y_true, y_pred, ignore_class
    )
    y_pred = validation.without_ignored(y_pred, counted)
    if y_pred.shape[-1] == 1:
        values = keras.losses.binary_crossentropy(given[..., 1:], y_pred)
    elif given is not None:
        values = keras.losses.categorical_crossentropy(given, y_pred)
    else:
        values = keras.losses.sparse_categorical_crossentropy(labels, y_pred)
    if counted is not None:
        values = ops.where(counted, values, ops.zeros_like(values))
        keras_adapter.set_mask(values, counted)
    return values


@keras.saving.register_keras_serializable(package="keras_freetickets")
class NegativeLogLikelihoodLoss(keras.losses.Loss):
    """`negative_log_likelihood` as a loss, with a label to ignore.

    Args:
        ignore_class: Integer, the label that is not counted, or `None`
            (default).
        reduction: As for `keras.losses.Loss`. The mean is over what counts.
        name: Name of the loss.
        dtype: As for `keras.losses.Loss`.

    Raises:
        ValueError: If `ignore_class` is not an integer.

    Example:

    ```python
    model.compile(loss=NegativeLogLikelihoodLoss(ignore_class=255))
    ```
    """

    def __init__(
        self,
        ignore_class: int | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str = "negative_log_likelihood",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        validation.check_ignore_class(ignore_class)
        self.ignore_class = ignore_class

    def __call__(
        self,
        y_true: Tensor,
        y_pred: Tensor,
        sample_weight: Tensor | None = None,
    ) -> Any:
        if sample_weight is not None:
            # Keras does not repeat the weight of an example for its
            # positions, but fails.
            y_pred = ops.convert_to_tensor(y_pred)
            shape = ops.shape(y_pred)[:-1]
            sample_weight = validation.read_weights(sample_weight, shape)
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return negative_log_likelihood(y_true, y_pred, self.ignore_class)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "ignore_class": self.ignore_class}


@keras.saving.register_keras_serializable(package="keras_freetickets")
class Accuracy(MeanOfRows):
    """Share of labels that are the most probable class.

    Predictions of two columns or more may be probabilities or logits: rows
    need not sum to one. Of a single column, class 1 is chosen above a
    probability of 0.5, or a logit of 0.

    Args:
        from_logits: Whether predictions are logits; it matters for one
            column only.
        ignore_class: Integer, the label that is not counted, or `None`
            (default).
        name: Name of the metric; `None` (default) for `"accuracy"`.
        dtype: Unused; sums are kept in float32.

    Raises:
        ValueError: If `y_pred` has no axis of classes, there is not one
            label for each example or, called eagerly, labels are not classes.

    Example:

    ```python
    model.compile(metrics=[Accuracy()])
    ```
    """

    default_name = "accuracy"
    direction = "up"
    only_chosen = True

    def values(self, rows: Rows) -> Tensor:
        return rows.hits


@keras.saving.register_keras_serializable(package="keras_freetickets")
class NegativeLogLikelihood(MeanOfRows):
    """Mean of `negative_log_likelihood` over labels.

    Args:
        from_logits: Whether predictions are logits.
        ignore_class: Integer, the label that is not counted, or `None`
            (default).
        name: Name of the metric; `None` (default) for `"nll"`.
        dtype: Unused; sums are kept in float32.

    Raises:
        ValueError: As `brier_score`.

    Example:

    ```python
    nll = NegativeLogLikelihood(from_logits=True)
    model.compile("sgd", loss, metrics=[nll])
    ```
    """

    default_name = "nll"
    direction = "down"

    def values(self, rows: Rows) -> Tensor:
        return keras.losses.categorical_crossentropy(
            rows.targets, rows.probabilities
        )


@keras.saving.register_keras_serializable(package="keras_freetickets")
def brier_score(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Squared distance of predicted probabilities from the one-hot label.

    Args:
        y_true: Integer tensor of shape `(batch, ...)` or `(batch, ..., 1)`,
            or one-hot of shape `(batch, ..., classes)`.
        y_pred: Probabilities of shape `(batch, ..., classes)`, or
            `(batch, ..., 1)` with that of class 1.

    Returns:
        Tensor of shape `(batch, ...)`, in [0, 2]: the sum over the classes,
        as Brier defined it. For two classes, also given as one column, that
        is twice the score that is often reported.

    Raises:
        ValueError: If `y_pred` has no axis of classes, there is not one
            label for each example or, called eagerly, rows do not sum to one
            or labels are not classes.

    Example:

    >>> score = brier_score([1], [[0.25, 0.75]])  # 0.25^2 + 0.25^2
    >>> round(float(score[0]), 4)
    0.125

    Reference:
        Brier, 1950, Monthly Weather Review 78(1).
    """
    y_pred = ops.convert_to_tensor(y_pred)
    validation.check_shape(y_pred)
    labels, _, _ = validation.read_labels(y_true, y_pred)
    return _squared_distance(
        labels, validation.read_predictions(y_pred, from_logits=False)
    )


def _squared_distance(labels, probabilities):
    one_hot = ops.one_hot(labels, probabilities.shape[-1])
    return ops.sum(ops.square(probabilities - one_hot), axis=-1)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class Brier(MeanOfRows):
    """Mean of `brier_score` over labels: 0 is perfect, 2 the worst.

    Args:
        from_logits, ignore_class, name, dtype: As for
            `NegativeLogLikelihood`; the name is `"brier"` by default.

    Raises:
        ValueError: As `brier_score`.

    Example:

    >>> score = Brier()([1, 1], [[0.25, 0.75], [0.0, 1.0]])
    >>> round(float(score), 4)  # (0.125 + 0) / 2
    0.0625
    """

    default_name = "brier"
    direction = "down"

    def values(self, rows: Rows) -> Tensor:
        return _squared_distance(rows.labels, rows.probabilities)
