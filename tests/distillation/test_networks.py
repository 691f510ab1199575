"""Directions, perturbed networks and banks."""

import keras
import numpy as np
import pytest

import keras_freetickets as kft
from keras_freetickets import distillation
from keras_freetickets.distillation import networks as parts

IMAGE = (8, 8, 1)


def make_model(seed=0, width=4):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input(IMAGE),
            keras.layers.Conv2D(width, 3, padding="same"),
            keras.layers.GroupNormalization(groups=-1),
            keras.layers.ReLU(),
            keras.layers.AveragePooling2D(2),
            keras.layers.Conv2D(width, 3, padding="same"),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )


def sparse_model(seed=0):
    return kft.sparsify(
        make_model(seed), 0.5, distribution="uniform", seed=seed
    )


@pytest.mark.parametrize("shape", [(3, 3, 1, 5), (7, 4), (2, 3, 4)])
def test_each_filter_has_the_norm_of_the_weights(shape):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=shape)
    (direction,) = distillation.filter_normalized_direction([weight], seed=1)
    axes = tuple(range(weight.ndim - 1))
    np.testing.assert_allclose(
        np.linalg.norm(direction.reshape(-1, shape[-1]), axis=0),
        np.linalg.norm(weight.reshape(-1, shape[-1]), axis=0),
        rtol=1e-5,
    )
    assert axes and not np.allclose(direction, weight)


def test_norms_count_active_entries_alone():
    rng = np.random.default_rng(0)
    mask = rng.random((20, 6)) < 0.3
    weight = (rng.normal(size=(20, 6)) * mask).astype("float32")
    (direction,) = distillation.filter_normalized_direction(
        [weight], seed=1, masks=[mask]
    )
    assert direction.dtype == "float32" and not direction[~mask].any()
    np.testing.assert_allclose(
        np.linalg.norm(direction, axis=0),
        np.linalg.norm(weight, axis=0),
        rtol=1e-5,
    )


def test_biases_and_filters_of_zeros_stay():
    weights = [np.ones((3, 2)), np.ones(2), np.zeros((3, 2)), np.ones((2, 2))]
    found = distillation.filter_normalized_direction(
        weights, is_kernel=[True, False, True, False]
    )
    assert found[0].any() and not any(one.any() for one in found[1:])
    assert np.isfinite(found[2]).all()


def test_the_same_seed_gives_the_same_direction():
    weight = [np.ones((5, 5))]
    first, again, other = (
        distillation.filter_normalized_direction(weight, seed)[0]
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_lists_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="an entry for each weight"):
        distillation.filter_normalized_direction([np.ones((2, 2))], masks=[])


@pytest.mark.parametrize("make", [make_model, sparse_model])
def test_a_perturbed_network_is_near_and_the_bank_stays(make):
    bank = distillation.NetworkBank([make(0)])
    network = bank.networks[0]
    before = [value.copy() for value in network.values]
    is_kernel = parts.matched_kernels(bank.model)
    rng = np.random.default_rng(0)
    moved = parts.perturbed(network, is_kernel, (0.01, 0.09), rng)
    for old, value, new, mask, kernel in zip(
        before,
        network.values,
        moved.values,
        network.masks,
        is_kernel,
        strict=True,
    ):
        np.testing.assert_array_equal(old, value)
        gap = np.linalg.norm((new - old).reshape(-1, old.shape[-1]), axis=0)
        size = np.linalg.norm(old.reshape(-1, old.shape[-1]), axis=0)
        assert (gap <= 0.18 * size + 1e-6).all()
        assert bool((gap > 0).any()) == kernel
        if mask is not None:
            assert not new[~mask].any()


def test_kernels_of_all_layers_but_the_last_are_matched():
    model = make_model()
    names = [
        one.path
        for one, matched in zip(
            model.trainable_variables,
            parts.matched_kernels(model),
            strict=True,
        )
        if matched
    ]
    assert len(names) == 2 and all(n.endswith("/kernel") for n in names)
    assert all("conv2d" in name for name in names)
    assert sum(parts.matched_kernels(sparse_model())) == 2


def test_a_bank_of_one_sparse_run_has_its_masks():
    rng = np.random.default_rng(0)
    x = rng.random((64, *IMAGE)).astype("float32")
    y = rng.integers(0, 3, 64)
    model, bank = sparse_model(), distillation.NetworkBank()
    model.compile(
        "adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    rigl = kft.callbacks.RigL(update_interval=2)
    collect = bank.collector(every_epochs=2)
    model.fit(x, y, 16, epochs=6, callbacks=[rigl, collect], verbose=0)
    assert len(bank) == 3 and bank.model is model
    masks = [
        [one for one in network.masks if one is not None]
        for network in bank.networks
    ]
    assert len(masks[0]) == len(model.masked_kernels)
    assert any((a != b).any() for a, b in zip(masks[0], masks[2], strict=True))
    for network in bank.networks:
        for value, mask in zip(network.values, network.masks, strict=True):
            assert mask is None or not value[~mask].any()
    for last, variable in zip(
        bank.networks[-1].values, model.trainable_variables, strict=True
    ):
        np.testing.assert_array_equal(
            last, keras.ops.convert_to_numpy(variable.value)
        )


def test_fresh_networks_differ():
    fresh = distillation.FreshNetworks(make_model)
    rng = np.random.default_rng(0)
    first, second = fresh.draw(rng), fresh.draw(rng)
    assert (first.values[0] != second.values[0]).any()


def test_what_is_refused():
    with pytest.raises(TypeError, match=r"must be a keras\.Model"):
        distillation.NetworkBank([object()])
    with pytest.raises(TypeError, match=r"`make_model` must be a keras\.Model"):
        distillation.FreshNetworks(lambda seed: None)
    bank = distillation.NetworkBank([make_model()])
    with pytest.raises(ValueError, match="architecture of the others"):
        bank.add(make_model(width=5))
    with pytest.raises(ValueError, match="one network or more"):
        distillation.NetworkBank().draw(np.random.default_rng(0))
    with pytest.raises(ValueError, match="`every_epochs` must be a positive"):
        bank.collector(0)
