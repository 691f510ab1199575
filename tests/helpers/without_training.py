"""What works on a backend that has no trainer, for `test_backends.py`.

As a script: `without_training.py DIRECTORY`.
"""

import os
import sys

import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft

X = np.random.default_rng(0).normal(size=(12, 6, 6, 1)).astype("float32")
Y = np.arange(12) % 3


def dense(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(3, activation="softmax"),
        ]
    )


def compiled(seed):
    model = kft.sparsify(dense(seed), 0.7, seed=seed)
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def check_model(directory):
    model = compiled(1)
    kft.sparsity_summary(model, print_fn=False)
    kernels = [
        keras.ops.convert_to_numpy(r.kernel.value) for r in model.masked_kernels
    ]
    masks = [
        keras.ops.convert_to_numpy(r.mask.value) for r in model.masked_kernels
    ]
    for kernel, mask in zip(kernels, masks, strict=True):
        assert not kernel[~mask].any() and kernel[mask].all()
    assert abs(model.density - 0.3) < 0.01
    expected = model.predict(X, verbose=0)
    path = os.path.join(directory, "model.keras")
    model.save(path)
    plain = kft.strip(model)
    for other in (keras.saving.load_model(path), plain):
        np.testing.assert_allclose(
            other.predict(X, verbose=0), expected, atol=1e-6
        )
    assert type(plain).__module__.startswith("keras.")
    assert not any(isinstance(x, kft.layers.Sparse) for x in plain.layers)
    model.evaluate(X, Y, verbose=0)


def check_ensemble(directory):
    members = [compiled(1), compiled(2)]
    each = np.stack([m.predict(X, verbose=0) for m in members])
    ensemble = kft.EnsembleModel(members)
    path = os.path.join(directory, "ensemble.keras")
    ensemble.save(path)
    small = os.path.join(directory, "ensemble.npz")
    ensemble.save_packed(small)
    loaded = [keras.saving.load_model(path)]
    loaded += [kft.EnsembleModel.from_packed(small)]
    for model in (ensemble, *loaded):
        np.testing.assert_allclose(model.predict_members(X), each, atol=1e-6)
        mean = model.predict(X, verbose=0)
        np.testing.assert_allclose(mean, each.mean(axis=0), atol=1e-6)
        logs = model.evaluate(X, Y, verbose=0, return_dict=True)
        hits = each.mean(axis=0).argmax(axis=-1) == Y
        np.testing.assert_allclose(logs["accuracy"], hits.mean(), atol=1e-6)


def check_that_training_is_refused():
    backend = keras.backend.backend()
    message = rf"runs on the backends \['tensorflow', 'jax'\].*'{backend}'"
    model = compiled(3)
    before = model.get_weights()
    calls = {
        "fit": lambda: model.fit(X, Y, verbose=0),
        "callback": lambda: model.fit(X, Y, callbacks=[kft.callbacks.SET()]),
        "attach": lambda: model.attach(kft.topology.SET()),
        "batch": lambda: model.train_on_batch(X, Y),
        "gradients": lambda: model.apply_gradients([]),
    }
    for name, call in calls.items():
        with pytest.raises(RuntimeError, match=message):
            call()
        assert model.method is None, name
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def main(directory):
    check_model(directory)
    check_ensemble(directory)
    check_that_training_is_refused()


if __name__ == "__main__":
    main(sys.argv[1])
