"""What an ensemble is compiled with: a loss and metrics for `evaluate`."""

import typing

import keras

from keras_freetickets.ensembles import pooling as pools
from keras_freetickets.ensembles import regression
from keras_freetickets.metrics.scores import Accuracy
from keras_freetickets.metrics.scores import NegativeLogLikelihood
from keras_freetickets.metrics.scores import NegativeLogLikelihoodLoss


def loss_and_metrics(
    pooling: pools.Pooling, ignore_class: int | None
) -> dict[str, typing.Any] | None:
    """Arguments of `compile`, or `None` where the pooling is a function.

    Args:
        pooling: As for `EnsembleModel`.
        ignore_class: The label of classifiers that is not counted, or `None`.
    """
    if pooling in pools.CLASSIFICATION:
        return {
            "loss": NegativeLogLikelihoodLoss(ignore_class),
            "metrics": [
                Accuracy(ignore_class=ignore_class),
                NegativeLogLikelihood(ignore_class=ignore_class),
            ],
        }
    if pooling == "mean":
        return {
            "loss": "mean_squared_error",
            "metrics": [keras.metrics.MeanSquaredError()],
        }
    if pooling == "mean_and_variance":
        return {
            "loss": regression.GaussianNegativeLogLikelihood(),
            "metrics": [
                keras.metrics.MeanMetricWrapper(
                    regression.squared_error_of_mean,
                    name="mean_squared_error",
                )
            ],
        }
    return None
