import keras
import numpy as np
import pytest
from keras import ops

from keras_freetickets.spiking import LIF
from keras_freetickets.spiking import MergeSteps
from keras_freetickets.spiking import RepeatSteps
from keras_freetickets.spiking import SplitSteps
from keras_freetickets.spiking import spike


def fired(layer, values):
    return np.asarray(layer(np.float32(values)[None, :, None]))[0, :, 0]


def test_soft_reset_by_hand():
    # v = .6, .9, 1.05*, .125, .6625, .93125, 1.065625*, .1328.
    found = fired(LIF(leak=0.5), [0.6] * 8)
    np.testing.assert_array_equal(found, [0, 0, 1, 0, 0, 0, 1, 0])


def test_hard_reset_by_hand():
    # h = .9, 1.125*, .9, 1.125*, ...
    layer = LIF(reset="hard", tau=4 / 3)
    np.testing.assert_array_equal(fired(layer, [1.2] * 6), [0, 1, 0, 1, 0, 1])
    # h tends to x, and never reaches 1.
    assert not fired(layer, [0.99] * 200).any()


def test_a_single_step_is_a_threshold():
    x = np.random.default_rng(0).normal(size=(3, 1, 50)).astype("float32")
    for leak in (0.1, 1.0):
        found = np.asarray(LIF(leak=leak)(x))
        np.testing.assert_array_equal(found, (x >= 1.0).astype("float32"))


def test_potentials_do_not_leak_into_the_next_batch():
    layer = LIF(leak=1.0)
    x = np.full((2, 4, 3), 0.4, "float32")
    np.testing.assert_array_equal(np.asarray(layer(x)), np.asarray(layer(x)))


def gradient_of(function, x):
    if keras.backend.backend() == "jax":
        import jax

        return np.asarray(jax.grad(lambda x: ops.sum(function(x)))(x))
    import tensorflow as tf

    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x).numpy()


def test_surrogate_gradient():
    x = np.array([-2.0, -1 / np.pi, 0.0, 1 / np.pi, 3.0], "float32")
    np.testing.assert_array_equal(np.asarray(spike(x)), [0, 0, 1, 1, 1])
    expected = 1 / (1 + (np.pi * x) ** 2)
    np.testing.assert_allclose(gradient_of(spike, x), expected, rtol=1e-6)
    np.testing.assert_allclose(expected[[1, 2, 3]], [0.5, 1, 0.5], rtol=1e-6)


def test_gradient_through_time_by_hand():
    # Two steps, leak a: v1 = x1, v2 = a v1 + x2 - o1; the sum of o1 and o2.
    x, a = np.array([0.5, 0.7]), 0.5
    surrogate = 1 / (1 + (np.pi * (x[0] - 1)) ** 2)
    second = 1 / (1 + (np.pi * (a * x[0] + x[1] - 1)) ** 2)
    expected = [surrogate + second * (a - surrogate), second]
    layer = LIF(leak=a)
    found = gradient_of(layer, x[None, :, None].astype("float32"))
    np.testing.assert_allclose(found[0, :, 0], expected, rtol=1e-5)


def test_steps_are_merged_and_split():
    x = np.arange(12, dtype="float32").reshape(2, 6)
    repeated = RepeatSteps(3)(x)
    assert repeated.shape == (2, 3, 6)
    np.testing.assert_array_equal(np.asarray(repeated)[1, 2], x[1])
    merged = MergeSteps()(repeated)
    assert merged.shape == (6, 6)
    np.testing.assert_array_equal(
        np.asarray(SplitSteps(3)(merged)), np.asarray(repeated)
    )


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: LIF(reset="none"), "`reset` must be"),
        (lambda: LIF(leak=0), "`leak` must be"),
        (lambda: LIF(tau=0.5), "`tau` must be"),
        (lambda: LIF(threshold=0), "`threshold` must be"),
        (lambda: RepeatSteps(0), "`steps` must be"),
        (lambda: LIF()(keras.Input((None, 3))), "number of steps"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
