import math

import keras
import numpy as np
import pytest

from keras_freetickets.applications import wide_resnet
from keras_freetickets.metrics import flops


def _kernels(model):
    return [v for v in model.trainable_variables if len(v.shape) > 1]


@pytest.fixture(scope="module")
def model():
    return wide_resnet(28, 10)


def test_weights_of_wrn_28_10(model):
    # Sheet: 36,461,232 weights in kernels.
    weights = sum(math.prod(v.shape) for v in _kernels(model))
    assert weights == 36_461_232


def test_multiply_accumulates_of_wrn_28_10(model):
    macs = sum(cost.macs for cost in flops.kernel_macs(model).values())
    assert macs == 5_243_328_768


def test_three_shortcuts_and_no_bias_in_convolutions(model):
    convolutions = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D)
    ]
    assert len(convolutions) == 28
    assert not any(layer.use_bias for layer in convolutions)
    sizes = [layer.kernel_size for layer in convolutions]
    assert sizes.count((1, 1)) == 3


def test_normalization_and_penalty(model):
    norms = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert {(n.momentum, n.epsilon) for n in norms} == {(0.9, 1e-5)}
    assert all(
        v.regularizer is not None and float(v.regularizer.l2) == 2.5e-4
        for v in model.trainable_variables
    )


def test_initial_deviation(model):
    kernel = max(_kernels(model), key=lambda v: math.prod(v.shape))
    size, _, _, channels = kernel.shape
    expected = math.sqrt(2 / (size * size * channels))
    assert np.std(kernel.numpy()) == pytest.approx(expected, rel=0.01)


def test_small_one_predicts_probabilities():
    model = wide_resnet(10, 1, (8, 8, 1), classes=4, dropout=0.1)
    probabilities = model.predict(np.zeros((2, 8, 8, 1)), verbose=0)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-5)


def test_no_penalty_and_logits():
    model = wide_resnet(
        10, 1, (8, 8, 1), weight_decay=0.0, classifier_activation=None
    )
    assert all(v.regularizer is None for v in model.trainable_variables)
    assert model.layers[-1].activation is keras.activations.linear


@pytest.mark.parametrize("depth", [4, 27, 30, 28.0, "28"])
def test_bad_depth_is_refused(depth):
    with pytest.raises(ValueError, match="`depth` must be 6"):
        wide_resnet(depth, 1)


def test_bad_width_is_refused():
    with pytest.raises(ValueError, match="`width` must be"):
        wide_resnet(10, 0)
    with pytest.raises(ValueError, match="`width` must be"):
        wide_resnet(10, "10")
