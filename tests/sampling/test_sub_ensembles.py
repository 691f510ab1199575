"""Energies of sub-ensembles and of channel masks."""

import keras
import numpy as np
import pytest

import keras_freetickets as kft
from keras_freetickets.sampling import ChannelMasks
from keras_freetickets.sampling import DiscreteSampler
from keras_freetickets.sampling import SubEnsembles
from keras_freetickets.sampling import sub_ensembles


def predictions(members=6, examples=70, classes=4, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, examples)
    quality = np.linspace(0, 3, members)[:, None, None]
    logits = random.normal(size=(members, examples, classes))
    logits += quality * np.eye(classes)[labels]
    exps = np.exp(logits)
    return labels, exps / exps.sum(axis=2, keepdims=True)


def by_hand(labels, members, state):
    kept = members[state == 1]
    classes = members.shape[2]
    p = (
        kept.mean(axis=0)
        if len(kept)
        else np.full(members.shape[1:], 1 / classes)
    )
    return np.log(p[np.arange(len(labels)), labels]).mean()


@pytest.mark.parametrize("beta, cost", [(None, 0.0), (3.0, 0.5)])
def test_energies_are_likelihoods_of_averages(beta, cost):
    labels, members = predictions()
    energy = SubEnsembles(labels, members, beta, cost)
    states = np.random.default_rng(1).integers(0, 2, (20, 6))
    states[0] = 0
    scale = len(labels) if beta is None else beta
    expected = [
        scale * by_hand(labels, members, one) - cost * one.sum()
        for one in states
    ]
    np.testing.assert_allclose(energy(states), expected, rtol=1e-12)


@pytest.mark.parametrize("with_numba", [True, False])
def test_differences_are_those_of_energies(with_numba, monkeypatch):
    if with_numba:
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr(sub_ensembles, "_compiled", lambda: None)
    labels, members = predictions(examples=1100)
    energy = SubEnsembles(labels, members, cost=0.25)
    states = np.random.default_rng(1).integers(0, 2, (9, 6))
    states[:3] = [[0] * 6, [1] * 6, [0, 0, 1, 0, 0, 0]]
    found = energy.differences(states)
    for i in range(6):
        on, off = states.copy(), states.copy()
        on[:, i], off[:, i] = 1, 0
        expected = energy(on) - energy(off)
        np.testing.assert_allclose(found[:, i], expected, atol=1e-8)


def test_a_sampler_prefers_the_better_members():
    labels, members = predictions()
    energy = SubEnsembles(labels, members, cost=0.1)
    start = np.zeros((8, 6), int)
    samples = DiscreteSampler(seed=0).run(energy, start, 400, burn_in=200)
    means = samples.means()
    assert means[-1] > 0.95 and means[0] < 0.3
    weights = energy.weights(samples.states)
    assert weights.sum() == pytest.approx(1) and weights.argmax() >= 4
    best = energy(samples.best()[None])
    assert best >= energy(np.ones((1, 6), int))


def test_wrong_sub_ensembles():
    labels, members = predictions()
    with pytest.raises(ValueError, match="`members` must be an array"):
        SubEnsembles(labels, members[0])
    with pytest.raises(ValueError, match="Received"):
        SubEnsembles(labels[1:], members)
    with pytest.raises(ValueError, match="Received"):
        SubEnsembles(labels, 2 * members)
    with pytest.raises(ValueError, match="`beta` must be positive"):
        SubEnsembles(labels, members, beta=0)
    energy = SubEnsembles(labels, members)
    for call in (energy, energy.differences):
        with pytest.raises(ValueError, match="a bit for each of the 6 members"):
            call(np.ones((2, 5), int))
    with pytest.raises(ValueError, match="`states` must hold"):
        energy.weights(np.zeros((3, 6), int))


def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Conv2D(5, 3, activation="relu", name="convolution"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Flatten(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )


def test_channel_masks_cut_channels():
    model = network()
    random = np.random.default_rng(0)
    x = random.normal(size=(30, 6, 6, 1)).astype("float32")
    y = random.integers(0, 3, 30)
    energy = ChannelMasks(model, "convolution", x, y, cost=0.5, batch_size=64)
    states = random.integers(0, 2, (7, 5))
    found = energy(states)
    kernel, bias = model.layers[0].get_weights()
    for state, value in zip(states, found, strict=True):
        model.layers[0].set_weights([kernel * state, bias * state])
        p = model.predict(x, verbose=0)[np.arange(30), y]
        expected = np.log(p).sum() - 0.5 * state.sum()
        assert value == pytest.approx(expected, rel=1e-5)
    model.layers[0].set_weights([kernel, bias])
    samples = DiscreteSampler().run(energy, states, steps=5)
    assert samples.states.shape == (7, 5, 5)


def test_channel_masks_of_a_model_made_layer_by_layer():
    model = keras.Sequential([keras.Input((3,))])
    for units in (4, 5):
        model.add(keras.layers.Dense(units, activation="relu"))
    model.add(keras.layers.Dense(2, activation="softmax"))
    x, y = np.ones((6, 3), "float32"), np.array([0, 1] * 3)
    energy = ChannelMasks(model, model.layers[1].name, x, y)
    p = model.predict(x, verbose=0)[np.arange(6), y]
    found = energy(np.ones((1, 5), int))
    np.testing.assert_allclose(found, np.log(p).sum(), rtol=1e-5)


def test_wrong_channel_masks():
    model = network()
    x, y = np.zeros((4, 6, 6, 1), "float32"), np.array([0, 1, 2, 0])
    for name in ("conv", model.layers[-1].name):
        with pytest.raises(ValueError, match="`layer` must be the name"):
            ChannelMasks(model, name, x, y)
    with pytest.raises(ValueError, match="Received"):
        ChannelMasks(model, "convolution", x, y[1:])
    with pytest.raises(TypeError, match="`model` must be a keras"):
        ChannelMasks("model", "convolution", x, y)
    energy = ChannelMasks(model, "convolution", x, y)
    with pytest.raises(ValueError, match="a bit for each of the 5 channels"):
        energy(np.ones((1, 4), int))
    inputs = keras.Input((3,))
    below = keras.layers.Dense(4, name="below")(inputs)
    above = keras.layers.Dense(4, name="above")(below)
    outputs = keras.layers.Dense(2, activation="softmax")(
        keras.layers.Add()([below, above])
    )
    branched = keras.Model(inputs, outputs)
    with pytest.raises(ValueError, match="`model` must be a chain"):
        ChannelMasks(branched, "below", np.zeros((2, 3)), np.array([0, 1]))


def test_sampling_is_public():
    assert kft.sampling.DiscreteSampler is DiscreteSampler
