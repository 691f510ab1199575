import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_freetickets.topology import random_bits
from keras_freetickets.topology import select


def to_numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


@given(
    scores=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=1, max_dims=5, min_side=1, max_side=5),
        elements=st.floats(width=32),
    ),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_selects_the_k_best(scores, data):
    k = data.draw(st.integers(0, scores.size))
    mask = to_numpy(select(scores, k))
    assert mask.sum() == k
    # NumPy's sort as the oracle; NaN and infinity lose against all.
    ranked = np.where(np.isfinite(scores), scores, -np.inf).ravel()
    best = np.sort(ranked)[::-1][:k]
    np.testing.assert_array_equal(np.sort(ranked[mask.ravel()])[::-1], best)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("k", [0, 1, 500, 2000, 4999, 5000])
def test_same_in_a_graph(jit_compile, k):
    scores = np.random.default_rng(0).normal(size=5000).astype("float32")
    scores[:900] = 0.25
    function = tf.function(select, jit_compile=jit_compile)
    mask = function(tf.constant(scores), tf.constant(k)).numpy()
    np.testing.assert_array_equal(mask, to_numpy(select(scores, k)))
    assert mask.sum() == k


def test_negative_zero_equals_zero():
    scores = np.array([0.0, -0.0] * 50, "float32")
    mask = to_numpy(select(scores, 50))
    # Ties are broken by the hash and not by sign or position.
    assert 0 < mask[0::2].sum() < 50
    assert 0 < mask[:50].sum() < 50


def test_ties_follow_the_seed():
    scores = np.ones(1000, "float32")
    masks = [
        to_numpy(select(scores, 300, ties=random_bits((1000,), seed)))
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[0] != masks[2]).any()


def test_groups():
    scores = np.array([[4, 3, 2, 1], [1, 2, 3, 4]], "float32")
    mask = to_numpy(select(scores, 2, groups=2))
    np.testing.assert_array_equal(
        mask, [[True, True, False, False], [False, False, True, True]]
    )
    with pytest.raises(ValueError, match="`groups` must divide"):
        select(scores, 1, groups=3)


def test_several_arrays_are_ranked_together():
    first = np.array([5.0, 1.0], "float32")
    second = np.array([[4.0], [3.0], [0.0]], "float32")
    masks = select([first, second], 3)
    np.testing.assert_array_equal(to_numpy(masks[0]), [True, False])
    np.testing.assert_array_equal(to_numpy(masks[1]), [[True], [True], [False]])


def test_ineligible_entries_lose_against_nan():
    scores = np.array([9.0, np.nan, 1.0], "float32")
    mask = select(scores, 2, eligible=np.array([False, True, True]))
    np.testing.assert_array_equal(to_numpy(mask), [False, True, True])


def test_empty():
    assert to_numpy(select(np.zeros((0, 3), "float32"), 0)).shape == (0, 3)
