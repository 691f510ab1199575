"""Data of their own for the runs of a recipe."""

import functools

import keras
import numpy as np
import pytest
from keras import layers

from keras_freetickets import recipes
from keras_freetickets.recipes.run_data import check_data
from keras_freetickets.recipes.run_data import data_of_run

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 4)).astype("float32")
Y = (X[:, 0] > 0).astype("int64")


def make_model(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(2, activation="softmax")]
    )


def compile_model(model):
    model.compile("sgd", "sparse_categorical_crossentropy")


def fit(recipe, data, directory):
    return recipe.fit(make_model, compile_model, data, directory, verbose=0)


def test_each_run_names_what_it_is(tmp_path):
    seen = []

    def data(seed, *, run, member):
        seen.append((seed, run, member))
        return {"x": X, "y": Y}

    recipe = recipes.PruneAndFinetune(
        num_members=2, epochs=1, sparsity=0.5, monitor=None
    )
    fit(recipe, data, tmp_path)
    assert seen == [
        (0, "dense_0", 0),
        (0, "member_0", 0),
        (1000, "dense_1", 1),
        (1000, "member_1", 1),
    ]


@pytest.mark.parametrize(
    "data, wanted",
    [
        (lambda seed: {"x": seed}, 7),
        (lambda member: {"x": member}, 7),  # the first is the seed
        (lambda seed, member: {"x": (seed, member)}, (7, 1)),
        (lambda seed, run="": {"x": (seed, run)}, (7, "member_1")),
        (lambda seed, **more: {"x": (seed, more["member"])}, (7, 1)),
        ({"x": 3}, 3),
    ],
)
def test_signatures(data, wanted):
    check_data(data)
    assert data_of_run(data, 7, 1, "member_1")["x"] == wanted


def test_a_builtin_without_a_signature_is_given_the_seed():
    data = functools.partial(next, iter([{"x": 3}]))
    check_data(data)
    assert data_of_run(data, 7, 1, "member_1") == {"x": 3}


@pytest.mark.parametrize(
    "data", [lambda: {"x": X}, lambda seed, fold: {}, lambda *, seed: {}]
)
def test_other_signatures_are_refused(data):
    with pytest.raises(ValueError, match="Received: data with the arguments"):
        check_data(data)


def test_wrong_data_name_the_run():
    with pytest.raises(ValueError, match="for run 'member_1'"):
        data_of_run(lambda seed: {"x": X, "lables": Y}, 0, 1, "member_1")


def test_bagging(tmp_path):
    data = recipes.bootstrap(X, Y, batch_size=8, shuffle=False)
    one, other = data(0), data(1000)
    np.testing.assert_array_equal(one["x"], data(0)["x"])
    assert not np.array_equal(one["x"], other["x"])
    rows = {tuple(row): label for row, label in zip(X, Y, strict=True)}
    for row, label in zip(one["x"], one["y"], strict=True):
        assert rows[tuple(row)] == label
    # Of 40 examples 1 - (1 - 1/40)^40 = 64 % are drawn, as a mean.
    drawn = [len(np.unique(data(s)["x"], axis=0)) for s in range(200)]
    assert np.mean(drawn) == pytest.approx(40 * 0.637, abs=0.6)
    recipe = recipes.Dense(num_members=2, epochs=3, monitor=None)
    whole = fit(recipe, data, tmp_path / "whole")
    by_hand = make_model(1000)
    compile_model(by_hand)
    for rate in (1.0, 0.1, 0.01):
        by_hand.optimizer.learning_rate = 0.01 * rate
        by_hand.fit(**data(1000), verbose=0)
    for mine, its in zip(
        by_hand.get_weights(), whole.member(1).get_weights(), strict=True
    ):
        np.testing.assert_allclose(mine, its, rtol=1e-5, atol=1e-6)
    # Killed in the second member, it goes on with that member's sample.
    left = {"epochs": 5}

    class Kill(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            left["epochs"] -= 1
            if not left["epochs"]:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(
            recipe,
            lambda seed: {**data(seed), "callbacks": [Kill()]},
            tmp_path / "parts",
        )
    resumed = fit(recipe, data, tmp_path / "parts")
    for mine, its in zip(
        whole.get_weights(), resumed.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(mine, its)


def test_folds(tmp_path):
    data = recipes.folds(X, Y, 4, batch_size=10)
    held_out = [data(0, member)["validation_data"] for member in range(4)]
    together = np.concatenate([x for x, _ in held_out])
    assert {tuple(row) for row in together} == {tuple(row) for row in X}
    assert len(together) == len(X)
    for member, (x, y) in enumerate(held_out):
        trained = data(0, member)
        assert len(trained["x"]) == len(trained["y"]) == 30
        both = {tuple(r) for r in trained["x"]} & {tuple(r) for r in x}
        assert not both and len(y) == 10
    np.testing.assert_array_equal(data(0, 4)["x"], data(0, 0)["x"])
    recipe = recipes.Dense(num_members=2, epochs=1, monitor="val_loss")
    assert fit(recipe, data, tmp_path).num_members == 2


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: recipes.bootstrap(X, Y[:3]), "as many examples"),
        (lambda: recipes.bootstrap(X[:0], Y[:0]), "must be arrays of"),
        (lambda: recipes.bootstrap(3.0, Y), "must be arrays of examples"),
        (lambda: recipes.folds(X, Y, 1), "`num_folds` must be in \\[2, 40"),
        (lambda: recipes.folds(X, Y, 41), "Received: num_folds=41"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
