import exports
import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_freetickets as kft
from keras_freetickets.deployment import plain


def close(model, x=None):
    """Checks that the plain model predicts as the model; returns it."""
    x = exports.examples(16) if x is None else x
    found = plain.plain_model(model)
    np.testing.assert_allclose(
        found.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6
    )
    parts = found._flatten_layers()
    assert not any(isinstance(part, layers.Wrapper) for part in parts)
    return found


@pytest.mark.parametrize("kind", sorted(exports.KINDS))
def test_kinds(kind):
    close(exports.KINDS[kind]())


def body(outputs, activation=None, seed=0):
    keras.utils.set_random_seed(seed)
    hidden = layers.Dense(16, activation="relu")
    last = layers.Dense(outputs, activation=activation)
    return kft.sparsify(
        keras.Sequential([keras.Input((24,)), hidden, last]), 0.5
    )


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("pooling", ["mean_probability", "mean_logits"])
def test_classifiers(outputs, from_logits, pooling):
    activation = "sigmoid" if outputs == 1 else "softmax"
    activation = None if from_logits else activation
    members = [body(outputs, activation, seed) for seed in range(2)]
    close(kft.EnsembleModel(members, from_logits, pooling=pooling))


@pytest.mark.parametrize("pooling", ["mean", "mean_and_variance"])
def test_regressors(pooling):
    members = [body(4, "softplus", seed) for seed in range(2)]
    close(kft.EnsembleModel(members, pooling=pooling))


@keras.saving.register_keras_serializable(package="tests_of_plain")
def largest(members):
    return ops.max(members, axis=0)


def test_a_pooling_of_ones_own(tmp_path):
    members = [body(4, seed=seed) for seed in range(2)]
    found = close(kft.EnsembleModel(members, pooling=largest))
    found.save(tmp_path / "plain.keras")
    again = keras.models.load_model(tmp_path / "plain.keras")
    x = exports.examples(4)
    np.testing.assert_array_equal(found(x), again(x))


def test_a_single_member():
    found = close(kft.EnsembleModel([exports.sparse()]))
    assert found.layers[-1].name == "member_0"


def test_calibrated_members_and_networks():
    x, y = exports.examples(), np.arange(128) % 3
    close(
        kft.calibration.calibrate(
            exports.ensemble(), x, y, order="members_first"
        )
    )
    for model in (exports.sparse(), exports.dense()):
        name = model.name
        close(kft.calibration.calibrate(model, x, y))
        assert model.name == name


def test_mimo():
    network = keras.Sequential(
        [keras.Input((4, 4, 2)), layers.Flatten(), layers.Dense(6)]
    )
    mimo = kft.MIMO(kft.sparsify(network, 0.5), num_members=2)
    x = np.random.default_rng(0).normal(size=(5, 4, 4, 1)).astype("float32")
    close(mimo, x)


def test_several_inputs_by_name():
    def member(seed):
        keras.utils.set_random_seed(seed)
        inputs = {name: keras.Input((3,), name=name) for name in ("b", "a")}
        x = layers.Concatenate()([inputs["b"], inputs["a"]])
        outputs = layers.Dense(4, activation="softmax")(x)
        return kft.sparsify(keras.Model(inputs, outputs), 0.5)

    x = {name: exports.examples(6)[:, :3] + i for i, name in enumerate("ab")}
    close(kft.EnsembleModel([member(0), member(1)]), x)


def test_half_precision_inside():
    with_policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = exports.ensemble()
    finally:
        keras.config.set_dtype_policy(with_policy)
    assert close(model).outputs[0].dtype == "float32"


def test_a_model_is_left_as_it_is():
    model = exports.sparse()
    before = [w.numpy() for w in model.weights]
    found = plain.plain_model(model)
    for weight in found.weights:
        weight.assign(weight.numpy() + 1)
    for old, weight in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, weight)


def test_a_model_without_a_graph_stays():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.last = layers.Dense(2)

        def call(self, inputs):
            return self.last(inputs)

    model = Own()
    model(np.zeros((1, 3)))
    assert plain.plain_model(model) is model


def test_what_no_config_builds_is_not_copied():
    class Unbuilt(keras.Model):
        def __init__(self):
            super().__init__()
            self.last = layers.Dense(2)

        def call(self, inputs):
            return self.last(inputs)

        def get_config(self):
            return {}

        def get_build_config(self):
            return None

        @classmethod
        def from_config(cls, config):
            return cls()

    keras.saving.register_keras_serializable("tests_of_plain")(Unbuilt)
    model = Unbuilt()
    model(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="must be rebuilt by its config"):
        plain.copied(model)


def test_quantized_models_are_copies(recwarn):
    model = exports.dense()
    found = plain.quantized(model)
    assert found.layers[0].quantization_mode == "int8"
    assert model.layers[0].quantization_mode is None
    assert not [w for w in recwarn if "quantize" in str(w.message)]


def test_recurrent_layers_are_unrolled():
    model, x = exports.words()
    stripped = kft.strip(model)
    found = plain.unrolled(stripped)
    assert [la.unroll for la in found.layers if hasattr(la, "unroll")] == [True]
    np.testing.assert_allclose(
        found.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6
    )
    dense = exports.dense()
    assert plain.unrolled(dense) is dense
    words = keras.Input((None, 3))
    open_length = keras.Model(words, layers.LSTM(2)(words))
    assert plain.unrolled(open_length) is open_length


def test_one_network():
    network = plain.one_network(exports.calibrated())
    assert network.count_params() == exports.dense().count_params()


def test_copies():
    model = exports.dense()
    copy = plain.copied(model)
    for own, theirs in zip(copy.weights, model.weights, strict=True):
        np.testing.assert_array_equal(own, theirs)
        own.assign(own.numpy() + 1)
        assert (own.numpy() != theirs.numpy()).all()


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("from_logits", [True, False])
def test_uncertainty_of_classifiers(outputs, from_logits):
    activation = "sigmoid" if outputs == 1 else "softmax"
    activation = None if from_logits else activation
    members = [body(outputs, activation, seed) for seed in range(3)]
    model = kft.EnsembleModel(members, from_logits, pooling="mean_probability")
    x = exports.examples(16)
    found = plain.with_uncertainty(model).predict(x, verbose=0)
    assert sorted(found) == ["members", "mutual_information", "probabilities"]
    wanted = model.predict_uncertainty(x)
    for name in ("probabilities", "mutual_information"):
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-6)
    np.testing.assert_allclose(
        np.swapaxes(found["members"], 0, 1), model.predict_members(x), atol=1e-6
    )


@pytest.mark.parametrize("pooling", ["mean", "mean_and_variance"])
def test_uncertainty_of_regressors(pooling):
    members = [body(4, "softplus", seed) for seed in range(3)]
    model = kft.EnsembleModel(members, pooling=pooling)
    x = exports.examples(16)
    found = plain.with_uncertainty(model).predict(x, verbose=0)
    wanted = model.predict_uncertainty(x)
    for name in ("mean", "variance"):
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-6)


def test_certain_members_have_no_disagreement():
    """0 log 0, and differences of equal entropies."""
    members = [body(3, "softmax", 0) for _ in range(2)]
    for member in members:
        (last,) = (la for la in member.layers if getattr(la, "units", 0) == 3)
        last.bias.assign([200.0, 0.0, -200.0])
    model = kft.EnsembleModel(members)
    found = plain.with_uncertainty(model).predict(
        exports.examples(4), verbose=0
    )
    np.testing.assert_array_equal(found["mutual_information"], np.zeros(4))


def test_whose_uncertainty_is_not_known():
    members = [body(4, seed=seed) for seed in range(2)]
    for model in (members[0], kft.EnsembleModel(members, pooling=largest)):
        with pytest.raises(ValueError, match="an EnsembleModel whose pooling"):
            plain.with_uncertainty(model)
