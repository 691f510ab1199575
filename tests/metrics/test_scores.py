import keras
import numpy as np
import pytest

from keras_freetickets.metrics import Accuracy
from keras_freetickets.metrics import NegativeLogLikelihood
from keras_freetickets.metrics import negative_log_likelihood

PROBABILITIES = np.array([[0.25, 0.75], [0.5, 0.5]], "float32")


@pytest.mark.parametrize("labels", [[1, 0], [[1], [0]], [[0, 1], [1, 0]]])
def test_integers_and_one_hot(labels):
    values = negative_log_likelihood(np.array(labels), PROBABILITIES)
    expected = -np.log([0.75, 0.5])
    np.testing.assert_allclose(values, expected, atol=1e-6)


def test_mean_over_batches():
    metric = NegativeLogLikelihood()
    metric.update_state([1], PROBABILITIES[:1])
    metric.update_state([0], PROBABILITIES[1:])
    expected = -np.log([0.75, 0.5]).mean()
    np.testing.assert_allclose(float(metric.result()), expected, atol=1e-6)


@pytest.mark.parametrize("labels", [[1, 1], [[1], [1]], [[0, 1], [0, 1]]])
def test_accuracy(labels):
    metric = Accuracy()
    metric.update_state(np.array(labels), [[0.25, 0.75], [0.6, 0.4]])
    assert float(metric.result()) == 0.5


@pytest.mark.parametrize("kind", [Accuracy, NegativeLogLikelihood])
def test_config_round_trip(kind):
    config = keras.saving.serialize_keras_object(kind(name="mine"))
    assert keras.saving.deserialize_keras_object(config).name == "mine"
