"""Nested sets of examples, by hand."""

import numpy as np
import pytest

from keras_freetickets.curation import NestedFilter
from keras_freetickets.curation import label_scores


def test_scores_are_added_up():
    nested = NestedFilter(5, keep=0.8, floor=0.0)
    assert nested.update([0.5, 0.1, 0.9, 0.3, 0.4]).tolist() == [0, 2, 3, 4]
    # Sums 0.6, 1.0, 0.9, 0.5: the last is dropped, though it is not the worst
    # of this round.
    assert nested.update([0.1, 0.1, 0.6, 0.1]).tolist() == [0, 2, 3]
    np.testing.assert_allclose(nested.totals, [0.6, 0.1, 1.0, 0.9, 0.5])
    assert nested.counts.tolist() == [2, 1, 2, 2, 2]


def test_only_the_last_round_may_count():
    nested = NestedFilter(4, keep=0.75, floor=0.0, accumulate=False)
    nested.update([0.9, 0.1, 0.8, 0.7])
    # Accumulated, example 0 would stay.
    assert nested.update([0.1, 0.2, 0.3]).tolist() == [2, 3]


@pytest.mark.parametrize("keep", [0.29, 0.5, 0.7, 0.9, 1.0])
def test_sets_are_nested_and_survivors_scored_equally_often(keep):
    generator = np.random.default_rng(0)
    nested = NestedFilter(100, keep=keep, floor=0.1)
    before = set(range(100))
    for number in range(1, 8):
        wanted = max(round(100 * keep * len(before)) // 100, 10)
        nested.update(generator.normal(size=len(nested.active)))
        after = set(nested.active.tolist())
        assert after <= before and len(after) == wanted
        assert (nested.counts[nested.active] == number).all()
        before = after
    if keep == 1.0:
        assert len(before) == 100


def test_the_floor_ends_the_shrinking():
    nested = NestedFilter(10, keep=0.5, floor=0.7)
    assert len(nested.update(np.arange(10.0))) == 7
    assert len(nested.update(np.arange(7.0))) == 7
    assert len(NestedFilter(1, keep=0.1, floor=0.0).update([1.0])) == 1


def test_disputed_examples_are_spared():
    nested = NestedFilter(4, keep=0.5, floor=0.0, spare_disputed=True)
    nested.active = np.arange(4)
    first, second = [0.9, 0.8, 0.1, 0.5], [0.9, 0.8, 0.1, -0.5]
    plain = NestedFilter(4, keep=1.0)
    plain.update(first)
    plain.keep, plain.floor = 0.5, 0.0
    plain.spare_disputed = True
    # Sums 1.8, 1.6, 0.2, 0: of the worst two, models disagree on the last.
    assert plain.update(second).tolist() == [0, 1, 3]
    np.testing.assert_allclose(plain.spreads(), [0.0, 0.0, 0.5], atol=1e-7)


def test_scores_of_labels():
    p = np.array([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.5, 0.0, 0.5]])
    found = label_scores(p, np.array([0, 1, 1]))
    np.testing.assert_allclose(found[:2], np.log([0.7, 0.2]))
    assert np.isfinite(found[2]) and found[2] < -80
    found = label_scores(p, np.array([0, 1, 2]), "margin")
    np.testing.assert_allclose(found, [0.5, -0.5, 0.0])


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: NestedFilter(0), "`num_examples`"),
        (lambda: NestedFilter(3, keep=0.0), "`keep`"),
        (lambda: NestedFilter(3, floor=2.0), "`floor`"),
        (lambda: NestedFilter(3, accumulate=1), "`accumulate`"),
        (lambda: NestedFilter(3, spare_disputed="no"), "`spare_disputed`"),
        (lambda: NestedFilter(3).update([1.0]), "must be 3 finite numbers"),
        (lambda: NestedFilter(1).update([np.nan]), "1 not finite"),
        (lambda: label_scores([[0.5, 0.5]], [2]), "`y` must hold a class"),
        (lambda: label_scores([[0.5, 0.5]], [0, 1]), "`y` must hold a class"),
        (lambda: label_scores([[0.5, 0.5]], [0], "best"), "kind='best'"),
    ],
)
def test_bad_arguments(make, said):
    with pytest.raises(ValueError, match=said):
        make()
