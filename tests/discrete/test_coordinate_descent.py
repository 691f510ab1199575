"""CoNNTrA: trials, moves and ends against computations from scratch."""

import itertools
import math

import keras
import numpy as np
import pytest
from chains import dense
from chains import examples

import keras_freetickets as kft
from keras_freetickets.discrete import CoordinateDescent
from keras_freetickets.discrete import compiled_trials
from keras_freetickets.discrete.network import Network
from keras_freetickets.discrete.search import Search

VALUES = (-1.0, 0.0, 1.0)


def convolutional(pooling="max"):
    pools = {
        "max": keras.layers.MaxPooling2D(2),
        "mean": keras.layers.AveragePooling2D(2, padding="same"),
        "global": keras.layers.GlobalAveragePooling2D(),
    }
    head = [] if pooling == "global" else [keras.layers.Flatten()]
    return keras.Sequential(
        [
            keras.Input((7, 6, 2)),
            keras.layers.Conv2D(3, 3, activation="relu", padding="same"),
            keras.layers.MaxPooling2D((2, 3), strides=2, padding="same"),
            keras.layers.Conv2D(4, 2, strides=(1, 1), dilation_rate=1),
            keras.layers.ReLU(),
            pools[pooling],
            *head,
            keras.layers.Dense(5, activation="relu", use_bias=False),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )


def searched(model, x, y, masks=None, **settings):
    """A search before its first sweep."""
    settings = CoordinateDescent(**settings)
    search = Search(settings, model, x, y, masks)
    search._anchor()
    return search


MODELS = {
    "dense": dense,
    "one layer": lambda: dense(hidden=()),
    "max": lambda: convolutional("max"),
    "mean": lambda: convolutional("mean"),
    "global": lambda: convolutional("global"),
}
every_model = pytest.mark.parametrize("kind", MODELS)


@every_model
def test_numpy_computes_what_keras_does(kind):
    keras.utils.set_random_seed(0)
    model = MODELS[kind]()
    x, _ = examples(model)
    network = Network(model)
    inputs = network.inputs(x)
    logits = network.forward(inputs)[1][-1][:, 0].T
    expected = keras.ops.convert_to_numpy(model(x))
    if kind in ("max", "mean", "global"):
        exps = np.exp(logits - logits.max(axis=1, keepdims=True))
        logits = exps / exps.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(logits, expected, atol=2e-6)


@every_model
def test_gradients_are_differences(kind):
    keras.utils.set_random_seed(1)
    network = Network(MODELS[kind]())
    x, y = examples(MODELS[kind]())
    inputs = network.inputs(x)
    gradients = network.gradients(inputs, y)
    random = np.random.default_rng(0)
    for stage, found in zip(network.stages, gradients, strict=True):
        for array, gradient in zip(
            (stage.weights, stage.biases), found, strict=True
        ):
            at = random.integers(0, array.size)
            losses = []
            for step in (1e-6, -1e-6):
                array.flat[at] += step
                losses.append(network.loss(inputs, y))
                array.flat[at] -= step
            slope = (losses[0] - losses[1]) / 2e-6
            assert gradient.flat[at] == pytest.approx(slope, abs=1e-7)


@every_model
def test_a_trial_is_a_full_computation(kind):
    """Every value of every coordinate."""
    model = MODELS[kind]()
    search = searched(model, *examples(model))
    inputs, labels = search.inputs_now, search.labels_now
    assert search.loss == pytest.approx(
        search.network.loss(inputs, labels), abs=1e-12
    )
    order = np.random.default_rng(0).permutation(search.coordinates)
    for coordinate in order[:150]:
        for value in VALUES:
            found = compiled_trials.trial_loss(
                search.state, coordinate, value, search.loss
            )
            layer, tap, channel, unit = coordinate
            stage = search.stages[layer]
            place = stage.biases if channel < 0 else stage.weights[tap, channel]
            old = place[unit]
            place[unit] = value
            full = search.network.loss(inputs, labels)
            place[unit] = old
            assert found == pytest.approx(full, abs=1e-11)


@every_model
def test_each_accepted_move_lowers_the_recomputed_loss(kind):
    model = MODELS[kind]()
    search = searched(model, *examples(model), chunk_size=1)
    moves, before = 0, search.loss
    for coordinate in search.random.permutation(search.coordinates)[:200]:
        search._descend(coordinate[None], screen=False)
        full = search.network.loss(search.inputs_now, search.labels_now)
        assert search.loss == pytest.approx(full, abs=1e-6)
        assert search.loss <= before
        moves += search.loss < before
        before = search.loss
    assert moves >= 5
    for stage in search.stages:
        assert np.isin(stage.weights, VALUES).all()
        assert np.isin(stage.biases, VALUES).all()


@pytest.mark.parametrize("penalty", [0.0, 1e-3])
@pytest.mark.parametrize("screen", [False, True])
def test_no_single_change_improves_the_end(penalty, screen):
    model = dense()
    x, y = examples(model)
    search = searched(
        model, x, y, sweeps=40, penalty=penalty, screen=screen, chunk_size=16
    )
    found = search.run(None)
    assert found.converged
    assert (np.diff(found.losses) < 0).all() or penalty
    loss = search.network.loss(search.inputs_now, search.labels_now)
    for stage in search.stages:
        for place in (stage.weights, stage.biases):
            for at, value in itertools.product(range(place.size), VALUES):
                old = place.flat[at]
                place.flat[at] = value
                full = search.network.loss(search.inputs_now, search.labels_now)
                more = int(value != 0) - int(old != 0)
                place.flat[at] = old
                assert full + penalty * more >= loss - 2e-12


def test_logits_far_from_the_present_ones_are_exact():
    """exp of their differences would be infinite."""
    model = dense(hidden=(3,))
    x, y = examples(model)
    search = searched(model, 3e4 * x, y)
    for coordinate in search.coordinates:
        for value in VALUES:
            found = compiled_trials.trial_loss(
                search.state, coordinate, value, search.loss
            )
            layer, tap, channel, unit = coordinate
            stage = search.stages[layer]
            place = stage.biases if channel < 0 else stage.weights[tap, channel]
            old = place[unit]
            place[unit] = value
            full = search.network.loss(search.inputs_now, search.labels_now)
            place[unit] = old
            assert found == pytest.approx(full, rel=1e-12)


def xor():
    x = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]], "float32")
    return x, np.array([0, 1, 1, 0])


def least_of_all_settings():
    """The global minimum of a 2-2-2 network on XOR, of 3^12 settings."""
    x, y = xor()
    scales = 1 / math.sqrt(2), 3 / math.sqrt(2)
    first = np.array(list(itertools.product(VALUES, repeat=3)))
    hidden = scales[0] * (first[:, :2] @ x.T + first[:, 2:])
    hidden = np.maximum(hidden, 0)  # (27, 4)
    both = hidden[:, None], hidden[None, :]
    logits = [
        scales[1] * (u * both[0] + v * both[1] + b)
        for u, v, b in itertools.product(VALUES, repeat=3)
    ]
    logits = np.stack(np.broadcast_arrays(*logits))  # (27, 27, 27, 4)
    margin = logits[:, None] - logits[None, :]
    sign = np.where(y == 0, -1.0, 1.0)
    return np.logaddexp(0, sign * margin).mean(axis=-1).min()


def test_xor_against_all_settings():
    """About 2% of starts end in the global minimum: many are needed."""
    least = least_of_all_settings()
    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(2, activation="relu"),
            keras.layers.Dense(2),
        ]
    )
    x, y = xor()
    ends = []
    for seed in range(400):
        search = searched(model, x, y, seed=seed)
        for sweep in range(10):
            moves = search.moves
            search._sweep(sweep, False, None, 0.0)
            if search.moves == moves:
                break
        ends.append(search.loss)
    assert min(ends) == pytest.approx(least, abs=1e-12)
    assert min(ends) >= least - 1e-12


def test_weights_outside_a_mask_are_never_visited():
    model = dense()
    x, y = examples(model)
    random = np.random.default_rng(0)
    masks = [random.random(one.kernel.shape) < 0.4 for one in model.layers]
    search = searched(model, x, y, masks)
    kernels = [c for c in search.coordinates if c[2] >= 0]
    visited = {tuple(map(int, c)) for c in kernels}
    expected = {
        (layer, 0, *map(int, at))
        for layer, mask in enumerate(masks)
        for at in np.argwhere(mask)
    }
    assert visited == expected
    found = search.run(None)
    for layer, mask in zip(found.model.layers, masks, strict=True):
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        assert not kernel[~mask].any()


def test_a_sparse_model_brings_its_masks():
    model = kft.sparsify(dense(), 0.5, seed=0)
    x, y = examples(model)
    found = CoordinateDescent(start="nearest", sweeps=2).fit(model, x, y)
    for masked, layer in zip(
        model.masked_kernels, found.model.layers, strict=False
    ):
        mask = keras.ops.convert_to_numpy(masked.mask.value).astype(bool)
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        assert not kernel[~mask].any() and kernel.any()


def test_swaps_keep_the_number_of_weights():
    model = dense()
    x, y = examples(model)
    found = CoordinateDescent(
        start="nearest", keep_count=True, swaps=60, sweeps=5
    ).fit(model, x, y)
    counts = {row["nonzero"] for row in found.history}
    assert len(counts) == 1
    assert sum(row["swaps"] for row in found.history) > 0
    losses = [row["loss"] for row in found.history]
    assert losses == sorted(losses, reverse=True)
    kernels = [keras.ops.convert_to_numpy(c.kernel) for c in found.model.layers]
    assert sum(map(np.count_nonzero, kernels)) == counts.pop()


def test_signs_alone_inside_a_mask():
    model = dense()
    x, y = examples(model)
    random = np.random.default_rng(1)
    masks = [random.random(one.kernel.shape) < 0.6 for one in model.layers]
    found = CoordinateDescent(keep_count=True, sweeps=3).fit(model, x, y, masks)
    for layer, mask in zip(found.model.layers, masks, strict=True):
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        assert ((kernel != 0) == mask).all()


@every_model
@pytest.mark.parametrize("biases", ["search", "zero", "keep"])
def test_the_model_predicts_what_was_searched(kind, biases, tmp_path):
    model = MODELS[kind]()
    for layer in model.layers:
        if getattr(layer, "bias", None) is not None:
            layer.bias.assign(keras.random.normal(layer.bias.shape, seed=0))
    x, y = examples(model)
    found = CoordinateDescent(
        values=(-1, 0, 0.5, 2), sweeps=1, biases=biases, start="nearest"
    ).fit(model, x, y)
    outputs = keras.ops.convert_to_numpy(found.model(x)).astype("float64")
    if kind in ("max", "mean", "global"):
        loss = -np.log(outputs[np.arange(len(y)), y]).mean()
    else:
        top = np.log(np.exp(outputs).sum(axis=1))
        loss = (top - outputs[np.arange(len(y)), y]).mean()
    assert loss == pytest.approx(found.history[-1]["loss"], rel=1e-5)
    if biases == "search":
        path = tmp_path / "model.keras"
        kft.discrete.save(found.model, path)
        loaded = keras.saving.load_model(path)
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(loaded(x)),
            keras.ops.convert_to_numpy(found.model(x)),
        )


def test_batches_screening_and_ends():
    model = dense()
    x, y = examples(model, 200)
    rows = []
    found = CoordinateDescent(
        batch_size=50, chunk_size=10, screen=True, sweeps=2
    ).fit(model, x, y, callback=rows.append)
    assert not found.converged and len(found.history) == 2
    assert rows[-1]["sweep"] == 1
    assert rows[-1]["visits"] == rows[-1]["coordinates"]
    # The last visit may try both other values.
    found = CoordinateDescent(max_trials=30).fit(model, x, y)
    assert 30 <= sum(row["trials"] for row in found.history) <= 31
    found = CoordinateDescent(target_loss=100.0).fit(model, x, y)
    assert sum(row["trials"] for row in found.history) == 0


def test_equal_seeds_end_in_equal_weights():
    model = dense()
    x, y = examples(model)
    kernels = []
    for seed in (1, 1, 2):
        found = CoordinateDescent(sweeps=2, seed=seed).fit(model, x, y)
        kernels.append(keras.ops.convert_to_numpy(found.model.layers[0].kernel))
    assert (kernels[0] == kernels[1]).all()
    assert (kernels[0] != kernels[2]).any()
