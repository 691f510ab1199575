import sys
import types

import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft


def small(kernel_size=3):
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(6, kernel_size, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(name="flat"),
            layers.Dense(16, activation="relu", name="hidden"),
            layers.Dense(3, activation="softmax", name="head"),
        ]
    )


def masks(model):
    return [record.mask.numpy() for record in model.connections]


def test_the_dense_model_is_untouched():
    dense = small()
    before = dense.get_weights()
    sparse = kft.sparsify(dense, 0.9)
    assert isinstance(sparse, kft.SparseModel)
    assert not isinstance(dense, kft.SparseModel)
    for old, new in zip(before, dense.get_weights()):
        np.testing.assert_array_equal(old, new)
    shared = {id(v) for v in dense.variables} & {
        id(v) for v in sparse.variables
    }
    assert not shared


def test_values_are_taken_over():
    dense = small()
    sparse = kft.sparsify(dense, 0.5, seed=0)
    for record, layer in zip(sparse.connections, ["conv", "hidden", "head"]):
        kernel = dense.get_layer(layer).kernel.numpy()
        expected = np.where(record.mask.numpy(), kernel, 0)
        np.testing.assert_array_equal(record.kernel.numpy(), expected)


def test_counts_follow_erk():
    sparse = kft.sparsify(small(), 0.8)
    shapes = [m.shape for m in masks(sparse)]
    densities = kft.topology.distributions.erdos_renyi_kernel(shapes, 0.8)
    counts = [m.sum() for m in masks(sparse)]
    sizes = [m.size for m in masks(sparse)]
    assert counts == [round(d * n) for d, n in zip(densities, sizes)]
    assert abs(sparse.density - 0.2) < 3 / sum(sizes)


def test_seed():
    dense = small()
    first, again, other = (
        masks(kft.sparsify(dense, 0.5, "uniform", seed=s)) for s in (1, 1, 2)
    )
    assert all((a == b).all() for a, b in zip(first, again))
    assert any((a != b).any() for a, b in zip(first, other))


@pytest.mark.parametrize(
    "filters", ["^hidden", ["^hidden$"], lambda layer: layer.name == "hidden"]
)
def test_filters(filters):
    sparse = kft.sparsify(small(), 0.5, filters=filters)
    assert [layer.name for layer in sparse.sparse_layers] == ["hidden"]


def test_sparsity_by_layer():
    sparse = kft.sparsify(
        small(), lambda layer: {"hidden": 0.75, "head": 0.5}.get(layer.name)
    )
    shares = {r.name: r.active / r.size for r in sparse.connections}
    assert shares == {"hidden/kernel": 0.25, "head/kernel": 0.5}


def test_trained_values_give_magnitude_masks():
    dense = small()
    values = np.random.default_rng(0).normal(size=(216, 16))
    dense.get_layer("hidden").kernel.assign(values)
    sparse = kft.sparsify(dense, 0.75, "uniform")
    record = sparse.connections[1]
    kept = np.abs(values).astype("float32")[record.mask.numpy()]
    assert kept.min() >= np.sort(np.abs(values).ravel())[-864] - 1e-6


def test_random_masks_on_trained_values_warn(recwarn):
    dense = small()
    kft.sparsify(dense, 0.5, mask_initializer="random")
    assert not [w for w in recwarn if "holds values" in str(w.message)]
    dense.get_layer("hidden").kernel.assign(np.ones((216, 16)))
    with pytest.warns(UserWarning, match="holds values other than its init"):
        kft.sparsify(dense, 0.5, mask_initializer="random")


def test_nested_and_shared_layers(tmp_path):
    inputs = keras.Input((4,))
    shared = layers.Dense(4, name="shared")
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4)], name="inner")
    outputs = inner(shared(shared(inputs)))
    dense = keras.Model(inputs, outputs)
    same = kft.sparsify(dense, 0.0)
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    np.testing.assert_allclose(
        same.predict(x, verbose=0), dense.predict(x, verbose=0), atol=1e-6
    )
    sparse = kft.sparsify(dense, 0.5, "uniform")
    assert len(sparse.connections) == 2
    expected = sparse.predict(x, verbose=0)
    sparse.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)
    plain = kft.strip(loaded).predict(x, verbose=0)
    np.testing.assert_allclose(plain, expected, atol=1e-6)


def test_dense_checkpoints_fit_the_stripped_model(tmp_path):
    dense = small()
    dense.save_weights(tmp_path / "dense.weights.h5")
    sparse = kft.sparsify(dense, 0.5)
    with pytest.raises(ValueError):  # Keras': the layers hold other weights
        sparse.load_weights(tmp_path / "dense.weights.h5")
    plain = kft.strip(sparse)
    plain.load_weights(tmp_path / "dense.weights.h5")
    for mine, other in zip(dense.get_weights(), plain.get_weights()):
        np.testing.assert_array_equal(mine, other)


def test_several_inputs_and_outputs():
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    x = layers.Concatenate()([a, b])
    dense = keras.Model(
        {"a": a, "b": b}, {"y": layers.Dense(2)(x), "z": layers.Dense(1)(x)}
    )
    data = {"a": np.ones((2, 3)), "b": np.zeros((2, 3))}
    expected = dense.predict(data, verbose=0)
    same = kft.sparsify(dense, 0.0).predict(data, verbose=0)
    np.testing.assert_allclose(same["y"], expected["y"], atol=1e-6)
    plain = kft.strip(kft.sparsify(dense, 0.5)).predict(data, verbose=0)
    assert plain["z"].shape == (2, 1)


@pytest.mark.parametrize("sparsity", [-0.5, 1.0, "0.8", None])
def test_bad_sparsity(sparsity):
    with pytest.raises(ValueError, match=r"`sparsity` must be in \[0, 1\)"):
        kft.sparsify(small(), sparsity)


def test_bad_models():
    with pytest.raises(TypeError, match="`model` must be a keras.Model"):
        kft.sparsify("model", 0.5)
    with pytest.raises(ValueError, match="must be built"):
        kft.sparsify(keras.Sequential([layers.Dense(3)]), 0.5)
    inputs = keras.Input((3,))
    with pytest.raises(ValueError, match="has nothing to mask"):
        kft.sparsify(keras.Model(inputs, layers.ReLU()(inputs)), 0.5)
    with pytest.raises(ValueError, match="has nothing to mask"):
        kft.sparsify(small(), 0.5, filters="no_such_layer")
    with pytest.raises(TypeError, match="`model` must be a SparseModel"):
        kft.strip(small())


def test_keras_2_models_are_refused_by_name(monkeypatch):
    module = types.ModuleType("tf_keras.src.engine.sequential")
    model = type("Sequential", (), {"__module__": module.__name__})()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(TypeError, match="`keras` .*`tf_keras`"):
        kft.sparsify(model, 0.5)


def test_operations_in_the_graph():
    inputs = keras.Input((4,))
    hidden = layers.Dense(4)(inputs)
    outputs = layers.Dense(2)(keras.ops.relu(hidden) + inputs)
    dense = keras.Model(inputs, outputs)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    sparse = kft.sparsify(dense, 0.0)
    expected = dense.predict(x, verbose=0)
    np.testing.assert_array_equal(sparse.predict(x, verbose=0), expected)
    plain = kft.strip(sparse)
    np.testing.assert_array_equal(plain.predict(x, verbose=0), expected)


def first_of(kernel, count, generator):
    mask = np.zeros(kernel.size, bool)
    mask[:count] = True
    return mask.reshape(kernel.shape)


def test_own_mask_initializer_gives_files_that_load(tmp_path):
    sparse = kft.sparsify(small(), 0.8, mask_initializer=first_of)
    sparse.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    for mine, other in zip(masks(loaded), masks(sparse), strict=True):
        np.testing.assert_array_equal(mine, other)
        np.testing.assert_array_equal(other, first_of(other, other.sum(), 0))


def test_own_mask_initializer_of_a_wrong_count():
    def all_of(kernel, count, generator):
        return np.ones(kernel.shape, bool)

    with pytest.raises(ValueError, match="`mask_initializer` must return"):
        kft.sparsify(small(), 0.8, mask_initializer=all_of)


def test_adapted_preprocessing_is_taken_over():
    x = np.random.default_rng(0).normal(5, 3, (20, 4)).astype("float32")
    norm = layers.Normalization()
    norm.adapt(x)
    inputs = keras.Input((4,))
    dense = keras.Model(inputs, layers.Dense(3)(norm(inputs)))
    sparse = kft.sparsify(dense, 0.0)
    expected = dense.predict(x, verbose=0)
    np.testing.assert_allclose(sparse.predict(x, verbose=0), expected)
    plain = kft.strip(sparse)
    np.testing.assert_allclose(plain.predict(x, verbose=0), expected)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="strings are TensorFlow's"
)
def test_vocabularies_are_taken_over():
    lookup = layers.StringLookup(output_mode="multi_hot")
    lookup.adapt(["a", "b", "c"])
    inputs = keras.Input((2,), dtype="string")
    dense = keras.Model(inputs, layers.Dense(3)(lookup(inputs)))
    import tensorflow as tf

    x = tf.constant([["a", "b"], ["c", "z"]])
    sparse = kft.sparsify(dense, 0.0)
    np.testing.assert_allclose(sparse(x), dense(x))
    np.testing.assert_allclose(kft.strip(sparse)(x), dense(x))


def test_numbers_of_numpy_are_numbers():
    sparse = kft.sparsify(small(), np.float32(0.8), seed=np.int64(1))
    again = kft.sparsify(small(), 0.8, seed=1)
    for mine, other in zip(masks(sparse), masks(again), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_masks_follow_keras_seed():
    found = []
    for seed in (5, 5, 6):
        keras.utils.set_random_seed(seed)
        found.append(masks(kft.sparsify(small(), 0.8)))
    for a, b, c in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.all() or (a != c).any()


def test_a_sparse_model_is_not_made_sparse_again():
    sparse = kft.sparsify(small(), 0.5)
    with pytest.raises(ValueError, match="is sparse already"):
        kft.sparsify(sparse, 0.9)


@pytest.mark.parametrize("seed", [-1, 0.5, "x"])
def test_bad_seed(seed):
    with pytest.raises(ValueError, match="`seed` must be a natural number"):
        kft.sparsify(small(), 0.5, seed=seed)


@pytest.mark.parametrize(
    "densities",
    [[0.5], [0.5] * 4, [0.5, 0.5, 1.5], None, 0.5, ["a"] * 3, [np.nan] * 3],
)
def test_bad_distribution(densities):
    with pytest.raises(ValueError, match="`distribution` must return"):
        kft.sparsify(small(), 0.5, lambda shapes, sparsity: densities)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"filters": 5}, "`filters` must be a regex"),
        ({"filters": "("}, "`filters` must be a regex"),
        ({"filters": [5]}, "`filters` must be a regex"),
        ({"distribution": ["erk"]}, "`distribution` must be one of"),
        ({"mask_initializer": ["random"]}, "`mask_initializer` must be one"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        kft.sparsify(small(), 0.5, **arguments)
