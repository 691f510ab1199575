import json
import pathlib

import keras
import numpy as np
import pytest
from keras import ops

from keras_freetickets.losses import MOON
from keras_freetickets.losses.moon import weighted

LOGITS = np.array([[2.0, 0.0, 1.0]], "float32")


def loss_of(logits, labels, alpha):
    moon = MOON(100, from_logits=True)
    return weighted(*moon.parts(labels, logits), alpha)


# The sheet's case: K = 2, z = (2, 0, 1), y = 1, predicted wrongly.
CASES = {
    0.0: (2.407606, [0.665241, -0.909969, 0.244728]),
    0.5: (3.480166, [1.039387, -1.304822, 0.265435]),
    1.0: (4.341848, [1.452675, -1.606790, 0.154114]),
}


@pytest.mark.parametrize("alpha", CASES)
def test_the_numbers_of_the_sheet(alpha):
    loss, gradient = CASES[alpha]
    found = loss_of(LOGITS, np.array([1]), alpha)
    np.testing.assert_allclose(np.asarray(found), [loss], rtol=1e-6)
    step = 1e-3
    for k in range(3):
        moved = [LOGITS.astype("float64"), LOGITS.astype("float64")]
        moved[0][0, k] += step
        moved[1][0, k] -= step
        up, down = [
            float(loss_of(m.astype("float32"), np.array([1]), alpha)[0])
            for m in moved
        ]
        assert (up - down) / (2 * step) == pytest.approx(gradient[k], abs=2e-3)


def test_right_examples_are_not_weighted():
    found = loss_of(LOGITS, np.array([0]), 1.0)
    plain = loss_of(LOGITS, np.array([0]), 0.0)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(plain))


def test_weight_falls_with_the_unknown():
    entropy, wrong = np.ones(11, "float32"), np.zeros(11, bool)
    unknown = np.linspace(0, 1, 11).astype("float32")
    weight = np.asarray(weighted(entropy, unknown, wrong, 0.7))
    assert weight[0] == pytest.approx(1.7)
    assert (np.diff(weight) < 0).all() and (weight > 1).all()


class Value:
    """A variable, for the schedule's own arithmetic."""

    def __init__(self, value):
        self.value = ops.convert_to_tensor(np.float32(value))

    def assign(self, value):
        self.value = value


def test_the_schedule_of_alpha():
    # rho = 64, E = 100, running loss 1.5: alpha(6) = .02344, alpha(50) =
    # .48055, alpha(100) = 1; two batches an epoch.
    moon = MOON(100, from_logits=True)
    state = {name: Value(v) for name, v in moon.scalar_state.items()}
    mean = np.float32(1.5)  # of (1 - q) h
    alphas = {}
    for epoch in range(1, 101):
        state["moon_epoch"].assign(np.float32(epoch))
        first = float(moon._next_alpha(mean, state))
        assert float(moon._next_alpha(mean, state)) == first
        alphas[epoch] = first
    assert [alphas[e] for e in range(1, 6)] == [0.0] * 5
    assert alphas[6] == pytest.approx(1.5 / 64)
    assert alphas[50] == pytest.approx(0.48055, abs=1e-5)
    assert alphas[100] == pytest.approx(1.0, abs=1e-5)


def test_labels_in_all_shapes():
    logits = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    labels = np.array([0, 2, 1, 1, 0])
    rows = np.eye(3, dtype="float32")[labels]
    wide = np.eye(4, dtype="float32")[labels]
    expected = np.asarray(loss_of(logits, labels, 0.5))
    for y in (labels[:, None], rows, wide):
        np.testing.assert_array_equal(
            np.asarray(loss_of(logits, y, 0.5)), expected
        )


def test_probabilities():
    p = np.asarray(ops.softmax(LOGITS))
    moon = MOON(100, from_logits=False)
    found = weighted(*moon.parts(np.array([1]), p), 1.0)
    np.testing.assert_allclose(np.asarray(found), [CASES[1.0][0]], rtol=1e-5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"epochs": 6}, "`epochs` must be greater"),
        ({"epochs": 2.5}, "`epochs` must be a non-negative"),
        ({"epochs": 50, "alpha": 0}, "`alpha` must be positive"),
        ({"epochs": 50, "smoothing": -1}, "`smoothing` must be positive"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        MOON(**arguments)


def test_config_round_trip():
    moon = MOON(50, 3, 0.5, 32.0, 0.1, True)
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(moon)
    )
    assert again.get_config() == moon.get_config()


def test_against_the_released_code():
    """Losses, alphas and gradients of the unknown over 12 epochs of 2 batches.

    What StevenBoys/MOON 863f49a's `extra_c_loss(learn_epochs=5,
    total_epochs=12)` gave with torch 2.13 on the same logits, of standard
    deviation 1 to 8.
    """
    file = pathlib.Path(__file__).parents[1] / "golden" / "published.json"
    published = iter(json.loads(file.read_text())["moon"])
    moon = MOON(12, from_logits=True)
    state = {name: Value(v) for name, v in moon.scalar_state.items()}
    generator = np.random.default_rng(12)
    for epoch in range(1, 13):
        state["moon_epoch"].assign(np.float32(epoch))
        for _ in range(2):
            logits = generator.normal(size=(16, 5)) * generator.uniform(1, 8)
            logits = logits.astype("float32")
            labels = generator.integers(4, size=16)
            loss = moon(labels, ops.convert_to_tensor(logits), state)
            expected, alpha, gradient = next(published)
            assert float(loss) == pytest.approx(expected, rel=1e-5)
            found = float(state["moon_alpha"].value)
            assert found == pytest.approx(alpha, rel=1e-5)
            found = unknown_gradient(logits, labels, alpha)
            assert found == pytest.approx(gradient, abs=1e-5)


def unknown_gradient(logits, labels, alpha):
    """The sum over a batch of the derivatives by the unknown's logit.

    Of a wrong example `factor * p_u - h * (alpha / (1 + alpha * q))^2 * q *
    (1 - q)`, with q = p_u; of a right one `p_u`.
    """
    entropy, unknown, correct = [
        ops.convert_to_numpy(part).astype("float64")
        for part in MOON(12, from_logits=True).parts(labels, logits)
    ]
    share = alpha / (1 + alpha * unknown)
    wrong = (1 + share) * unknown
    wrong = wrong - entropy * share**2 * unknown * (1 - unknown)
    return np.where(correct > 0, unknown, wrong).mean()


@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_probabilities_are_not_clipped_where_something_can_be_learned(scale):
    """Of probabilities down to 1e-38 the loss is that of their logits."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(64, 5)).astype("float32") * scale
    labels = generator.integers(4, size=64)
    of_logits = np.asarray(loss_of(logits, labels, 0.5))
    p = np.asarray(ops.softmax(logits))
    found = weighted(*MOON(100).parts(labels, p), 0.5)
    np.testing.assert_allclose(found, of_logits, rtol=1e-5, atol=1e-7)
    again = weighted(*MOON(100).parts(labels, logits, from_logits=True), 0.5)
    np.testing.assert_array_equal(np.asarray(again), of_logits)
