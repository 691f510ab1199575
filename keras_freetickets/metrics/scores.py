"""Accuracy and likelihood, of labels as integers or one-hot.

Keras' own metrics are for the one or for the other.
"""

import keras
from keras import ops


def _is_one_hot(y_true, y_pred):
    return tuple(y_true.shape[1:]) == tuple(y_pred.shape[1:])


@keras.saving.register_keras_serializable(package="keras_freetickets")
def negative_log_likelihood(y_true, y_pred):
    """Cross-entropy of predicted probabilities, in nats.

    Args:
        y_true: Integer tensor of shape `(batch,)` or `(batch, 1)`, or
            distributions (one-hot) of shape `(batch, classes)`.
        y_pred: Probabilities of shape `(batch, classes)`.

    Returns:
        Tensor of shape `(batch,)`.

    Example:

    >>> loss = negative_log_likelihood([1], [[0.25, 0.75]])  # -log(0.75)
    >>> round(float(loss[0]), 4)
    0.2877
    """
    y_true, y_pred = (
        ops.convert_to_tensor(y_true),
        ops.convert_to_tensor(y_pred),
    )
    if _is_one_hot(y_true, y_pred):
        return keras.losses.categorical_crossentropy(y_true, y_pred)
    return keras.losses.sparse_categorical_crossentropy(y_true, y_pred)


def _matches(y_true, y_pred):
    y_true, y_pred = (
        ops.convert_to_tensor(y_true),
        ops.convert_to_tensor(y_pred),
    )
    if _is_one_hot(y_true, y_pred):
        return keras.metrics.categorical_accuracy(y_true, y_pred)
    return keras.metrics.sparse_categorical_accuracy(y_true, y_pred)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class Accuracy(keras.metrics.MeanMetricWrapper):
    """Share of examples whose most probable class is the label.

    Args:
        name: Name of the metric.
        dtype: Dtype of the result.

    Example:

    ```python
    model.compile(metrics=[Accuracy()])
    ```
    """

    def __init__(self, name="accuracy", dtype=None):
        super().__init__(_matches, name=name, dtype=dtype)
        self._direction = "up"

    def get_config(self):
        return {"name": self.name, "dtype": self.dtype}


@keras.saving.register_keras_serializable(package="keras_freetickets")
class NegativeLogLikelihood(keras.metrics.MeanMetricWrapper):
    """Mean of `negative_log_likelihood` over examples.

    Args:
        name: Name of the metric.
        dtype: Dtype of the result.

    Example:

    ```python
    model.compile(metrics=[NegativeLogLikelihood()])
    ```
    """

    def __init__(self, name="nll", dtype=None):
        super().__init__(negative_log_likelihood, name=name, dtype=dtype)
        self._direction = "down"

    def get_config(self):
        return {"name": self.name, "dtype": self.dtype}
