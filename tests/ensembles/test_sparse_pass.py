"""Ensembles of compressed tickets, beside NumPy and members' own graphs."""

import keras
import numpy as np
import pytest

import keras_freetickets as kft
from keras_freetickets import kernels
from keras_freetickets.layers import CompressedDense

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


def compressed(inputs, outputs, seed, active=60):
    """Values and structure with a given number of weights."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(inputs * outputs, bool)
    mask[rng.permutation(mask.size)[:active]] = True
    mask = mask.reshape(inputs, outputs)
    kernel = (mask * rng.standard_normal(mask.shape)).astype("float32")
    return kernels.compress(kernel, mask)


def member(seed, last=5):
    given = keras.Input((12,))
    first = CompressedDense(20, 60, "relu")
    second = CompressedDense(last, 60)
    model = keras.Model(given, second(first(given)))
    for i, (layer, size) in enumerate(((first, 12), (second, 20))):
        values, structure = compressed(size, layer.units, [seed, i])
        layer.set_structure(structure, values)
        bias = np.random.default_rng([seed, i, 1]).standard_normal(layer.units)
        layer.bias.assign(bias.astype("float32"))
    return model


def by_numpy(model, x):
    for i, layer in enumerate(model.layers[1:]):
        values = keras.ops.convert_to_numpy(layer.values)
        kernel = kernels.decompress(values, layer.structure)
        x = x @ kernel + keras.ops.convert_to_numpy(layer.bias)
        x = np.maximum(x, 0) if i == 0 else x
    return x


def inputs(batch=40):
    x = np.random.default_rng(7).standard_normal((batch, 12))
    return x.astype("float32")


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def check(ensemble, members, x):
    expected = np.stack([softmax(by_numpy(model, x)) for model in members])
    found = ensemble.predict_members(x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    found = ensemble.predict_on_batch(x)
    np.testing.assert_allclose(found, expected.mean(0), rtol=1e-5, atol=1e-6)


@pytest.fixture
def passes(monkeypatch):
    """Batches that came to one sparse network."""
    found = []

    def count(kind):
        predict = kind.predict_members

        def counted(self, x):
            found.append(len(x))
            return predict(self, x)

        monkeypatch.setattr(kind, "predict_members", counted)

    count(kernels.CompressedNetwork)
    count(kernels.ImageNetwork)
    return found


def test_one_network(passes):
    members = [member(0), member(1)]
    ensemble = kft.EnsembleModel(members, from_logits=True)
    x = inputs()
    check(ensemble, members, x)
    check(ensemble, members, x[:1])
    labels = np.argmax(ensemble.predict(x, verbose=0), -1)
    scores = ensemble.evaluate(x, labels, verbose=0, return_dict=True)
    assert scores["accuracy"] == 1
    # By predict_members, predict_on_batch, then batches of 32.
    calls = [32, 8, 40, 1, 1, 32, 8, 32, 8]
    assert passes == (calls if ON_TENSORFLOW else [])


def test_files(tmp_path, passes):
    members = [member(0), member(1)]
    ensemble = kft.EnsembleModel(members, from_logits=True)
    ensemble.save(tmp_path / "ensemble.keras")
    ensemble.save_packed(tmp_path / "ensemble.npz")
    x = inputs()
    for loaded in (
        keras.models.load_model(tmp_path / "ensemble.keras"),
        kft.EnsembleModel.from_packed(tmp_path / "ensemble.npz"),
    ):
        check(loaded, members, x)
    assert bool(passes) == ON_TENSORFLOW
    predictor = kft.serving.SparsePredictor.load(tmp_path / "ensemble.npz")
    found = predictor.predict(x)
    expected = ensemble.predict_on_batch(x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_weights_that_change():
    """After tracing, whichever way they are assigned."""
    members = [member(0), member(1)]
    ensemble = kft.EnsembleModel(members, from_logits=True)
    x = inputs()
    check(ensemble, members, x)
    others = [member(2), member(3)]
    other = kft.EnsembleModel(others, from_logits=True)
    ensemble.set_weights(other.get_weights())
    check(ensemble, others, x)


def test_other_values_without_state():
    """`stateless_call` computes with the values that it is given."""
    ensembles = [
        kft.EnsembleModel([member(i), member(i + 1)], from_logits=True)
        for i in (0, 2)
    ]
    x = inputs()
    values = ensembles[1].non_trainable_variables
    found, _ = ensembles[0].stateless_call(
        [], [variable.value for variable in values], x
    )
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(found),
        ensembles[1].predict_on_batch(x),
        rtol=1e-5,
        atol=1e-6,
    )


def test_other_architectures(passes):
    """Each member is computed by its own graph."""

    def normalized(seed):
        model = member(seed)
        y = keras.layers.LayerNormalization()(model.output)
        return keras.Model(model.input, y)

    members = [normalized(0), normalized(1)]
    ensemble = kft.EnsembleModel(members, pooling="mean")
    x = inputs()
    expected = np.stack([keras.ops.convert_to_numpy(m(x)) for m in members])
    found = ensemble.predict_members(x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert not passes


def test_masked_members_are_computed_as_ever(passes):
    dense = keras.Sequential([keras.Input((12,)), keras.layers.Dense(5)])
    members = [kft.sparsify(dense, sparsity=0.5, seed=i) for i in range(2)]
    ensemble = kft.EnsembleModel(members, from_logits=True)
    ensemble.predict_on_batch(inputs())
    assert not passes


def image_member(seed):
    given = keras.Input((9, 8, 2))
    x = keras.layers.Conv2D(12, 3, 2, padding="same")(given)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    y = keras.layers.Conv2D(12, 3, padding="same", activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()([x, y]))
    model = keras.Model(given, keras.layers.Dense(5)(x))
    return kft.sparsify(model, 0.85, "uniform", storage="compressed", seed=seed)


def test_images(passes):
    """Convolutional members are computed by one network of kernels too."""
    members = [image_member(seed) for seed in (0, 1)]
    ensemble = kft.EnsembleModel(members, from_logits=True)
    x = np.random.default_rng(7).standard_normal((3, 9, 8, 2)).astype("float32")
    found = ensemble.predict_members(x)
    for member, y in zip(members, found, strict=True):
        logits = keras.ops.convert_to_numpy(member(x, training=False))
        np.testing.assert_allclose(y, softmax(logits), rtol=1e-5, atol=1e-6)
    assert passes == ([3] if ON_TENSORFLOW else [])
