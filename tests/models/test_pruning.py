import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import layers

import keras_freetickets as kft


def network(units=8, seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(units, activation="relu", name="first"),
            layers.BatchNormalization(),
            layers.Dense(3, name="last"),
        ]
    )


def kernels(model):
    named = [v for v in model.trainable_variables if "kernel" in v.name]
    return [np.array(v) for v in named]


def masks(model):
    return [np.array(record.mask) for record in model.masked_kernels]


@settings(max_examples=10, deadline=None)
@given(st.sampled_from([0.0, 0.1, 0.5, 0.8, 0.99]), st.integers(0, 99))
def test_the_largest_of_all_kernels_stay(sparsity, seed):
    dense = network(seed=seed)
    found = np.concatenate(
        [m.ravel() for m in masks(kft.prune(dense, sparsity))]
    )
    sizes = np.abs(np.concatenate([k.ravel() for k in kernels(dense)]))
    kept = int(72 * (1 - sparsity) + 1e-9)
    wanted = np.zeros(72, bool)
    # The largest of either kernel, 48 and 24 weights, then of all.
    firsts = [np.argmax(sizes[:48]), 48 + np.argmax(sizes[48:])]
    sizes[firsts] = np.inf
    wanted[np.argsort(-sizes)[: max(kept, 2)]] = True
    np.testing.assert_array_equal(found, wanted)


def test_the_largest_of_each_kernel_stay():
    dense = network()
    sparse = kft.prune(dense, 0.75, scope="layer")
    for mask, kernel in zip(masks(sparse), kernels(dense), strict=True):
        kept = mask.size // 4
        assert mask.sum() == kept
        limit = np.sort(np.abs(kernel).ravel())[-kept]
        np.testing.assert_array_equal(mask, np.abs(kernel) >= limit)


def test_values_stay_and_the_model_too():
    dense = network()
    before = dense.get_weights()
    sparse = kft.prune(dense, 0.5)
    for old, new in zip(before, dense.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    for mask, mine, other in zip(
        masks(sparse), kernels(sparse), kernels(dense), strict=True
    ):
        np.testing.assert_array_equal(mine, np.where(mask, other, 0))
    assert sparse.density == 0.5


def test_values_of_an_early_model():
    trained, early = network(seed=1), network(seed=2)
    early.layers[1].set_weights([np.full(8, v) for v in (1.0, 2.0, 3.0, 4.0)])
    sparse = kft.prune(trained, 0.5, rewind_to=early)
    chosen = masks(kft.prune(trained, 0.5))
    for mask, mine, other, wanted in zip(
        masks(sparse), kernels(sparse), kernels(early), chosen, strict=True
    ):
        np.testing.assert_array_equal(mask, wanted)
        np.testing.assert_array_equal(mine, np.where(mask, other, 0))
    names = [layer.name for layer in sparse.layers if "batch" in layer.name]
    moving = sparse.get_layer(names[0])
    np.testing.assert_array_equal(np.array(moving.moving_variance), 4.0)


def test_in_steps_nothing_comes_back():
    once = kft.prune(network(), 0.5)
    once.compile("sgd", "mse")
    once.fit(np.ones((8, 6)), np.ones((8, 3)), verbose=0)
    twice = kft.prune(once, 0.8)
    assert sum(m.sum() for m in masks(twice)) == int(72 * 0.2)
    for early, late in zip(masks(once), masks(twice), strict=True):
        assert not (late & ~early).any()
    assert once.density == 0.5


def test_layers_left_alone():
    sparse = kft.prune(network(), 0.5, filters="first")
    assert [m.sum() for m in masks(sparse)] == [24]
    assert [m.sum() for m in masks(kft.prune(sparse, 0.75))] == [12]


def test_the_masks_rest_in_training(tmp_path):
    sparse = kft.prune(network(), 0.5)
    before = masks(sparse)
    sparse.compile("adam", "mse")
    sparse.fit(np.ones((8, 6)), np.ones((8, 3)), epochs=3, verbose=0)
    sparse.save(tmp_path / "pruned.keras")
    loaded = keras.saving.load_model(tmp_path / "pruned.keras")
    for model in (sparse, loaded):
        for old, new, kernel in zip(
            before, masks(model), kernels(model), strict=True
        ):
            np.testing.assert_array_equal(old, new)
            assert not kernel[~new].any()


def test_early_weights_of_another_network():
    other = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="tanh", name="first"),
            layers.Dense(3, name="last"),
        ]
    )
    with pytest.raises(ValueError, match="different layers or settings"):
        kft.prune(network(), 0.5, rewind_to=other)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"sparsity": 1.0}, "`sparsity` must be in"),
        ({"scope": "unit"}, "`scope` must be one of"),
        ({"rewind_to": network(5)}, "`rewind_to` must have the architecture"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        kft.prune(**{"model": network(), "sparsity": 0.5, **arguments})


def test_more_than_is_left():
    with pytest.raises(ValueError, match="which has 36 weights left"):
        kft.prune(kft.prune(network(), 0.5), 0.4)
