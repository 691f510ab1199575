"""The settings of the methods in examples/recipes.py."""

import pathlib
import types

import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft

FOLDER = pathlib.Path(__file__).parents[2] / "examples"
# All that --method takes.
METHODS = """
    agent cigl dense dst_ee gmp granet itop_rigl itop_set moon ndsnn nm rigl
    set snfs srigl static
""".split()


@pytest.fixture
def recipes(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import recipes

    return recipes


def test_all_methods_are_there(recipes):
    assert sorted(recipes.RECIPES) == METHODS


@pytest.mark.parametrize("method", METHODS)
def test_a_recipe_fits_a_model(recipes, method):
    """What a recipe makes can be attached, and begins as sparse as it says."""
    batch = np.ones((8, 16), "float32"), np.zeros(8, "int32")
    run = recipes.Run(
        data=types.SimpleNamespace(train=[batch]),
        sparsity=0.9375,
        epochs=8,
        steps=400,
        interval=10,
        drop_fraction=0.3,
        seed=0,
    )
    recipe = recipes.RECIPES[method]
    dense = keras.Sequential(
        [
            keras.Input((16,)),
            layers.Dense(64, activation="relu"),
            layers.Dense(4 + recipe.unknown_class, activation="softmax"),
        ]
    )
    arguments = {"distribution": "uniform", **recipe.sparsify(run)}
    model = kft.sparsify(dense, seed=0, **arguments)
    first = {"dense": 0.0, "gmp": 0.0, "granet": 0.5, "ndsnn": 0.8}
    density = 1.0 - first.get(method, 0.9375)
    assert model.density == pytest.approx(density, abs=0.005)
    model.compile("sgd", "sparse_categorical_crossentropy")
    callbacks = recipe.callbacks(run)
    for callback in callbacks:
        callback.set_model(model)
    assert bool(callbacks) == (method not in ("dense", "static"))
    if callbacks:
        assert model.method.update_interval == 10
        assert model.method.seed == 0
    model.detach()


@pytest.mark.parametrize(
    "method, factor",
    [
        ("dense", 3.0),  # of the dense forward pass
        ("static", 3 * 0.2),
        ("set", 3 * 0.2),
        ("rigl", (2 * 0.2 + 1.0 + 3 * 0.2 * 10) / 11),
        ("snfs", 2 * 0.2 + 1.0),
        ("gmp", 2 * 0.2 + 1.0),
        ("agent", 10 * 0.2),
    ],
)
def test_costs_by_hand(recipes, method, factor):
    """A backward pass costs two forward ones, a dense one half of that more."""
    cost = recipes.RECIPES[method].cost_of(10)
    assert cost(1.0, 1.0 if method == "dense" else 0.2) == pytest.approx(factor)
