import keras
import numpy as np
import pytest
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss

from keras_freetickets.metrics import Accuracy
from keras_freetickets.metrics import Brier
from keras_freetickets.metrics import NegativeLogLikelihood
from keras_freetickets.metrics import brier_score
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


def test_labels_that_are_distributions():
    labels = np.array([[0.25, 0.75], [1.0, 0.0]], "float32")
    # -log 0.25 / 4 - 3 log 0.75 / 4, and -log 0.5.
    expected = np.array([0.562335, 0.693147])
    values = negative_log_likelihood(labels, PROBABILITIES)
    np.testing.assert_allclose(values, expected, atol=1e-5)
    metric = NegativeLogLikelihood()
    metric.update_state(labels, PROBABILITIES)
    assert float(metric.result()) == pytest.approx(expected.mean(), abs=1e-5)


@pytest.mark.parametrize("labels", [[1, 1], [[1], [1]], [[0, 1], [0, 1]]])
def test_accuracy(labels):
    metric = Accuracy()
    metric.update_state(np.array(labels), [[0.25, 0.75], [0.6, 0.4]])
    assert float(metric.result()) == 0.5


@pytest.mark.parametrize("kind", [Accuracy, Brier, NegativeLogLikelihood])
def test_config_round_trip(kind):
    config = keras.saving.serialize_keras_object(kind(name="mine"))
    assert keras.saving.deserialize_keras_object(config).name == "mine"


@pytest.mark.parametrize("labels", [[1, 0], [[1], [0]], [[0, 1], [1, 0]]])
def test_brier_by_hand(labels):
    # 0.25^2 + 0.25^2 and 0.5^2 + 0.5^2.
    values = brier_score(np.array(labels), PROBABILITIES)
    np.testing.assert_allclose(values, [0.125, 0.5], atol=1e-6)


def test_against_scikit_learn():
    generator = np.random.default_rng(0)
    p = generator.dirichlet(np.ones(4), 300).astype("float32")
    labels, weights = (
        generator.integers(4, size=300),
        generator.uniform(size=300),
    )
    for metric, reference in (
        (NegativeLogLikelihood(), log_loss),
        (
            Brier(),
            lambda *a, **k: brier_score_loss(*a, **k, scale_by_half=False),
        ),
    ):
        metric.update_state(labels, p, weights)
        exact = p.astype("float64")
        exact /= exact.sum(axis=1, keepdims=True)
        expected = reference(
            labels, exact, sample_weight=weights, labels=range(4)
        )
        assert float(metric.result()) == pytest.approx(expected, abs=1e-5)


def test_brier_ends():
    metric = Brier()
    metric.update_state([0, 1], [[1.0, 0.0], [1.0, 0.0]])
    assert float(metric.result()) == pytest.approx((0 + 2) / 2)
