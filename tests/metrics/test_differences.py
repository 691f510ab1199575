"""Intervals of differences, against formulas and by their coverage."""

import numpy as np
import pytest

from keras_freetickets.metrics import Difference
from keras_freetickets.metrics import paired_bootstrap

RNG = np.random.default_rng(0)


def test_no_difference():
    scores = RNG.random(50)
    assert paired_bootstrap(scores, scores) == Difference(0.0, 0.0, 0.0)


def test_a_difference_of_all_examples():
    """As it is the same for each, nothing is left to chance."""
    scores = RNG.random(50)
    found = paired_bootstrap(scores + 0.25, scores)
    assert found.mean == pytest.approx(0.25)
    assert (found.low, found.high) == pytest.approx((0.25, 0.25))


def test_one_run_by_the_normal_approximation():
    one, other = RNG.random((2, 400)) < [[0.8], [0.7]]
    found = paired_bootstrap(one, other)
    differences = one.astype(float) - other
    half = 1.96 * differences.std() / np.sqrt(400)
    assert found.mean == pytest.approx(differences.mean())
    assert found.low == pytest.approx(found.mean - half, abs=0.1 * half)
    assert found.high == pytest.approx(found.mean + half, abs=0.1 * half)


def test_runs_have_the_spread_of_their_sample_variance():
    """Of runs alone: variance s^2 / n, s^2 with n - 1."""
    runs = np.array([0.1, 0.2, 0.6])
    scores = np.repeat(runs[:, None], 10, axis=1)
    found = paired_bootstrap(scores, np.zeros(10), confidence=0.68)
    half = np.sqrt(runs.var(ddof=1) / 3)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.25)


def test_seeds():
    one, other = RNG.random((2, 3, 40))
    first = paired_bootstrap(one, other, num_resamples=50)
    assert first == paired_bootstrap(one, other, num_resamples=50)
    assert first != paired_bootstrap(one, other, num_resamples=50, seed=1)


@pytest.mark.parametrize(
    "low, high, better, verdict",
    [
        (0.1, 0.2, True, "wins"),
        (0.1, 0.2, False, "loses"),
        (-0.2, -0.1, True, "loses"),
        (-0.2, -0.1, False, "wins"),
        (-0.1, 0.2, True, "within noise"),
        (0.0, 0.2, False, "within noise"),
    ],
)
def test_verdict(low, high, better, verdict):
    assert Difference(0.0, low, high).verdict(better) == verdict


@pytest.mark.parametrize(
    "first, second, arguments, message",
    [
        ([1.0], [1.0, 2.0], {}, "must be of the same examples"),
        ([], [], {}, "`first` must hold one finite score"),
        ([1.0], [np.nan], {}, "`second` must hold one finite score"),
        ([[[1.0]]], [1.0], {}, "`first` must hold one finite score"),
        ([1.0], [1.0], {"confidence": 1.0}, "`confidence`"),
        ([1.0], [1.0], {"num_resamples": 0}, "`num_resamples`"),
        ([1.0], [1.0], {"seed": -1}, "`seed`"),
    ],
)
def test_wrong_arguments(first, second, arguments, message):
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(first, second, **arguments)
