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
    return [record.mask.numpy() for record in model.masked_kernels]


def test_the_dense_model_is_untouched():
    dense = small()
    before = dense.get_weights()
    sparse = kft.sparsify(dense, 0.9)
    assert isinstance(sparse, kft.SparseModel)
    assert not isinstance(dense, kft.SparseModel)
    for old, new in zip(before, dense.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    shared = {id(v) for v in dense.variables} & {
        id(v) for v in sparse.variables
    }
    assert not shared


def test_values_are_taken_over():
    dense = small()
    sparse = kft.sparsify(dense, 0.5, seed=0)
    for record, layer in zip(
        sparse.masked_kernels, ["conv", "hidden", "head"], strict=True
    ):
        kernel = dense.get_layer(layer).kernel.numpy()
        expected = np.where(record.mask.numpy(), kernel, 0)
        np.testing.assert_array_equal(record.kernel.numpy(), expected)


def test_counts_follow_erk():
    sparse = kft.sparsify(small(), 0.8)
    shapes = [m.shape for m in masks(sparse)]
    densities = kft.topology.distributions.erdos_renyi_kernel(shapes, 0.8)
    counts = [m.sum() for m in masks(sparse)]
    sizes = [m.size for m in masks(sparse)]
    assert counts == [
        round(d * n) for d, n in zip(densities, sizes, strict=True)
    ]
    assert abs(sparse.density - 0.2) < 3 / sum(sizes)


def test_seed():
    dense = small()
    first, again, other = (
        masks(kft.sparsify(dense, 0.5, "uniform", seed=s)) for s in (1, 1, 2)
    )
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert any((a != b).any() for a, b in zip(first, other, strict=True))


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
    shares = {r.name: r.active / r.size for r in sparse.masked_kernels}
    assert shares == {"hidden/kernel": 0.25, "head/kernel": 0.5}


def test_trained_values_give_magnitude_masks():
    dense = small()
    values = np.random.default_rng(0).normal(size=(216, 16))
    dense.get_layer("hidden").kernel.assign(values)
    sparse = kft.sparsify(dense, 0.75, "uniform")
    record = sparse.masked_kernels[1]
    kept = np.abs(values).astype("float32")[record.mask.numpy()]
    assert kept.min() >= np.sort(np.abs(values).ravel())[-864] - 1e-6


def test_random_masks_on_trained_values_warn(recwarn):
    dense = small()
    kft.sparsify(dense, 0.5, mask_initializer="random")
    assert not [w for w in recwarn if "seems to be trained" in str(w.message)]
    dense.get_layer("hidden").kernel.assign(np.ones((216, 16)))
    with pytest.warns(UserWarning, match="seems to be trained"):
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
    assert len(sparse.masked_kernels) == 2
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
    for mine, other in zip(
        dense.get_weights(), plain.get_weights(), strict=True
    ):
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
    with pytest.raises(TypeError, match=r"`model` must be a keras.Model"):
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
    with pytest.raises(TypeError, match=r"`keras` .*`tf_keras`"):
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
    with pytest.raises(ValueError, match="is already sparse"):
        kft.sparsify(sparse, 0.9)


@pytest.mark.parametrize("seed", [-1, 0.5, "x"])
def test_bad_seed(seed):
    with pytest.raises(
        ValueError, match="`seed` must be a non-negative integer"
    ):
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


def mobile():
    inputs = keras.Input((6, 6, 4))
    hidden = layers.DepthwiseConv2D(3, name="depthwise")(inputs)
    hidden = layers.Conv2D(4, 3, groups=4, name="grouped_as_depthwise")(hidden)
    hidden = layers.Conv2D(4, 1, groups=2, name="grouped")(hidden)
    hidden = layers.Conv2D(8, 1, name="pointwise")(hidden)
    return keras.Model(inputs, layers.Dense(3, name="head")(hidden))


def names(model):
    return [record.name for record in model.masked_kernels]


CHANNELS = ["grouped/kernel", "pointwise/kernel", "head/kernel"]


@pytest.mark.parametrize("convert", [kft.sparsify, kft.prune])
def test_depthwise_kernels_are_masked_if_they_are_named(convert):
    # A convolution of one channel a group is a depthwise one: ConvNeXt's.
    assert names(convert(mobile(), 0.5)) == CHANNELS
    masked = convert(mobile(), 0.5, kernels=("kernel",))
    depthwise = ["depthwise/kernel", "grouped_as_depthwise/kernel"]
    assert names(masked) == depthwise + CHANNELS
    # 36 + 36 + 8 + 32 + 24 weights.
    assert masked.density == 0.5

    def of_one(layer):
        return ("kernel",) if layer.name == "grouped_as_depthwise" else None

    chosen = names(convert(mobile(), 0.5, kernels=of_one))
    assert chosen == ["grouped_as_depthwise/kernel", *CHANNELS]


def test_embeddings_are_masked_if_they_are_named(tmp_path):
    inputs = keras.Input((5,), dtype="int32")
    hidden = layers.Embedding(10, 4, name="words")(inputs)
    dense = keras.Model(inputs, layers.Dense(2, name="head")(hidden))
    kernels = ["embeddings", "kernel"]
    sparse = kft.sparsify(dense, 0.5, "uniform", kernels=kernels)
    assert names(sparse) == ["words/embeddings", "head/kernel"]
    assert [m.sum() for m in masks(sparse)] == [20, 4]
    sparse.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    for mine, other in zip(masks(sparse), masks(loaded), strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("kernels", ["kernel", 5, [5], lambda layer: "kernel"])
def test_bad_kernels(kernels):
    with pytest.raises(
        ValueError, match="`kernels` must be a tuple of attribute"
    ):
        kft.sparsify(small(), 0.5, kernels=kernels)


def test_kernels_that_no_layer_has():
    """Alone, and beside one that there is."""
    for kernels in (("embeddings",), ("kernel", "embeddings")):
        with pytest.raises(
            ValueError, match=r"no layer of .* has 'embeddings'"
        ):
            kft.sparsify(small(), 0.5, kernels=kernels)


def test_kernels_that_hold_no_weight():
    with pytest.raises(ValueError, match="has nothing to mask"):
        kft.sparsify(small(), 0.5, kernels=("units",))


@pytest.mark.parametrize("declared", [("depthwise_kernel",), "kernel", 5])
def test_declared_kernels_that_a_layer_does_not_have(declared):
    dense = mobile()
    dense.get_layer("depthwise").sparse_kernels = declared
    weights = r"weights are \['bias', 'kernel'\]"
    with pytest.raises(ValueError, match=f"`sparse_kernels` must .*{weights}"):
        kft.sparsify(dense, 0.5)


def test_declared_kernels_of_a_layer_of_keras(tmp_path):
    dense = mobile()
    dense.get_layer("depthwise").sparse_kernels = ("kernel",)
    masked = kft.sparsify(dense, 0.5)
    assert names(masked) == ["depthwise/kernel", *CHANNELS]
    masked.save(tmp_path / "m.keras")
    assert names(keras.saving.load_model(tmp_path / "m.keras")) == names(masked)


def test_declared_kernels_of_a_layer_within_another():
    inputs = keras.Input((3, 6, 6, 4))
    inner = layers.DepthwiseConv2D(3, name="depthwise")
    dense = keras.Model(inputs, layers.TimeDistributed(inner, name="t")(inputs))
    inner.sparse_kernels = ("kernel",)
    assert names(kft.sparsify(dense, 0.5)) == ["t/depthwise/kernel"]
    attention = layers.MultiHeadAttention(2, 4, name="attention")
    inputs = keras.Input((3, 4))
    dense = keras.Model(inputs, attention(inputs, inputs))
    attention.key_dense.sparse_kernels = ()
    with pytest.raises(ValueError, match="`sparse_kernels` of a sublayer"):
        kft.sparsify(dense, 0.5)


@pytest.mark.parametrize("nested", [False, True])
def test_lambdas_are_copied(nested):
    inputs = keras.Input((4,))
    layer = layers.Lambda(lambda x: 2.0 * x, output_shape=(4,), name="double")
    if nested:
        layer = layers.TimeDistributed(layer)
        inputs = keras.Input((3, 4))
    dense = keras.Model(inputs, layers.Dense(2)(layer(inputs)))
    x = np.ones((2, *inputs.shape[1:]), "float32")
    sparse = kft.sparsify(dense, 0.0)
    for model in (sparse, kft.strip(sparse), kft.prune(sparse, 0.0)):
        np.testing.assert_array_equal(model(x), dense(x))


def activation(x):
    return x


def test_what_cannot_be_rebuilt_is_named():
    inputs = keras.Input((4,))
    layer = layers.Dense(2, activation=activation, name="own")
    with pytest.raises(
        ValueError, match=r"'own' of class Dense cannot be copied.*register"
    ):
        kft.sparsify(keras.Model(inputs, layer(inputs)), 0.5)


def test_classes_that_are_not_registered():
    class Doubles(layers.Dense):
        def call(self, inputs):
            return 2.0 * super().call(inputs)

    inputs = keras.Input((3, 4))
    hidden = layers.TimeDistributed(Doubles(3))(Doubles(4)(inputs))
    dense = keras.Model(inputs, hidden)
    sparse = kft.sparsify(dense, 0.0)
    x = np.ones((2, 3, 4), "float32")
    for model in (sparse, kft.strip(sparse), kft.prune(sparse, 0.0)):
        np.testing.assert_array_equal(model(x), dense(x))


class CallsOnly(layers.Layer):
    """A layer without `build`, as those of KerasHub's T5."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.first = layers.Dense(units, name="first")
        self.second = layers.Dense(units, use_bias=False, name="second")

    def call(self, query, value):
        return self.second(self.first(query) + value)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def test_a_layer_without_build_is_built_by_its_call(tmp_path):
    inputs = keras.Input((4,))
    dense = keras.Model(inputs, CallsOnly(4, name="own")(inputs, value=inputs))
    sparse = kft.sparsify(dense, 0.0)
    assert names(sparse) == ["own/first/kernel", "own/second/kernel"]
    x = np.ones((2, 4), "float32")
    sparse.save(tmp_path / "m.keras")
    own = {"CallsOnly": CallsOnly}
    loaded = keras.saving.load_model(tmp_path / "m.keras", own)
    copies = [sparse, loaded, kft.strip(sparse), kft.prune(loaded, 0.0)]
    for model in copies:
        np.testing.assert_array_equal(model(x), dense(x))
    found = [[v.path for v in m.variables] for m in (sparse, loaded)]
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["m.h5", "m.hdf5", "m.weights.h5"])
@pytest.mark.parametrize("kind", ["sparse", "ensemble", "calibrated"])
def test_legacy_files_are_refused_before_they_are_written(kind, name, tmp_path):
    model = kft.sparsify(small(), 0.5)
    if kind == "ensemble":
        model = kft.EnsembleModel([model, kft.sparsify(small(), 0.5)])
    if kind == "calibrated":
        model = kft.calibration.CalibratedModel(
            model, [kft.calibration.TemperatureScaling()]
        )
    with pytest.raises(ValueError, match=r"`filepath` must end in `.keras`"):
        model.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=r"`filepath` must end in `.keras`"):
        keras.saving.save_model(model, tmp_path / name)


def test_a_plain_model_of_sparse_layers_is_refused_as_a_legacy_file(tmp_path):
    inputs = keras.Input((4,))
    layer = kft.layers.Sparse(layers.Dense(3), 0.5)
    with pytest.raises(ValueError, match=r"`filepath` must end in `.keras`"):
        keras.Model(inputs, layer(inputs)).save(tmp_path / "m.h5")
