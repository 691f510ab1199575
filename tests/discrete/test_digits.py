"""Searches of handwritten digits, on seeds that were fixed beforehand."""

import keras
import numpy as np
import pytest
from chains import dense

import keras_freetickets as kft
from keras_freetickets.discrete import CoordinateDescent


def digits():
    """Training and test digits of 8x8 pixels, 1,797 in all."""
    data = pytest.importorskip("sklearn.datasets").load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x, y = data.data[order].astype("float32") / 16, data.target[order]
    return (x[:1257], y[:1257]), (x[1257:], y[1257:])


def test_ternary_digits_and_an_ensemble_of_five():
    (x, y), (x_test, y_test) = digits()
    model = dense(64, (16,), 10)
    members = []
    for seed in range(5):
        found = CoordinateDescent(sweeps=4, seed=seed).fit(model, x, y)
        logits = keras.ops.convert_to_numpy(found.model(x_test))
        members.append(keras.ops.convert_to_numpy(keras.ops.softmax(logits)))
    scores = [(p.argmax(axis=1) == y_test).mean() for p in members]
    assert min(scores) > 0.88
    pooled = np.mean(members, axis=0)
    assert (pooled.argmax(axis=1) == y_test).mean() >= np.mean(scores)
    # The fixed scale of the outputs makes them under-confident.
    held_out, rest = slice(None, 200), slice(200, None)
    scaling = kft.calibration.TemperatureScaling()
    scaling.fit(y_test[held_out], pooled[held_out])
    error = kft.metrics.expected_calibration_error
    raw = error(y_test[rest], pooled[rest])
    assert error(y_test[rest], scaling(pooled[rest])) < raw / 2


def test_a_penalty_makes_zeros():
    """At 2e-4 several times as many, of a network that is as good."""
    (x, y), (x_test, y_test) = digits()
    model = dense(64, (16,), 10)
    zeros, scores = [], []
    for penalty in (0.0, 2e-4, 1e-3):
        descent = CoordinateDescent(sweeps=4, penalty=penalty, seed=0)
        found = descent.fit(model, x, y).model
        kernels = [
            keras.ops.convert_to_numpy(layer.kernel).ravel()
            for layer in found.layers
        ]
        zeros.append((np.concatenate(kernels) == 0).mean())
        logits = keras.ops.convert_to_numpy(found(x_test))
        scores.append((logits.argmax(axis=1) == y_test).mean())
    assert 2 * zeros[0] < zeros[1] < zeros[2]
    assert min(scores[:2]) > 0.88
