"""What belongs to a connection stays with it, where weights are assigned."""

import threading

import keras
import numpy as np
import pytest

import keras_freetickets as kft
from keras_freetickets import keras_adapter
from keras_freetickets.kernels import decompress

if keras.backend.backend() == "torch":
    pytest.skip("no compressed layers there", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("eagerly")


def network(seed, units=16):
    keras.utils.set_random_seed(seed)
    dense = keras.Sequential(
        [
            keras.Input((20,)),
            keras.layers.Dense(units, activation="relu"),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    model = kft.sparsify(
        dense,
        0.8,
        "uniform",
        seed=seed,
        storage="compressed",
        max_compressed_density=0.3,
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def trained(seed):
    model = network(seed)
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((32, 20)).astype("float32")
    model.fit(x, rng.integers(0, 3, 32), batch_size=8, verbose=0)
    return model


def dense_slots(model):
    """The slots of each kernel as arrays of its shape, zeros between."""
    kernels = model.masked_kernels
    slots = keras_adapter.optimizer_slots(
        model.optimizer, [masked.kernel for masked in kernels]
    )
    return [
        [
            decompress(keras.ops.convert_to_numpy(slot), masked.layer.structure)
            for slot, _ in found
        ]
        for masked, found in zip(kernels, slots, strict=True)
    ]


def masks(model):
    return [masked.mask_array() for masked in model.masked_kernels]


def assert_slots_followed(model, before):
    for slots, was, mask in zip(
        dense_slots(model), before, masks(model), strict=True
    ):
        assert len(slots) == 2  # of Adam
        for now, then in zip(slots, was, strict=True):
            assert np.any(then[mask]) and np.any(then[~mask])
            np.testing.assert_array_equal(now, np.where(mask, then, 0))


def test_set_weights_of_another_topology():
    model, other = trained(1), network(2)
    before = dense_slots(model)
    model.set_weights(other.get_weights())
    assert_slots_followed(model, before)
    for mine, its in zip(masks(model), masks(other), strict=True):
        np.testing.assert_array_equal(mine, its)


def test_weights_of_a_file_without_an_optimizer(tmp_path):
    model, other = trained(1), network(2)
    other.save_weights(tmp_path / "other.weights.h5")
    before = dense_slots(model)
    model.load_weights(tmp_path / "other.weights.h5")
    assert_slots_followed(model, before)


def test_a_file_with_an_optimizer_brings_its_slots(tmp_path):
    model, other = trained(1), trained(2)
    other.save_weights(tmp_path / "other.weights.h5")
    model.load_weights(tmp_path / "other.weights.h5")
    for mine, its in zip(dense_slots(model), dense_slots(other), strict=True):
        for one, another in zip(mine, its, strict=True):
            np.testing.assert_array_equal(one, another)


def test_wrong_positions_lose_no_slot_of_a_connection_that_stays():
    """What is wrong is replaced, and an error says so."""
    model = trained(1)
    before = dense_slots(model)
    broken = [w.copy() for w in model.get_weights()]
    layer = model.masked_kernels[0].layer
    place = [id(w) for w in model.weights].index(id(layer.column_indices))
    broken[place][0] = 60_000
    with pytest.raises(ValueError, match="are wrong"):
        model.set_weights(broken)
    for slots, was, mask in zip(
        dense_slots(model), before, masks(model), strict=True
    ):
        for now, then in zip(slots, was, strict=True):
            np.testing.assert_array_equal(now, np.where(mask, then, 0))


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="Keras' own state is not safe with threads on JAX",
)
def test_two_models_in_two_threads():
    """Each trains as it does alone, updates of the topology included."""

    def made():
        return [network(seed, units=256) for seed in (1, 2)]

    def fit(model):
        rng = np.random.default_rng(0)
        x = rng.standard_normal((64, 20)).astype("float32")
        model.attach(kft.topology.RigL(update_interval=3, drop_fraction=0.5))
        for i in range(24):
            model.train_on_batch(x, (np.arange(64) + i) % 3)

    alone, together = made(), made()
    for model in alone:
        fit(model)
    threads = [threading.Thread(target=fit, args=[one]) for one in together]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(alone, together, strict=True):
        for mine, its in zip(
            one.get_weights(), other.get_weights(), strict=True
        ):
            np.testing.assert_array_equal(mine, its)
