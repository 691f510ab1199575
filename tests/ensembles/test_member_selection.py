"""Greedy selection of members against hand-worked and exhaustive results."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import layers

import keras_freetickets as kft
from keras_freetickets.ensembles import member_selection


def member(probabilities):
    """A model that returns row i of a table for the i-th unit vector."""
    table = np.asarray(probabilities, "float32")
    model = keras.Sequential(
        [
            keras.Input((len(table),)),
            layers.Dense(table.shape[1], activation="softmax", use_bias=False),
        ]
    )
    model.layers[0].kernel.assign(np.log(table))
    return model


def of_label(*values):
    """Two examples of class 0, with these probabilities of it."""
    return [[value, 1 - value] for value in values]


X = np.eye(2, dtype="float32")
Y = np.zeros(2, int)
# Alone the first is best; the second and third make up for each other.
MEMBERS = [(0.55, 0.55), (0.9, 0.3), (0.3, 0.9), (0.01, 0.01)]


@pytest.fixture(scope="module")
def ensemble():
    return kft.EnsembleModel([member(of_label(*p)) for p in MEMBERS])


def test_by_likelihood(ensemble):
    found = ensemble.select_members(X, Y)
    assert found.order == [0, 1, 2, 3]
    assert found.members == [0, 1, 2]
    by_hand = [
        -np.log(0.55),
        -np.log([0.725, 0.425]).mean(),
        -np.log(1.75 / 3),
        -np.log(0.44),
    ]
    np.testing.assert_allclose(found.scores, by_hand, rtol=1e-5)
    assert isinstance(found.ensemble, kft.EnsembleModel)
    assert found.ensemble.num_members == 3
    scores = found.ensemble.evaluate(X, Y, verbose=0, return_dict=True)
    np.testing.assert_allclose(scores["nll"], by_hand[2], rtol=1e-5)
    assert ensemble.num_members == 4


def test_by_accuracy(ensemble):
    """Of equals the lower number, and the smaller ensemble."""
    found = ensemble.select_members(X, Y, metric="accuracy")
    assert found.order == [0, 1, 2, 3]
    # (0.725, 0.425) has the second example wrong, (0.44, 0.44) both.
    assert found.scores == [1.0, 0.5, 1.0, 0.0]
    assert found.members == [0]
    np.testing.assert_array_equal(
        found.ensemble.predict_members(X), ensemble.predict_members(X)[:1]
    )


def test_equal_members_are_taken_by_number():
    ensemble = kft.EnsembleModel([member(of_label(0.6, 0.7))] * 3)
    for metric in ("nll", "accuracy"):
        found = ensemble.select_members(X, Y, metric)
        assert found.order == [0, 1, 2] and found.members == [0]


def test_max_members(ensemble):
    found = ensemble.select_members(X, Y, max_members=2)
    assert found.order == found.members == [0, 1]
    assert found.ensemble.num_members == len(found.scores) == 2
    assert len(ensemble.select_members(X, Y, max_members=9).order) == 4
    for count in (0, -1, 1.5, True, "2"):
        with pytest.raises(ValueError, match="`max_members` must be a posi"):
            ensemble.select_members(X, Y, max_members=count)


def test_members_come_in_their_order_with_their_values():
    tables = [of_label(*p) for p in MEMBERS[::-1]]
    ensemble = kft.EnsembleModel([member(table) for table in tables])
    found = ensemble.select_members(X, Y)
    assert found.members == [3, 1, 2]  # 1 and 2 are equals
    np.testing.assert_array_equal(
        found.ensemble.predict_members(X),
        ensemble.predict_members(X)[[3, 1, 2]],
    )


def test_labels_of_any_form_and_datasets(ensemble):
    import tensorflow as tf

    expected = ensemble.select_members(X, Y)
    for y in (Y[:, None], np.eye(2)[Y], list(Y), Y.astype("float32")):
        assert ensemble.select_members(X, y).scores == expected.scores
    x, y = np.repeat(X, 8, axis=0), np.repeat([0, 1], 8)
    expected = ensemble.select_members(x, y)
    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(16).batch(3)
    found = ensemble.select_members(data)  # another order each time
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-12)


def test_bad_data(ensemble):
    import tensorflow as tf

    for y, match in [
        (None, "`y` must be given with arrays"),
        ([0], "`y` must have one integer for each"),
        ([0, 2], r"`y` must hold integers in \[0, 2\)"),
        ([0, -1], r"`y` must hold integers in \[0, 2\)"),
        ([0.5, 0], r"`y` must hold integers in \[0, 2\)"),
        (["a", "b"], "`y` must have one integer"),
    ]:
        with pytest.raises(ValueError, match=match):
            ensemble.select_members(X, y)
    with pytest.raises(ValueError, match="`metric` must be one of"):
        ensemble.select_members(X, Y, metric="ece")
    with pytest.raises(ValueError, match="`x` must be inputs for which"):
        ensemble.select_members(X * np.nan, Y)
    inputs = tf.data.Dataset.from_tensor_slices(X).batch(2)
    with pytest.raises(ValueError, match="`x` must be a dataset of inputs and"):
        ensemble.select_members(inputs)
    with pytest.raises(ValueError, match="`x` must hold examples"):
        ensemble.select_members(inputs.take(0))


def test_several_inputs_from_a_dataset():
    import tensorflow as tf

    def network(seed):
        keras.utils.set_random_seed(seed)
        a, b = keras.Input((2,), name="a"), keras.Input((2,), name="b")
        hidden = layers.Concatenate()([a, b])
        outputs = layers.Dense(2, activation="softmax")(hidden)
        return keras.Model({"a": a, "b": b}, outputs)

    ensemble = kft.EnsembleModel([network(1), network(2)])
    x = {"a": X, "b": 1 - X}
    data = tf.data.Dataset.from_tensor_slices((x, Y)).batch(1)
    found = ensemble.select_members(data)
    expected = ensemble.select_members(x, Y)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-6)


def greedily(members, labels):
    """The same by averaging anew each set that may come next."""

    def loss(chosen):
        mean = np.mean([members[i].astype("float64") for i in chosen], axis=0)
        return -np.mean(
            [np.log(row[k]) for row, k in zip(mean, labels, strict=True)]
        )

    order = []
    while len(order) < len(members):
        left = [i for i in range(len(members)) if i not in order]
        order.append(min(left, key=lambda i: loss([*order, i])))
    return order, [loss(order[: n + 1]) for n in range(len(order))]


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 6))
def test_each_step_is_the_best_there_is(seed, count):
    generator = np.random.default_rng(seed)
    members = generator.dirichlet([1] * 3, (count, 5)).astype("float32")
    labels = generator.integers(3, size=5)
    order, scores, best = member_selection.forward_selection(members, labels)
    expected_order, expected = greedily(members, labels)
    assert order == expected_order
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    assert scores[best - 1] == min(scores)
