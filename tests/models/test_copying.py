"""What a copy keeps: classes, what is frozen, ties; and how it is named."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft
from keras_freetickets.layers import Sparse

pytestmark = pytest.mark.usefixtures("eagerly")


def data(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def reloaded(model, folder):
    model.save(folder / "m.keras")
    return keras.saving.load_model(folder / "m.keras")


@keras.saving.register_keras_serializable(package="tests")
class Twice(keras.Model):
    def call(self, inputs, training=None):
        return 2.0 * super().call(inputs, training=training)


@keras.saving.register_keras_serializable(package="tests")
class SparseTwice(kft.SparseModel):
    def call(self, inputs, training=None):
        return 2.0 * super().call(inputs, training=training)

    def name_of_head(self):
        return self.layers[-1].name


class TwiceCalled(keras.Model):
    def __call__(self, *args, **kwargs):
        return 2.0 * super().__call__(*args, **kwargs)


class Named(keras.Model):
    def head(self):
        return self.layers[-1]


class OwnSequential(keras.Sequential):
    def compute_loss(self, *args, **kwargs):
        return 3.0 * super().compute_loss(*args, **kwargs)


def graph(cls=keras.Model, name=None):
    inputs = keras.Input((4,))
    hidden = layers.Dense(5, activation="relu", name="hidden")(inputs)
    return cls(inputs, layers.Dense(3, name="head")(hidden), name=name)


@pytest.mark.parametrize("convert", [kft.sparsify, kft.prune])
def test_a_class_that_a_copy_would_lose_is_refused(convert):
    with pytest.raises(ValueError, match=r"overrides \['call'\].*type Twice"):
        convert(graph(Twice), 0.5)
    sequential = OwnSequential([keras.Input((4,)), layers.Dense(3)])
    with pytest.raises(ValueError, match=r"overrides \['compute_loss'\]"):
        convert(sequential, 0.5)
    model = graph(Twice)
    way_out = convert(keras.Model(model.inputs, model.outputs), 0.0)
    np.testing.assert_allclose(2.0 * way_out(data(2, 4)), model(data(2, 4)))
    with pytest.raises(ValueError, match=r"overrides \['__call__'\]"):
        convert(graph(TwiceCalled), 0.5)


def test_strip_refuses_a_class_with_a_call_of_its_own():
    sparse = kft.sparsify(graph(SparseTwice), 0.5)
    with pytest.raises(ValueError, match=r"overrides \['call'\].*SparseTwice"):
        kft.strip(sparse)
    layers_alone = kft.SparseModel(sparse.inputs, sparse.outputs)
    x = data(2, 4)
    np.testing.assert_allclose(2.0 * kft.strip(layers_alone)(x), sparse(x))


@pytest.mark.parametrize("convert", [kft.sparsify, kft.prune])
def test_methods_that_a_copy_loses_are_named(convert):
    with pytest.warns(UserWarning, match=r"not a Named: .* not \['head'\]"):
        convert(graph(Named), 0.5)


def test_a_class_of_sparse_models_is_kept(tmp_path):
    dense = graph(SparseTwice)
    sparse = kft.sparsify(dense, 0.5, seed=0)
    assert type(sparse) is SparseTwice
    assert sparse.name_of_head() == "head"
    assert [r.active for r in sparse.masked_kernels] == [
        round(20 * (1 - s)) for s in sparse.get_layer("hidden").sparsity
    ] + [round(15 * (1 - s)) for s in sparse.get_layer("head").sparsity]
    x = data(2, 4)
    once = keras.Model(sparse.inputs, sparse.outputs)
    np.testing.assert_array_equal(sparse(x), 2.0 * once(x))
    sparse.compile("sgd", "mse")
    sparse.fit(x, np.ones((2, 3)), verbose=0)
    for record in sparse.masked_kernels:
        assert not record.kernel.numpy()[~record.mask.numpy()].any()
    for other in (reloaded(sparse, tmp_path), kft.prune(sparse, 0.5)):
        assert type(other) is SparseTwice
        np.testing.assert_array_equal(other(x), sparse(x))
    # Other models of SparseModel are what they were.
    assert not issubclass(kft.SparseModel, type(keras.Model(*_ends(dense))))


def _ends(model):
    return model.inputs, model.outputs


def test_a_nested_model_with_a_call_of_its_own_is_kept_whole(tmp_path):
    inputs = keras.Input((4,))
    dense = keras.Model(inputs, layers.Dense(2)(graph(Twice)(inputs)))
    sparse = kft.sparsify(dense, 0.0)
    x = data(3, 4)
    assert len(sparse.masked_kernels) == 3
    for model in (sparse, kft.strip(sparse), reloaded(sparse, tmp_path)):
        np.testing.assert_allclose(model(x), dense(x), atol=1e-6)


def attention(frozen=()):
    """Attention, recurrence and a layer of one's own, each in parts frozen."""
    inputs = keras.Input((5, 6))
    mha = layers.MultiHeadAttention(2, 4, name="attention")
    outputs = mha(inputs, inputs)
    both = layers.Bidirectional(layers.SimpleRNN(3, name="rnn"), name="both")
    hidden = both(outputs)
    block = Block(name="block")
    outputs = layers.BatchNormalization(name="norm")(block(hidden))
    model = keras.Model(inputs, layers.Dense(2, name="head")(outputs))
    for part in (mha, both.forward_layer, block.first, block.kernel):
        if part.name in frozen:
            part.trainable = False
    return model


@keras.saving.register_keras_serializable(package="tests")
class Block(layers.Layer):
    sparse_kernels = ("kernel",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(4, name="first")

    def build(self, shape):
        self.first.build(shape)
        self.kernel = self.add_weight(shape=(4, 4), name="kernel")

    def call(self, inputs):
        return self.first(inputs) @ self.kernel


def trained(model):
    """What a model trains, by the names of the layer and of the weight."""
    paths = [v.path.split("/") for v in model.trainable_variables]
    return sorted("/".join(path[-2:]) for path in paths)


def test_what_is_frozen_within_a_layer_stays_frozen(tmp_path):
    # A whole layer, a layer and a weight within others.
    dense = attention(("attention", "forward_rnn", "kernel"))
    everything = len(attention().trainable_variables)
    assert len(dense.trainable_variables) == everything - 8 - 3 - 1
    sparse = kft.sparsify(dense, 0.5)
    copies = {
        "sparse": sparse,
        "pruned": kft.prune(dense, 0.5),
        "pruned twice": kft.prune(sparse, 0.7),
        "reloaded": reloaded(sparse, tmp_path),
        "stripped": kft.strip(sparse),
    }
    wanted = trained(dense)
    found = {name: trained(model) for name, model in copies.items()}
    assert found == dict.fromkeys(copies, wanted)

    before = [v.numpy() for v in sparse.get_layer("attention").weights]
    sparse.compile(keras.optimizers.SGD(1.0), "mse", run_eagerly=True)
    sparse.fit(data(4, 5, 6), data(4, 2), verbose=0)
    after = [v.numpy() for v in sparse.get_layer("attention").weights]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("nested", ["sequential", "functional"])
def test_a_frozen_base_is_thawed(nested, tmp_path):
    if nested == "sequential":
        chain = [keras.Input((4,)), layers.Dense(3)]
        base = keras.Sequential(chain, name="base")
    else:
        base = graph(name="base")
    base.trainable = False
    inputs = keras.Input((4,))
    dense = keras.Model(inputs, layers.Dense(2)(base(inputs)))
    sparse = kft.sparsify(dense, 0.5)
    models = [sparse, reloaded(sparse, tmp_path), kft.prune(dense, 0.5)]
    for model in [*models, kft.strip(sparse)]:
        copy = model.get_layer("base")
        assert not copy.trainable
        assert len(model.trainable_variables) == 2
        copy.trainable = True
        assert len(model.trainable_variables) == 2 + len(base.weights)


def test_a_frozen_model_stays_frozen(tmp_path):
    dense = graph()
    dense.trainable = False
    sparse = kft.sparsify(dense, 0.5)
    for model in (sparse, reloaded(sparse, tmp_path), kft.strip(sparse)):
        assert not model.trainable_variables
        model.trainable = True
        assert len(model.trainable_variables) == 4


def parts(model):
    return list(model._flatten_layers())


def test_strip_leaves_no_layer_of_this_package(tmp_path):
    inputs = keras.Input((5, 4))
    base = graph()
    once = kft.sparsify(base, 0.5)
    inner = Sparse(layers.Dense(3, name="steps"), 0.5)
    hidden = layers.TimeDistributed(inner, name="in_time")(inputs)
    hidden = layers.Flatten()(hidden)
    hidden = layers.Dense(4, name="between")(hidden)
    model = kft.SparseModel(inputs, Sparse(layers.Dense(3), 0.5)(once(hidden)))
    assert len(model.masked_kernels) == 4
    x = data(3, 5, 4)
    for source in (model, reloaded(model, tmp_path)):
        plain = kft.strip(source)
        ours = [p for p in parts(plain) if "freetickets" in type(p).__module__]
        assert ours == []
        np.testing.assert_allclose(plain(x), model(x), atol=1e-6)
        assert len(plain.weights) == 10
        plain.save(tmp_path / "plain.keras")
    with keras.saving.custom_object_scope({}):
        loaded = keras.saving.load_model(tmp_path / "plain.keras")
    np.testing.assert_allclose(loaded(x), model(x), atol=1e-6)


@keras.saving.register_keras_serializable(package="tests")
class HoldsSparse(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = Sparse(layers.Dense(3), 0.5)

    def build(self, shape):
        self.inner.build(shape)

    def call(self, inputs):
        return self.inner(inputs)


def test_strip_refuses_a_layer_that_makes_masks_itself():
    inputs = keras.Input((4,))
    model = kft.SparseModel(inputs, HoldsSparse(name="holder")(inputs))
    with pytest.raises(ValueError, match="'holder' of class HoldsSparse"):
        kft.strip(model)


@pytest.mark.parametrize("convert", [kft.sparsify, kft.prune])
@pytest.mark.parametrize("first", ["wrapper", "layer"])
def test_a_layer_within_a_wrapper_and_called_is_refused(first, convert):
    # Keras saves such a model, and cannot load it.
    d = layers.Dense(4, name="d")
    a, b = keras.Input((3, 5)), keras.Input((5,))
    calls = [lambda: layers.TimeDistributed(d, name="t")(a), lambda: d(b)]
    outputs = [call() for call in calls[:: 1 if first == "wrapper" else -1]]
    model = keras.Model([a, b], outputs)
    with pytest.raises(ValueError, match=r"share the weight '.*kernel'"):
        convert(model, 0.5)


def test_a_tie_of_masked_layers_is_refused():
    d = Sparse(layers.Dense(4, name="d"), 0.5)
    a, b = keras.Input((3, 5)), keras.Input((5,))
    model = kft.SparseModel([a, b], [layers.TimeDistributed(d)(a), d(b)])
    for convert in (kft.strip, lambda model: kft.prune(model, 0.6)):
        with pytest.raises(ValueError, match="share the weight"):
            convert(model)


def several():
    """Every way in which a kernel may lie in a model."""
    inputs = keras.Input((4, 6))
    hidden = layers.MultiHeadAttention(2, 4, dropout=0.1)(inputs, inputs)
    rnn = layers.SimpleRNN(3, return_sequences=True)
    hidden = layers.Bidirectional(rnn)(hidden)
    hidden = layers.TimeDistributed(layers.Dense(4))(hidden)
    hidden = layers.Flatten()(hidden)
    base = keras.Sequential([keras.Input((16,)), layers.Dense(4, name="same")])
    hidden = base(hidden)
    inner = keras.Input((4,))
    other = keras.Model(inner, layers.Dense(4, name="same")(inner))
    return keras.Model(inputs, layers.Dense(2, name="same")(other(hidden)))


def paths(model):
    return [v.path for v in model.variables]


def test_a_variable_has_one_path_always(tmp_path):
    sparse = kft.sparsify(several(), 0.5)
    expected = paths(sparse)
    assert len(set(expected)) == len(expected)
    assert paths(reloaded(sparse, tmp_path)) == expected
    assert paths(kft.prune(sparse, 0.6)) == expected
    hand = kft.SparseModel(
        *_chain(Sparse(layers.TimeDistributed(layers.Dense(3)), 0.5))
    )
    assert paths(reloaded(hand, tmp_path)) == paths(hand)


def _chain(*chain):
    inputs = keras.Input((4, 6))
    outputs = inputs
    for layer in chain:
        outputs = layer(outputs)
    return inputs, outputs


def test_masks_lie_beside_their_kernels():
    inputs = keras.Input((4,))
    chain = [keras.Input((4,)), layers.Dense(3, name="d")]
    base = keras.Sequential(chain, name="base")
    sparse = kft.sparsify(keras.Model(inputs, base(inputs)), 0.5)
    (record,) = sparse.masked_kernels
    assert record.mask.path == "base/d/kernel_mask"
    assert record.kernel.path == "base/d/kernel"


@keras.saving.register_keras_serializable(package="tests")
class Unsaid(layers.Dense):
    """A layer whose config says more than its constructor takes: ViT's."""

    def get_config(self):
        return {**super().get_config(), "num_patches": 4}


@keras.saving.register_keras_serializable(package="tests")
class Backbone(keras.Model):
    """A model that makes its graph of a few numbers, as those of KerasHub."""

    def __init__(self, width, **kwargs):
        inputs = keras.Input((4,))
        hidden = Unsaid(width, name="unsaid")(inputs)
        outputs = layers.Dense(3, name="head")(hidden)
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self.width = width

    def get_config(self):
        return {"width": self.width, "name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def whole_backbone():
    return Backbone(8, name="backbone")


def nested_backbone():
    inputs = keras.Input((4,))
    hidden = Backbone(8, name="backbone")(inputs)
    return keras.Model(inputs, layers.Dense(3, name="last")(hidden))


@pytest.mark.parametrize("make", [whole_backbone, nested_backbone])
def test_layers_that_only_their_model_can_rebuild(make, tmp_path):
    dense = make()
    dense.get_layer(
        "head" if make is whole_backbone else "last"
    ).trainable = False
    x = data(3, 4)
    before = dense.get_weights()
    np.testing.assert_allclose(kft.sparsify(dense, 0.0)(x), dense(x), atol=1e-6)
    sparse = kft.sparsify(dense, 0.5, seed=0)
    assert "unsaid/kernel" in [r.name for r in sparse.masked_kernels]
    loaded, plain = reloaded(sparse, tmp_path), kft.strip(sparse)
    pruned = kft.prune(loaded, 0.6)
    for model in (loaded, plain, reloaded(plain, tmp_path), kft.strip(loaded)):
        np.testing.assert_allclose(model(x), sparse(x), atol=1e-6)
    for model in (loaded, pruned):
        assert paths(model) == paths(sparse)
        assert trained(model) == trained(sparse)
    assert trained(plain) == trained(dense) == trained(kft.strip(pruned))
    for mine, its in zip(
        pruned.masked_kernels, loaded.masked_kernels, strict=True
    ):
        assert not (mine.mask.numpy() & ~its.mask.numpy()).any()
    for old, new in zip(before, dense.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_such_layers_in_a_graph_of_ones_own_are_refused():
    backbone = Backbone(8)
    outputs = layers.Dense(3)(backbone.output)
    with pytest.raises(
        ValueError,
        match=r"'unsaid' of class Unsaid .*num_patches.*as one layer",
    ):
        kft.sparsify(keras.Model(backbone.input, outputs), 0.5)


def _network():
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, name="first"), layers.Dense(2)]
    )


@pytest.mark.parametrize(
    "copy", [lambda m: kft.prune(m, 0.5), lambda m: kft.sparsify(m, 0.5)]
)
def test_methods_assigned_to_one_object_are_refused(copy):
    model = _network()
    call = model.layers[0].call
    model.layers[0].call = lambda inputs: 2.0 * call(inputs)
    with pytest.raises(ValueError, match=r"'call'.*of layer 'first'"):
        copy(model)
    model = keras.Model(model.inputs, model.outputs)
    model.call = lambda inputs: inputs
    with pytest.raises(ValueError, match=r"overrides \['call'\]"):
        copy(model)


def test_a_sparse_model_with_an_assigned_method_is_not_copied():
    model = kft.sparsify(_network(), 0.5)
    model.train_step = lambda data: {}
    with pytest.raises(ValueError, match=r"\['train_step'\] of model"):
        kft.prune(model, 0.6)
    kft.strip(model)  # predicts as the model does


def test_strip_names_a_layer_that_holds_a_sparse_model():
    inner = kft.sparsify(_network(), 0.5)
    inputs = keras.Input((5, 4))
    outputs = layers.TimeDistributed(inner, name="each")(inputs)
    model = kft.SparseModel(inputs, outputs)
    with pytest.raises(ValueError, match="'each' contains the SparseModel"):
        kft.strip(model)
