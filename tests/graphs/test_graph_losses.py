"""The second phase: its gradient, and that a step lowers the error."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_freetickets.graphs import IndividualCalibrationLoss
from keras_freetickets.graphs import with_intervals
from keras_freetickets.metrics import ExpectedIndividualCalibrationError


def test_values_by_hand():
    targets = with_intervals([[1, 0]], [[[0.5, 1.0], [0.0, 0.5]]])
    logits = np.log([[[0.5, 0.5], [0.75, 0.25]]]).astype("float32")
    entropy = np.array([np.log(2), -np.log(0.75)])
    gaps = np.array([0.25, 0.0])
    for weight in (0.0, 0.1, 1.0):
        loss = IndividualCalibrationLoss(weight, reduction=None)
        found = ops.convert_to_numpy(loss(targets, logits))
        expected = (1 - weight) * entropy + weight * gaps
        np.testing.assert_allclose(found, [expected], atol=1e-6)
    copy = IndividualCalibrationLoss.from_config(loss.get_config())
    assert copy.weight == 1.0


def test_a_step_lowers_the_error():
    """The term alone, on a fixed batch: it has a gradient."""
    random = np.random.default_rng(0)
    x = random.normal(size=(64, 5)).astype("float32")
    y = random.integers(0, 2, 64)
    low = random.uniform(0, 0.8, 64)
    intervals = np.stack([low, low + 0.2], axis=-1)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)])
    loss = IndividualCalibrationLoss(weight=1.0)
    model.compile(keras.optimizers.SGD(0.1), loss)
    before = ops.convert_to_numpy(model.layers[0].kernel)

    def error():
        eice = ExpectedIndividualCalibrationError()
        return float(eice(intervals, ops.softmax(model(x))))

    first = error()
    model.fit(x, with_intervals(y, intervals), batch_size=64, verbose=0)
    after = ops.convert_to_numpy(model.layers[0].kernel)
    assert np.abs(after - before).max() > 1e-4
    assert error() < first


def test_wrong_targets_are_named():
    with pytest.raises(ValueError, match=r"labels 0 or 1.*Received: .*\[2\]"):
        with_intervals([2], [[0.0, 1.0]])
    for wrong in ([1.0, 0.0], [np.nan, 1.0]):
        with pytest.raises(ValueError, match="`intervals` must be lower ends"):
            with_intervals([1], [wrong])
    with pytest.raises(ValueError, match=r"\(batch, ..., 3\)"):
        IndividualCalibrationLoss()(np.zeros((2, 1)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="`weight` must be in"):
        IndividualCalibrationLoss(1.5)
