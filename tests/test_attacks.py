import keras
import numpy as np
import pytest

import keras_freetickets as kft
from keras_freetickets.attacks import fast_gradient_sign

on_known_backends = pytest.mark.skipif(
    keras.backend.backend() not in ("tensorflow", "jax"),
    reason="refused by name",
)
pytestmark = on_known_backends


def _linear(kernel, activation="linear"):
    """A model of 2x2 grey images whose logits are linear."""
    kernel = np.asarray(kernel, "float32")
    model = keras.Sequential(
        [
            keras.Input((2, 2, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(kernel.shape[1], activation=activation),
        ]
    )
    model.layers[-1].set_weights([kernel, np.zeros(kernel.shape[1])])
    return model


KERNEL = [[1, 0], [0, 1], [-2, 0], [0, 0]]
GREY = np.full((1, 2, 2, 1), 0.5, "float32")


@pytest.mark.parametrize("activation", ["linear", "softmax"])
def test_by_hand(activation):
    # For label 0 the loss falls with (k_0 - k_1) x: signs of -(1, -1, -2, 0).
    moved = fast_gradient_sign(_linear(KERNEL, activation), GREY, [0], 0.1)
    np.testing.assert_allclose(moved.ravel(), [0.4, 0.6, 0.6, 0.5], atol=1e-6)
    assert moved.dtype == "float32" and moved.shape == GREY.shape
    moved = fast_gradient_sign(_linear(KERNEL, activation), GREY, [1], 0.1)
    np.testing.assert_allclose(moved.ravel(), [0.6, 0.4, 0.4, 0.5], atol=1e-6)


def test_default_step_and_clipping():
    model = _linear(KERNEL)
    moved = fast_gradient_sign(model, GREY, [0])
    assert np.abs(moved - GREY).max() == pytest.approx(8 / 255, abs=1e-6)
    moved = fast_gradient_sign(model, np.zeros_like(GREY), [0], 0.1)
    np.testing.assert_allclose(moved.ravel(), [0, 0.1, 0.1, 0], atol=1e-6)
    assert fast_gradient_sign(model, GREY, [0], 0.0) == pytest.approx(GREY)


def test_standardized_images():
    """The step is of pixels, and black stays black."""
    model, mean, std = _linear(KERNEL), (0.3,), (0.2,)
    x = (np.array([0.5, 0.5, 1.0, 0.0], "float32") - 0.3) / 0.2
    x = x.reshape(1, 2, 2, 1)
    moved = fast_gradient_sign(model, x, [0], 0.1, mean=mean, std=std)
    pixels = moved.ravel() * 0.2 + 0.3
    np.testing.assert_allclose(pixels, [0.4, 0.6, 1.0, 0.0], atol=1e-6)


def test_batches_and_one_hot_labels():
    generator = np.random.default_rng(0)
    x = generator.uniform(size=(20, 2, 2, 1)).astype("float32")
    y = generator.integers(2, size=20)
    model = _linear(generator.normal(size=(4, 2)))
    whole = fast_gradient_sign(model, x, y)
    np.testing.assert_array_equal(
        fast_gradient_sign(model, x, np.eye(2)[y], batch_size=7), whole
    )


def test_ensemble_and_member():
    generator = np.random.default_rng(1)
    kernels = 3 * generator.normal(size=(3, 4, 2))
    ensemble = kft.EnsembleModel([_linear(k, "softmax") for k in kernels])
    x = generator.uniform(0.3, 0.7, size=(200, 2, 2, 1)).astype("float32")
    y = ensemble.predict(x, verbose=0).argmax(axis=1)

    def accuracy(attacked):
        chosen = ensemble.predict(attacked, verbose=0).argmax(axis=1)
        return np.mean(chosen == y)

    by_all = accuracy(fast_gradient_sign(ensemble, x, y, 0.1))
    by_one = accuracy(fast_gradient_sign(ensemble.member(0), x, y, 0.1))
    noise = 0.1 * np.sign(generator.normal(size=x.shape))
    at_random = accuracy((x + noise).astype("float32"))
    # An attack on all does most harm; noise of the same size least.
    assert by_all < by_one < at_random <= 1.0


def test_a_sure_model_shields_its_gradient_but_for_logits():
    """Documented: p rounds to 1 and no gradient is left; logits keep it."""
    kernel = 400 * np.array(KERNEL)
    x = np.array([1, 0, 0, 0], "float32").reshape(1, 2, 2, 1)
    softmax = fast_gradient_sign(_linear(kernel, "softmax"), x, [0], 0.1)
    np.testing.assert_array_equal(softmax, x)
    kernel = 15 * np.array(KERNEL)
    logits = fast_gradient_sign(_linear(kernel), x, [0], 0.1)
    assert (logits != x).any()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"epsilon": -1}, "`epsilon` must be a non-negative number"),
        ({"x": 255 * GREY}, r"`x` must be images in \[0, 1\]"),
        ({"x": np.full_like(GREY, np.nan)}, r"images in \[0, 1\]"),
        ({"mean": 0.5}, "`mean` and `std` must be given together"),
        ({"y": [2]}, r"`y` must hold integers in \[0, 2\)"),
        ({"y": [0, 1]}, "`x` and `y` must have the same number"),
        ({"x": GREY[:0], "y": []}, "at least one"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer"),
    ],
)
def test_bad_input(change, message):
    arguments = {"x": GREY, "y": [0], **change}
    with pytest.raises(ValueError, match=message):
        fast_gradient_sign(_linear(KERNEL), **arguments)


def test_one_column_is_two_logits():
    """A logit z of class 1 is attacked as the logits (0, z)."""
    generator = np.random.default_rng(2)
    x = generator.uniform(size=(6, 2, 2, 1)).astype("float32")
    y = generator.integers(2, size=6)
    column = generator.normal(size=(4, 1))
    expected = fast_gradient_sign(
        _linear(np.concatenate([0 * column, column], axis=1)), x, y
    )
    for activation in ("linear", "sigmoid"):
        model = _linear(column, activation)
        np.testing.assert_array_equal(fast_gradient_sign(model, x, y), expected)


def test_pixels_to_ignore_are_not_attacked():
    """Each pixel is classified by itself: those without a label stay."""
    model = keras.Sequential(
        [
            keras.Input((2, 2, 1)),
            keras.layers.Conv2D(2, 1, activation="softmax"),
        ]
    )
    model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(ignore_class=-1)
    )
    ensemble = kft.EnsembleModel([model])
    x = np.full((1, 2, 2, 1), 0.5, "float32")
    y = np.array([[[0, 1], [-1, -1]]])
    moved = fast_gradient_sign(ensemble, x, y, 0.1)[0, :, :, 0] - 0.5
    np.testing.assert_allclose(np.abs(moved), [[0.1] * 2, [0] * 2], atol=1e-6)
    assert np.sign(moved[0, 0]) == -np.sign(moved[0, 1])


def test_several_outputs_are_told_how():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, [keras.layers.Dense(2)(inputs)] * 2)
    x, y = np.zeros((4, 3), "float32"), np.zeros(4, int)
    with pytest.raises(ValueError, match=r"one array.*model.outputs\[k\]"):
        fast_gradient_sign(model, x, y)
