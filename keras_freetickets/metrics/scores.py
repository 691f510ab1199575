"""Accuracy, likelihood and Brier score, of labels as integers or one-hot.

Keras' own metrics are for the one or for the other.
"""

import keras
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.metrics import inputs


@keras.saving.register_keras_serializable(package="keras_freetickets")
def negative_log_likelihood(y_true, y_pred):
    """Cross-entropy of predicted probabilities, in nats.

    Args:
        y_true: Integer tensor of shape `(batch,)` or `(batch, 1)`, or
            distributions (one-hot) of shape `(batch, classes)`.
        y_pred: Probabilities of shape `(batch, classes)`.

    Returns:
        Tensor of shape `(batch,)`. As in Keras, a row is divided by its sum:
        a loss is handed what half precision rounded. `NegativeLogLikelihood`
        refuses rows that do not sum to one.

    Raises:
        ValueError: If `y_pred` is not `(batch, classes)`, labels are more or
            fewer or, called eagerly, not classes.

    Example:

    >>> loss = negative_log_likelihood([1], [[0.25, 0.75]])  # -log(0.75)
    >>> round(float(loss[0]), 4)
    0.2877
    """
    y_true, y_pred = (
        ops.convert_to_tensor(y_true),
        ops.convert_to_tensor(y_pred),
    )
    inputs.check_shape(y_pred)
    if inputs.is_one_hot(y_true, y_pred):
        inputs.check_length(y_true, y_pred)
        return keras.losses.categorical_crossentropy(y_true, y_pred)
    labels = inputs.read_labels(y_true, y_pred)
    return keras.losses.sparse_categorical_crossentropy(labels, y_pred)


def _checked_likelihood(y_true, y_pred):
    y_pred = inputs.read_predictions(y_pred, from_logits=False)
    return negative_log_likelihood(y_true, y_pred)


def _matches(y_true, y_pred):
    y_pred = ops.convert_to_tensor(y_pred)
    inputs.check_shape(y_pred)
    labels = inputs.read_labels(y_true, y_pred)
    guess = ops.cast(ops.argmax(y_pred, axis=-1), "int32")
    hit = ops.cast(ops.equal(guess, labels), "float32")
    return inputs.keep_nan(hit, y_pred)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class Accuracy(keras.metrics.MeanMetricWrapper):
    """Share of examples whose most probable class is the label.

    Predictions may be probabilities or logits: rows need not sum to one.

    Args:
        name: Name of the metric.
        dtype: Dtype of the result.

    Raises:
        ValueError: If `y_pred` is not `(batch, classes)`, labels are more or
            fewer or, called eagerly, not classes.

    Example:

    ```python
    model.compile(metrics=[Accuracy()])
    ```
    """

    def __init__(self, name="accuracy", dtype=None):
        super().__init__(_matches, name=name, dtype=dtype)
        keras_adapter.set_direction(self, "up")

    def get_config(self):
        return {"name": self.name, "dtype": self.dtype}


@keras.saving.register_keras_serializable(package="keras_freetickets")
class NegativeLogLikelihood(keras.metrics.MeanMetricWrapper):
    """Mean of `negative_log_likelihood` over examples.

    Args:
        name: Name of the metric.
        dtype: Dtype of the result.

    Raises:
        ValueError: As `brier_score`.

    Example:

    ```python
    model.compile(metrics=[NegativeLogLikelihood()])
    ```
    """

    def __init__(self, name="nll", dtype=None):
        super().__init__(_checked_likelihood, name=name, dtype=dtype)
        keras_adapter.set_direction(self, "down")

    def get_config(self):
        return {"name": self.name, "dtype": self.dtype}


@keras.saving.register_keras_serializable(package="keras_freetickets")
def brier_score(y_true, y_pred):
    """Squared distance of predicted probabilities from the one-hot label.

    Args:
        y_true: Integer tensor of shape `(batch,)` or `(batch, 1)`, or one-hot
            of shape `(batch, classes)`.
        y_pred: Probabilities of shape `(batch, classes)`.

    Returns:
        Tensor of shape `(batch,)`, in [0, 2]: the sum over the classes, as
        Brier defined it. For two classes it is twice what is often given.

    Raises:
        ValueError: If `y_pred` is not `(batch, classes)`, labels are more or
            fewer or, called eagerly, rows do not sum to one or labels are not
            classes.

    Example:

    >>> score = brier_score([1], [[0.25, 0.75]])  # 0.25^2 + 0.25^2
    >>> round(float(score[0]), 4)
    0.125

    Reference:
        Brier, 1950, Monthly Weather Review 78(1).
    """
    y_pred = inputs.read_predictions(y_pred, from_logits=False)
    labels = inputs.read_labels(y_true, y_pred)
    one_hot = ops.one_hot(labels, y_pred.shape[-1])
    return ops.sum(ops.square(y_pred - one_hot), axis=-1)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class Brier(keras.metrics.MeanMetricWrapper):
    """Mean of `brier_score` over examples: 0 is perfect, 2 the worst.

    Args:
        name: Name of the metric.
        dtype: Dtype of the result.

    Raises:
        ValueError: As `brier_score`.

    Example:

    ```python
    model.compile(metrics=[Brier()])
    ```
    """

    def __init__(self, name="brier", dtype=None):
        super().__init__(brier_score, name=name, dtype=dtype)
        keras_adapter.set_direction(self, "down")

    def get_config(self):
        return {"name": self.name, "dtype": self.dtype}
