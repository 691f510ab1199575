"""Votes, thresholds, balance and targets, against numbers made by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_freetickets.curation import MixedBatches
from keras_freetickets.curation import pseudo_labels
from keras_freetickets.curation import split_labels
from keras_freetickets.curation import votes

# Two members, five examples, three classes.
MEMBERS = np.array(
    [
        [[0.9, 0.1, 0.0], [0.8, 0.1, 0.1], [0.1, 0.9, 0.0], [0.0, 0.1, 0.9]],
        [[0.9, 0.1, 0.0], [0.9, 0.0, 0.1], [0.9, 0.1, 0.0], [0.0, 0.0, 1.0]],
    ]
)


def distributions(members, examples, classes, seed):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(classes, 0.3), (members, examples))


def test_votes_by_hand():
    found = votes(MEMBERS)
    np.testing.assert_allclose(found.confidence, [0.9, 0.85, 0.5, 0.95])
    assert found.labels.tolist() == [0, 0, 0, 2]
    assert found.agreement.tolist() == [1.0, 1.0, 0.5, 1.0]
    assert found.mutual_information[0] == pytest.approx(0, abs=1e-6)


def test_mutual_information_of_equal_and_of_opposed_members():
    equal = np.repeat(distributions(1, 6, 4, 0), 3, axis=0)
    np.testing.assert_allclose(votes(equal).mutual_information, 0, atol=1e-6)
    opposed = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    found = votes(opposed).mutual_information
    np.testing.assert_allclose(found, [math.log(2)], rtol=1e-6)


def test_soft_and_hard_targets():
    soft = pseudo_labels(MEMBERS, balanced=False)
    assert soft.indices.tolist() == [0, 3] and len(soft) == soft.trusted == 2
    np.testing.assert_allclose(
        soft.targets, [[0.9, 0.1, 0.0], [0.0, 0.05, 0.95]], rtol=1e-6
    )
    hard = pseudo_labels(MEMBERS, balanced=False, soft=False)
    assert hard.targets.tolist() == [[1, 0, 0], [0, 0, 1]]
    assert hard.targets.dtype == soft.targets.dtype == "float32"


def test_one_member_is_plain_self_training():
    (member,) = distributions(1, 200, 5, 1)
    found = pseudo_labels(member[None], 1.0, 0.8, balanced=False, soft=False)
    wanted = np.flatnonzero(member.max(axis=-1) >= 0.8)
    np.testing.assert_array_equal(found.indices, wanted)
    np.testing.assert_array_equal(found.labels, member[wanted].argmax(-1))


def test_a_threshold_of_mutual_information():
    lenient = pseudo_labels(MEMBERS, 0.0, 0.0, balanced=False)
    strict = pseudo_labels(MEMBERS, 0.0, 0.0, 0.1, balanced=False)
    assert lenient.indices.tolist() == [0, 1, 2, 3]
    assert strict.indices.tolist() == [0, 1, 3]


def test_balance_keeps_the_most_confident_of_large_classes():
    # Class 0 has four examples, class 1 two, class 2 one: the median is 2.
    first = np.array([0.91, 0.97, 0.95, 0.93, 0.02, 0.03, 0.0])
    second = np.array([0.09, 0.03, 0.05, 0.07, 0.98, 0.97, 0.0])
    member = np.stack([first, second, 1 - first - second], axis=-1)
    found = pseudo_labels(member[None])
    assert found.indices.tolist() == [1, 2, 4, 5, 6] and found.trusted == 7
    one = pseudo_labels(member[None], max_per_class=1)
    assert one.indices.tolist() == [1, 4, 6]
    every = pseudo_labels(member[None], balanced=False)
    assert len(every) == 7


def test_of_equals_the_first_stay():
    member = np.tile([1.0, 0.0], (5, 1))
    found = pseudo_labels(member[None], max_per_class=2)
    assert found.indices.tolist() == [0, 1]


def test_none_may_be_selected():
    """Then a student's batches are those of supervised training."""
    found = pseudo_labels(np.full((2, 3, 4), 0.25))
    assert len(found) == found.trusted == 0
    assert found.targets.shape == (0, 4)
    x, targets = np.arange(8.0)[:, None], np.eye(4)[np.arange(8) % 4]
    unlabelled = 100 + np.arange(3.0)[:, None]
    student, supervised = (
        MixedBatches(x, targets, *pseudo, batch_size=4)
        for pseudo in ((unlabelled[found.indices], found.targets), ())
    )
    assert student.num_batches == supervised.num_batches == 2
    for a, b in zip(student[1], supervised[1], strict=True):
        np.testing.assert_array_equal(a, b)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 4), st.integers(1, 60), st.integers(2, 5), st.integers(0, 99)
)
def test_selected_examples_pass_and_classes_are_balanced(
    members, examples, classes, seed
):
    given_ = distributions(members, examples, classes, seed)
    found = pseudo_labels(given_, 0.5, 0.4)
    mean = given_.mean(axis=0)
    assert np.all(mean[found.indices].max(axis=-1) >= 0.4)
    assert np.all(np.diff(found.indices) > 0)
    np.testing.assert_allclose(found.targets.sum(axis=-1), 1, rtol=1e-5)
    every = pseudo_labels(given_, 0.5, 0.4, balanced=False)
    assert set(found.indices) <= set(every.indices)
    counts = np.bincount(every.labels, minlength=classes)
    kept = np.bincount(found.labels, minlength=classes)
    present = counts[counts > 0]
    limit = int(np.median(present)) if len(present) else 0
    np.testing.assert_array_equal(kept, np.minimum(counts, limit))


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"min_agreement": 1.1}, "`min_agreement` must be in"),
        ({"min_confidence": -0.1}, "`min_confidence` must be in"),
        ({"max_mutual_information": -1}, "`max_mutual_information` must be"),
        ({"max_per_class": 0}, "`max_per_class` must be a positive integer"),
        ({"soft": "yes"}, "`soft` must be True or False"),
        ({"balanced": 1}, "`balanced` must be True or False"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments, said):
    with pytest.raises(ValueError, match=said):
        pseudo_labels(MEMBERS, **arguments)


@pytest.mark.parametrize(
    "members",
    [MEMBERS[0], np.ones((2, 3, 4)), np.ones((2, 3, 1)), np.ones((0, 3, 4))],
)
def test_members_that_are_no_distributions_are_refused(members):
    with pytest.raises(ValueError, match="`members` must be probabilities"):
        pseudo_labels(members)


def test_split_keeps_labels_apart():
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(4), 20))
    split = split_labels(y, 6, 3, seed=5)
    for part, count in [(split.labelled, 6), (split.calibration, 3)]:
        assert np.bincount(y[part]).tolist() == [count] * 4
        assert np.all(np.diff(part) > 0)
    parts = [split.labelled, split.calibration, split.unlabelled]
    assert sorted(np.concatenate(parts)) == list(range(80))
    again, other = split_labels(y, 6, 3, seed=5), split_labels(y, 6, 3, seed=6)
    np.testing.assert_array_equal(split.labelled, again.labelled)
    assert split.labelled.tolist() != other.labelled.tolist()


def test_what_is_selected_holds_no_other_labels():
    """Neither those to train on nor those for a temperature."""
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(4), 50))
    split = split_labels(y, 6, 3, seed=5)
    members = distributions(3, len(split.unlabelled), 4, seed=1)
    found = pseudo_labels(members, 0.5, 0.4, balanced=False)
    selected = set(split.unlabelled[found.indices])
    assert len(selected) == len(found) > 10
    assert not selected & {*split.labelled, *split.calibration}


def test_a_class_without_enough_labels_is_named():
    y = np.array([0, 0, 0, 2, 2, 2])
    with pytest.raises(ValueError, match="y with 0 of class 1"):
        split_labels(y, 1)
    with pytest.raises(ValueError, match="4 examples of each class"):
        split_labels(np.array([0, 0, 0]), 2, 2)
    with pytest.raises(ValueError, match="`y` must hold classes"):
        split_labels(np.array([[0, 1]]), 1)
    with pytest.raises(ValueError, match="`labels_per_class` must be"):
        split_labels(np.array([0, 1]), 0)
