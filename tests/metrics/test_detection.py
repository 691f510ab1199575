import made_up
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from made_up import KNOWN
from made_up import SCORES
from made_up import UNKNOWN
from made_up import as_array
from made_up import softmax
from made_up import truth_of
from sklearn import metrics as sklearn_metrics

from keras_freetickets import metrics


def _value(metric, known, unknown):
    truth = truth_of(known, unknown)
    metric.update_state(truth, np.concatenate([known, unknown]))
    return float(metric.result())


def test_scores_that_tell_nothing():
    assert metrics.auroc([0.5] * 3, [0.5] * 5) == 0.5
    assert metrics.aupr([0.5] * 3, [0.5] * 5) == 3 / 8
    assert metrics.fpr_at_tpr([0.5] * 3, [0.5] * 5) == 1.0
    metric = metrics.AUROC(score=None)
    assert _value(metric, [0.5] * 3, [0.5] * 5) == pytest.approx(0.5)
    assert metric.error_bound() == 0.5


@pytest.mark.parametrize(
    "kind", [metrics.AUROC, metrics.AUPR, metrics.FPRAtTPR]
)
@pytest.mark.parametrize("known, unknown", [([], []), ([1], []), ([], [1])])
def test_one_kind_is_not_a_number(kind, known, unknown):
    metric = kind(score=None)
    assert np.isnan(float(metric.result()))
    if known or unknown:
        assert np.isnan(_value(metric, known, unknown))


def _with_exact(known, unknown):
    """Each metric of given scores, and its value by the functions of arrays."""
    return [
        (metrics.AUROC(score=None), metrics.auroc(known, unknown)),
        (metrics.AUPR(score=None), metrics.aupr(known, unknown)),
        (
            metrics.AUPR("out", score=None),
            metrics.aupr(known, unknown, "out"),
        ),
        (metrics.FPRAtTPR(score=None), metrics.fpr_at_tpr(known, unknown)),
    ]


@settings(max_examples=15, deadline=None)
@given(SCORES, SCORES)
def test_scores_of_one_cell_each_are_exact(known, unknown):
    """Quarters never share a cell, so the histogram loses nothing."""
    for metric, expected in _with_exact(known, unknown):
        value = _value(metric, known, unknown)
        assert value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 30.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_bound_holds(seed, scale):
    generator = np.random.default_rng(seed)
    known = (scale * generator.normal(1, 1, 3000)).astype("float32")
    unknown = (scale * generator.normal(0, 1, 2000)).astype("float32")
    for metric, expected in _with_exact(known, unknown):
        error = abs(_value(metric, known, unknown) - expected)
        assert error <= metric.error_bound() + 1e-6
        assert metric.error_bound() < 5e-3
        assert error < 2e-3


def test_confidence_near_one_is_told_apart():
    """All within 1e-3 of 1, where a grid of 1,000 steps sees one value."""
    generator = np.random.default_rng(0)
    doubt = 10 ** np.concatenate(
        [generator.uniform(-6, -4, 500), generator.uniform(-5, -3, 500)]
    )
    predictions = np.stack([1 - doubt, doubt], axis=1).astype("float32")
    truth = np.repeat([1, 0], 500)
    metric = metrics.AUROC()
    metric.update_state(truth, predictions)
    expected = sklearn_metrics.roc_auc_score(truth, predictions[:, 0])
    assert 0.7 < expected < 0.95
    assert float(metric.result()) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    "score, function, given, from_logits",
    [
        ("maximum_probability", metrics.maximum_probability, "p", False),
        ("maximum_probability", metrics.maximum_probability, "z", True),
        ("entropy", metrics.negative_entropy, "p", False),
        ("unknown_aware", metrics.unknown_aware_score, "p", False),
        ("energy", metrics.negative_energy, "z", True),
        ("maximum_logit", metrics.maximum_logit, "z", True),
        (
            "mutual_information",
            metrics.negative_mutual_information,
            "members",
            False,
        ),
    ],
)
def test_a_score_by_name(score, function, given, from_logits):
    logits, members = made_up.members()
    given = {"p": members[0], "z": logits[0], "members": members}[given]
    truth = np.arange(40) % 2
    metric = metrics.AUROC(score=score, from_logits=from_logits)
    metric.update_state(truth, given)
    of = softmax(given) if function is metrics.maximum_probability else given
    of = given if not from_logits else of
    scores = as_array(function(of))
    expected = sklearn_metrics.roc_auc_score(truth, scores)
    assert float(metric.result()) == pytest.approx(
        expected, abs=metric.error_bound() + 1e-6
    )


def test_weights_count_as_copies():
    weights = np.array([2, 1, 1, 3, 1, 2, 1, 1])
    metric = metrics.AUROC(score=None)
    truth = truth_of(KNOWN, UNKNOWN)
    scores = np.array(KNOWN + UNKNOWN)
    metric.update_state(truth, scores, weights)
    expected = sklearn_metrics.roc_auc_score(
        truth, scores, sample_weight=weights
    )
    assert float(metric.result()) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: metrics.AUROC(score="odd"), "`score` must be one of"),
        (lambda: metrics.AUROC(score="energy"), "`from_logits` must be True"),
        (
            lambda: metrics.AUROC(score="mutual_information", from_logits=True),
            "`from_logits` must be False",
        ),
        (lambda: metrics.AUPR("up"), "`positive` must be one of"),
        (lambda: metrics.FPRAtTPR(0.0), r"`level` must be in \(0, 1\]"),
        (
            lambda: metrics.AUROC(score=None).update_state([2], [0.5]),
            "`y_true` must be 1 for known",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_score_that_is_nan_shows():
    metric = metrics.AUROC(score=None)
    metric.update_state([1, 0, 1], [0.5, 0.1, np.nan])
    assert np.isnan(float(metric.result()))
