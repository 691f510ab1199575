import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from made_up import KNOWN
from made_up import SCORES
from made_up import UNKNOWN
from made_up import truth_of
from sklearn import metrics as sklearn_metrics

from keras_freetickets import metrics


def test_by_hand():
    assert metrics.auroc(KNOWN, UNKNOWN) == 14 / 16
    assert metrics.fpr_at_tpr(KNOWN, UNKNOWN) == 1 / 4
    assert metrics.fpr_at_tpr(KNOWN, UNKNOWN, level=0.5) == 0.0
    # In order: known, known, unknown, known, known.
    expected = (1 + 1 + 3 / 4 + 4 / 5) / 4
    assert metrics.aupr(KNOWN, UNKNOWN) == pytest.approx(expected)
    # From below: unknown, unknown, unknown, known, known, unknown.
    expected = (1 + 1 + 1 + 4 / 6) / 4
    assert metrics.aupr(KNOWN, UNKNOWN, "out") == pytest.approx(expected)


@pytest.mark.parametrize(
    "function", [metrics.auroc, metrics.aupr, metrics.fpr_at_tpr]
)
def test_functions_refuse_nothing_and_nan(function):
    with pytest.raises(ValueError, match="`known` must hold one number"):
        function([], [1.0])
    with pytest.raises(ValueError, match=r"`unknown` must .* NaN"):
        function([1.0], [np.nan])


@settings(deadline=None)
@given(SCORES, SCORES)
def test_against_scikit_learn(known, unknown):
    truth, scores = truth_of(known, unknown), np.concatenate([known, unknown])
    expected = sklearn_metrics.roc_auc_score(truth, scores)
    assert metrics.auroc(known, unknown) == pytest.approx(expected)
    expected = sklearn_metrics.average_precision_score(truth, scores)
    assert metrics.aupr(known, unknown) == pytest.approx(expected)
    expected = sklearn_metrics.average_precision_score(1 - truth, -scores)
    assert metrics.aupr(known, unknown, "out") == pytest.approx(expected)
    false, true, _ = sklearn_metrics.roc_curve(
        truth, scores, drop_intermediate=False
    )
    expected = false[np.flatnonzero(true >= 0.95)[0]]
    assert metrics.fpr_at_tpr(known, unknown) == pytest.approx(expected)


@given(SCORES, SCORES)
@settings(max_examples=50, deadline=None)
def test_roc_curve_against_scikit_learn(known, unknown):
    expected = sklearn_metrics.roc_curve(
        truth_of(known, unknown),
        np.concatenate([known, unknown]),
        drop_intermediate=False,
    )
    found = metrics.roc_curve(known, unknown)
    for mine, theirs in zip(found, expected[:2], strict=True):
        np.testing.assert_allclose(mine, theirs)


def test_roc_curve_needs_both_kinds():
    with pytest.raises(ValueError, match="`unknown` must hold one number"):
        metrics.roc_curve([1.0], [])


def test_bad_arguments():
    with pytest.raises(ValueError, match="`level` must be in"):
        metrics.fpr_at_tpr([1], [1], 1.5)
    with pytest.raises(ValueError, match="`positive` must be one of"):
        metrics.aupr([1], [1], "up")
