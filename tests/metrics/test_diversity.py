import itertools

import keras
import numpy as np
import pytest
from sklearn.metrics import zero_one_loss

from keras_freetickets import metrics

# Two agree on class 0, one says 1.
SPLIT = np.array([[[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]], "float32")
CERTAIN = np.array([[[1.0, 0.0], [0.0, 1.0]]], "float32")
OF_MEMBERS = {
    metrics.PredictiveEntropy: metrics.predictive_entropy,
    metrics.ExpectedEntropy: metrics.expected_entropy,
    metrics.MutualInformation: metrics.mutual_information,
    metrics.VariationRatio: metrics.variation_ratio,
    metrics.Disagreement: metrics.disagreement,
    metrics.PairwiseKL: metrics.pairwise_kl,
}


def _array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def _random(seed=0, examples=50, members=4, classes=3):
    generator = np.random.default_rng(seed)
    p = generator.dirichlet(np.ones(classes), (examples, members))
    return p.astype("float32"), generator.integers(classes, size=examples)


def test_by_hand():
    third = 1 / 3
    assert _array(metrics.variation_ratio(SPLIT)) == pytest.approx(third)
    assert _array(metrics.disagreement(SPLIT)) == pytest.approx(2 * third)
    assert _array(metrics.double_fault([1], SPLIT)) == pytest.approx(third)
    assert _array(metrics.double_fault([0], SPLIT)) == pytest.approx(0)
    assert _array(metrics.predictive_entropy(CERTAIN)) == pytest.approx(
        np.log(2)
    )
    assert _array(metrics.expected_entropy(CERTAIN)) == pytest.approx(0)
    assert _array(metrics.mutual_information(CERTAIN)) == pytest.approx(
        np.log(2)
    )
    pair = [[[0.5, 0.5], [0.75, 0.25]]]
    there = 0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25)
    back = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    assert _array(metrics.pairwise_kl(pair)) == pytest.approx(
        (there + back) / 2, abs=1e-6
    )


def test_against_loops_over_pairs():
    p, labels = _random()
    choice = p.argmax(-1)
    unequal, both, divergence = [], [], []
    for i, j in itertools.permutations(range(4), 2):
        unequal.append(choice[:, i] != choice[:, j])
        both.append((choice[:, i] != labels) & (choice[:, j] != labels))
        ratio = np.log(p[:, j]) - np.log(p[:, i])
        divergence.append((p[:, j] * ratio).sum(-1))
    for value, expected in (
        (metrics.disagreement(p), np.mean(unequal, 0)),
        (metrics.double_fault(labels, p), np.mean(both, 0)),
        (metrics.pairwise_kl(p), np.mean(divergence, 0)),
    ):
        np.testing.assert_allclose(_array(value), expected, atol=2e-5)


def test_members_that_agree_differ_in_nothing():
    p = np.repeat(_random(members=1)[0], 5, axis=1)
    for function in (
        metrics.disagreement,
        metrics.pairwise_kl,
        metrics.mutual_information,
        metrics.variation_ratio,
    ):
        np.testing.assert_allclose(_array(function(p)), 0, atol=1e-6)
        assert (_array(function(p)) >= 0).all()


def test_divergence_of_certain_members_is_finite():
    value = float(_array(metrics.pairwise_kl(CERTAIN))[0])
    assert value == pytest.approx(-np.log(1e-7), rel=1e-4)


@pytest.mark.parametrize("kind", list(OF_MEMBERS))
def test_metric_is_the_mean(kind):
    p, labels = _random()
    expected = _array(OF_MEMBERS[kind](p)).mean()
    metric = kind()
    metric.update_state(labels[:20], p[:20])
    metric.update_state(labels[20:], p[20:])
    assert float(metric.result()) == pytest.approx(expected, abs=1e-6)
    first = kind(members_axis=0)
    first.update_state(labels, p.swapaxes(0, 1))
    assert float(first.result()) == pytest.approx(expected, abs=1e-6)


def test_double_fault_metric():
    p, labels = _random()
    expected = _array(metrics.double_fault(labels, p)).mean()
    for axis, given in ((1, p), (0, p.swapaxes(0, 1))):
        metric = metrics.DoubleFault(members_axis=axis)
        metric.update_state(labels, given)
        assert float(metric.result()) == pytest.approx(expected, abs=1e-6)


def test_weights():
    p, labels = _random()
    weights = np.arange(50.0)
    metric = metrics.Disagreement()
    metric.update_state(labels, p, weights)
    expected = np.average(_array(metrics.disagreement(p)), weights=weights)
    assert float(metric.result()) == pytest.approx(expected, abs=1e-6)


def test_disagreement_matrix():
    p, _ = _random()
    choice = p.argmax(-1)
    expected = [
        [zero_one_loss(choice[:, i], choice[:, j]) for j in range(4)]
        for i in range(4)
    ]
    matrix = metrics.disagreement_matrix(p.swapaxes(0, 1))
    np.testing.assert_allclose(matrix, expected)
    mean = _array(metrics.disagreement(p)).mean()
    assert matrix.sum() / 12 == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: metrics.disagreement(SPLIT[:, :1]),
            "`members` must be 2 or more",
        ),
        (lambda: metrics.pairwise_kl(SPLIT[0]), "two classes or more"),
        (
            lambda: metrics.expected_entropy(SPLIT, members_axis=2),
            "`members_axis` must be 0 or 1",
        ),
        (
            lambda: metrics.predictive_entropy(2 * SPLIT),
            "`y_pred` must hold probabilities",
        ),
        (
            lambda: metrics.double_fault([2], SPLIT),
            r"`y_true` must hold integers in \[0, 2\)",
        ),
        (
            lambda: metrics.disagreement_matrix(np.zeros((3, 0, 2))),
            "`members` must have the shape",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_members_on_the_wrong_axis():
    """3 members of 1 example, read as 3 examples of 1 member: refused."""
    with pytest.raises(ValueError, match="`members` must be 2 or more"):
        metrics.disagreement(SPLIT, members_axis=0)
