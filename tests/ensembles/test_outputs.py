import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft
from keras_freetickets.ensembles import outputs

X = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")


def network(*ends):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((4,)), *ends])


def test_rows_of_half_precision_sum_to_one_again():
    p = np.array([[0.5, 0.25, 0.2451], [0.1, 0.2, 0.7]], "float32")
    found = outputs.renormalized(p)
    np.testing.assert_allclose(found[0], p[0] / 0.9951, rtol=1e-6)
    np.testing.assert_allclose(found[1], p[1], rtol=1e-6)
    exact = np.array([[0.5, 0.5]])
    assert outputs.renormalized(exact) is exact
    far = np.array([[0.5, 0.4]])
    assert outputs.renormalized(far) is far


@pytest.mark.parametrize(
    "ends, wanted",
    [
        ([layers.Dense(3)], True),
        ([layers.Dense(3, activation="softmax")], False),
        ([layers.Dense(3), layers.Softmax()], False),
        ([layers.Dense(1)], True),
        ([layers.Dense(1, activation="sigmoid")], False),
        ([layers.Dense(1, activation="sigmoid"), layers.Rescaling(1.0)], False),
        # Told by values: the last layer says nothing.
        ([layers.Dense(3), layers.Rescaling(2.0)], True),
        ([layers.Dense(3), layers.Softmax(), layers.Rescaling(1.0)], False),
    ],
)
def test_logits_or_not(ends, wanted):
    model = network(*ends)
    found = outputs.returns_logits(model, model.predict(X, verbose=0))
    assert found == wanted


def test_an_ensemble_of_logits_returns_probabilities():
    ensemble = kft.EnsembleModel([network(layers.Dense(3))] * 2, True)
    assert not outputs.returns_logits(ensemble, ensemble.predict(X, verbose=0))


@pytest.mark.parametrize("sparse", [False, True])
def test_a_copy_without_the_softmax(sparse):
    model = network(layers.Dense(3, activation="softmax"))
    if sparse:
        model = kft.sparsify(model, 0.5)
    before = model.predict(X, verbose=0)
    logits = outputs.logits_model(model).predict(X, verbose=0)
    kernel, bias = (np.array(v.value) for v in model.trainable_variables)
    np.testing.assert_allclose(logits, X @ kernel + bias, atol=1e-5)
    np.testing.assert_array_equal(model.predict(X, verbose=0), before)
    layer = network(layers.Dense(3), layers.Softmax())
    weights = layer.get_weights()
    np.testing.assert_allclose(
        outputs.logits_model(layer).predict(X, verbose=0),
        X @ weights[0] + weights[1],
        atol=1e-5,
    )


def test_what_has_no_logits():
    sigmoid = network(layers.Dense(3, activation="sigmoid"))
    assert outputs.logits_model(sigmoid) is None
    # One column fixes only the difference of two logits.
    assert outputs.logits_model(network(layers.Dense(1))) is None
    ensemble = kft.EnsembleModel([network(layers.Dense(3))] * 2, True)
    assert outputs.logits_model(ensemble) is None
