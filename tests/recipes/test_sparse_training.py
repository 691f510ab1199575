"""The settings of each method that trains one sparse network."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft

METHODS = kft.recipes.SPARSE_TRAININGS


def training_of(method, **arguments):
    batch = np.ones((8, 16), "float32"), np.zeros(8, "int32")
    given = {"sparsity": 0.9375, "epochs": 8, "steps_per_epoch": 50}
    given |= {"data": [batch], "update_interval": 10, **arguments}
    return kft.recipes.sparse_training(method, **given)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_fits_a_model(method):
    """Its callbacks can be attached, and it begins as sparse as it says."""
    training = training_of(method)
    dense = keras.Sequential(
        [
            keras.Input((16,)),
            layers.Dense(64, activation="relu"),
            layers.Dense(4 + training.extra_outputs, activation="softmax"),
        ]
    )
    arguments = {"distribution": "uniform", **training.sparsify_arguments}
    model = kft.sparsify(dense, seed=0, **arguments)
    first = {"dense": 0.0, "gmp": 0.0, "granet": 0.5, "ndsnn": 0.8}
    density = 1.0 - first.get(method, 0.9375)
    assert model.density == pytest.approx(density, abs=0.005)
    model.compile("sgd", "sparse_categorical_crossentropy")
    _, *callbacks = training.callbacks
    for callback in callbacks:
        callback.set_model(model)
    assert training.changes_topology == (method not in ("dense", "static"))
    assert bool(callbacks) == training.changes_topology
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
def test_costs_by_hand(method, factor):
    """A backward pass costs two forward ones, a dense one half of that more."""
    cost = training_of(method).callbacks[0]._cost
    assert cost(1.0, 1.0 if method == "dense" else 0.2) == pytest.approx(factor)


def test_the_interval_is_a_40th_of_three_quarters():
    for steps, interval in {100: 15, 1: 1, 10**6: 1000}.items():
        made = training_of("rigl", steps_per_epoch=steps, update_interval=None)
        assert made.update_interval == interval


@pytest.mark.parametrize(
    "method, arguments, message",
    [
        ("rigel", {}, "`method` must be one of .* Received: method='rigel'"),
        ("rigl", {"sparsity": 1.0}, "`sparsity` must be in"),
        ("rigl", {"epochs": 0}, "`epochs` must be a positive"),
        ("rigl", {"steps_per_epoch": 0}, "`steps_per_epoch` must be a pos"),
        ("rigl", {"update_interval": 0}, "`update_interval` must be"),
        ("moon", {"data": None}, "`data` must be given"),
    ],
)
def test_bad_arguments(method, arguments, message):
    with pytest.raises(ValueError, match=message):
        training_of(method, **arguments)
