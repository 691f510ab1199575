"""Recall of retrieval, by hand."""

import numpy as np
import pytest

from keras_freetickets.contrastive import pair_cosines
from keras_freetickets.contrastive import recall_at
from keras_freetickets.contrastive import similarities

SCORES = np.array([[0.9, 0.1, 0.2], [0.8, 0.5, 0.7], [0.6, 0.4, 0.3]])


def test_recall_by_hand():
    # The partners have the ranks 0, 2 and 2.
    assert recall_at(SCORES, (1, 2, 3)) == pytest.approx(
        {1: 1 / 3, 2: 1 / 3, 3: 1.0}
    )
    # The other way 0, 0 and 1.
    assert recall_at(SCORES.T, (1, 2)) == pytest.approx({1: 2 / 3, 2: 1.0})


def test_ties_count_against_the_partner():
    assert recall_at(np.zeros((4, 4)), (1, 3, 4)) == {1: 0.0, 3: 0.0, 4: 1.0}


def test_several_right_answers():
    labels = np.array([0, 1]), np.array([1, 0, 0, 1])
    scores = [[0.9, 0.1, 0.8, 0.2], [0.1, 0.9, 0.2, 0.3]]
    assert recall_at(scores, (1, 2), labels) == {1: 0.0, 2: 1.0}


def test_cosines():
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(2, 5, 3))
    matrix = similarities(3.0 * a, b)
    np.testing.assert_allclose(np.diag(matrix), pair_cosines(a, 2.0 * b))
    assert np.abs(matrix).max() <= 1 + 1e-9
    assert similarities(np.zeros((1, 2)), np.ones((1, 2))).tolist() == [[0.0]]


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: recall_at(np.ones((3, 2))), "`scores` must be"),
        (lambda: recall_at(SCORES, (0,)), "`ks`"),
        (lambda: recall_at(SCORES, labels=([0], [1])), "`labels` must be"),
        (lambda: similarities(np.ones((2, 3)), np.ones((2, 4))), "one length"),
        (lambda: pair_cosines(np.ones((2, 3)), np.ones((1, 3))), "same shape"),
        (lambda: similarities(np.ones(3), np.ones(3)), "`texts` must be"),
    ],
)
def test_bad_arguments(make, said):
    with pytest.raises(ValueError, match=said):
        make()
