import keras
import numpy as np
import pytest

import keras_freetickets as kft


def sparse(storage, seed=0):
    keras.utils.set_random_seed(seed)
    hidden = keras.layers.Dense(24, activation="relu")
    last = keras.layers.Dense(3, activation="softmax")
    dense = keras.Sequential([keras.Input((20,)), hidden, last])
    return kft.sparsify(dense, 0.9, "uniform", storage=storage, seed=seed)


def ensemble(storage):
    return kft.EnsembleModel([sparse(storage, seed) for seed in range(2)])


def calibrated(storage):
    x = np.random.default_rng(0).normal(size=(60, 20)).astype("float32")
    return kft.calibration.calibrate(ensemble(storage), x, np.arange(60) % 3)


def nested(storage):
    inputs = keras.Input((20,))
    return kft.SparseModel(inputs, sparse(storage)(inputs))


KINDS = [sparse, ensemble, calibrated, nested]


@pytest.mark.parametrize("kind", KINDS)
def test_a_compressed_model_writes_nothing(kind, tmp_path):
    """TensorFlow would load it nowhere else: an operation is not known."""
    model = kind("compressed")
    assert model.holds_compressed
    path = tmp_path / "saved"
    with pytest.raises(ValueError, match=r"keras_freetickets\.export\(model"):
        model.export(path)
    assert not path.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_masks_do_not_matter(kind):
    assert not kind("mask").holds_compressed
