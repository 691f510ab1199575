import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_freetickets.metrics import AURC
from keras_freetickets.metrics import area_under_risk_coverage
from keras_freetickets.metrics import risk_coverage_curve


def _predictions(confidence):
    return np.stack([confidence, 1 - np.asarray(confidence)], 1).astype("f")


def _by_definition(confidence, wrong):
    """Share of errors among the k surest, k by k; no ties."""
    order = np.argsort(-np.asarray(confidence))
    wrong = np.asarray(wrong, float)[order]
    return np.mean([wrong[:k].mean() for k in range(1, len(wrong) + 1)])


def _streamed(predictions, labels, weights=None):
    metric = AURC()
    metric.update_state(np.array(labels), predictions, weights)
    return float(metric.result()), metric.error_bound()


def test_by_hand():
    predictions = _predictions([0.9, 0.8, 0.7, 0.6])
    coverage, risk = risk_coverage_curve([0, 1, 0, 1], predictions)
    np.testing.assert_allclose(coverage, [1 / 4, 1 / 2, 3 / 4, 1])
    np.testing.assert_allclose(risk, [0, 1 / 2, 1 / 3, 1 / 2])
    area = area_under_risk_coverage([0, 1, 0, 1], predictions)
    assert area == pytest.approx(1 / 3)
    # Each in its own cell: exact up to the harmonic sums.
    assert _streamed(predictions, [0, 1, 0, 1])[0] == pytest.approx(
        1 / 3, abs=1e-3
    )


@pytest.mark.parametrize(
    "labels, area",
    [
        # Risks 0, 1/2, 1/3, 1/2; 1, 1/2, 1/3, 1/4; 0, 0, 1/3, 1/2.
        ([0, 1, 0, 1], 1 / 3),
        ([1, 0, 0, 0], 25 / 48),
        ([0, 0, 1, 1], 5 / 24),
    ],
)
def test_the_bound_holds_where_each_has_its_own_cell(labels, area):
    """Only harmonic sums and rounding are left."""
    value, bound = _streamed(_predictions([0.9, 0.8, 0.7, 0.6]), labels)
    assert abs(value - area) <= bound <= 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_the_bound_holds_for_rounding(seed):
    """All but the surest of 1,000 are wrong, or it alone."""
    generator = np.random.default_rng(seed)
    confidence = np.sort(1 - 0.4 * generator.uniform(size=1000))[::-1]
    predictions = _predictions(confidence)
    for labels in (np.arange(1000) > 0, np.arange(1000) == 0):
        value, bound = _streamed(predictions, labels.astype(int))
        order = np.argsort(-predictions[:, 0], kind="stable")
        risks = np.cumsum(labels[order]) / np.arange(1, 1001)
        assert abs(value - risks.mean()) <= bound


def test_confidence_rounded_above_one_is_the_surest():
    predictions = np.array([[1.0005, 0], [0.9999, 1e-4], [0.9998, 2e-4]], "f")
    # Risks 1, 1/2, 1/3.
    value, bound = _streamed(predictions, [1, 0, 0])
    assert area_under_risk_coverage([1, 0, 0], predictions) == pytest.approx(
        11 / 18
    )
    assert abs(value - 11 / 18) <= bound <= 1e-3


def test_float64_is_not_rounded():
    """The surer one is right; in float32 both are 1."""
    doubt = np.array([1e-9, 1e-12])
    predictions = np.stack([1 - doubt, doubt], axis=1)
    assert area_under_risk_coverage([1, 0], predictions) == 0.25


def test_other_scores():
    predictions = _predictions([0.9, 0.8])
    assert area_under_risk_coverage([0, 1], predictions) == 0.25
    assert area_under_risk_coverage([0, 1], predictions, [1, 2]) == 0.75


@pytest.mark.parametrize("wrong, area", [(0, 0.0), (1, 1.0)])
def test_all_right_and_all_wrong(wrong, area):
    predictions = _predictions([0.9, 0.8, 1.0])
    assert area_under_risk_coverage([wrong] * 3, predictions) == area
    assert _streamed(predictions, [wrong] * 3)[0] == pytest.approx(area)


@settings(max_examples=15, deadline=None)
@given(st.permutations([0, 0, 1, 1, 0, 1, 0, 0]))
def test_ties_know_no_order(labels):
    """3 wrong of 8: a risk of 3/8 at every coverage."""
    predictions = _predictions([0.75] * 8)
    assert area_under_risk_coverage(labels, predictions) == pytest.approx(3 / 8)
    value, bound = _streamed(predictions, labels)
    assert value == pytest.approx(3 / 8)
    assert bound > 0


@pytest.mark.parametrize("seed", range(3))
def test_many_against_the_definition(seed):
    generator = np.random.default_rng(seed)
    confidence = 1 - 0.5 * generator.uniform(size=3000) ** 3
    wrong = generator.uniform(size=3000) > confidence
    predictions = _predictions(confidence)
    predictions /= predictions.sum(1, keepdims=True)
    expected = _by_definition(predictions[:, 0], wrong)
    exact = area_under_risk_coverage(wrong.astype(int), predictions)
    assert exact == pytest.approx(expected, abs=1e-4)  # Some ties.
    value, bound = _streamed(predictions, wrong.astype(int))
    assert abs(value - exact) <= bound + 1e-5
    assert value == pytest.approx(exact, abs=2e-3)


def test_a_weight_of_two_is_two_examples():
    confidence = [0.9, 0.8, 0.7, 0.6, 0.95]
    labels = [0, 1, 0, 1, 1]
    weighted, _ = _streamed(
        _predictions(confidence), labels, np.array([1, 2, 1, 3, 2])
    )
    copies = np.repeat(np.arange(5), [1, 2, 1, 3, 2])
    twice = area_under_risk_coverage(
        np.array(labels)[copies], _predictions(confidence)[copies]
    )
    assert weighted == pytest.approx(twice, abs=1e-3)


def test_nothing_seen():
    metric = AURC()
    assert float(metric.result()) == 0.0
    assert metric.error_bound() == 0.0
    with pytest.raises(ValueError, match="`y_true` must hold one example"):
        risk_coverage_curve([], np.zeros((0, 2)))


@pytest.mark.parametrize("scores", [[1.0], [1.0, np.nan]])
def test_bad_scores(scores):
    with pytest.raises(ValueError, match="`scores` must hold one number"):
        risk_coverage_curve([0, 1], _predictions([0.9, 0.8]), scores)
