"""`SparsePredictor` beside what Keras' layers and NumPy compute."""

import copy
import sys
import threading

import keras
import numpy as np
import pytest

import keras_freetickets as kft
from keras_freetickets.serving import SparsePredictor

layers = keras.layers


def member(model, seed):
    """The model made sparse, with other values in all of its variables."""
    member = kft.sparsify(model, sparsity=0.6, seed=seed)
    rng = np.random.default_rng(seed)
    for variable in member.variables:
        name = variable.path.split("/")[-1]
        if name in ("bias", "beta", "moving_mean", "gamma", "moving_variance"):
            values = rng.uniform(0.3, 1.7, variable.shape)
            variable.assign(values.astype("float32"))
    return member


def ensemble_of(*chain, shape=(20,), **kwargs):
    model = keras.Sequential([keras.Input(shape), *chain])
    settings = {} if "pooling" in kwargs else {"from_logits": True}
    settings.update(kwargs)
    return kft.EnsembleModel([member(model, i) for i in range(2)], **settings)


def inputs(shape=(20,), batch=40):
    rng = np.random.default_rng(7)
    return rng.standard_normal((batch, *shape)).astype("float32")


def check(ensemble, x, predictor=None):
    predictor = predictor or SparsePredictor.from_ensemble(ensemble)
    pooled, members = predictor.predict_with_members(x)
    wanted = keras.ops.convert_to_numpy(ensemble._member_probabilities(x))
    np.testing.assert_allclose(members, wanted, rtol=2e-5, atol=2e-6)
    wanted = keras.ops.convert_to_numpy(ensemble(x))
    np.testing.assert_allclose(pooled, wanted, rtol=2e-5, atol=2e-6)
    one = predictor.predict(x[:1])
    np.testing.assert_allclose(one, wanted[:1], rtol=2e-5, atol=2e-6)
    return predictor


def test_whole_network():
    shape = (4, 4, 2)
    ensemble = ensemble_of(
        layers.Rescaling(1 / 127.5, offset=-1),
        layers.BatchNormalization(),
        layers.Flatten(),
        layers.Dense(30),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Dropout(0.5),
        layers.Dense(20, "relu", use_bias=False),
        layers.BatchNormalization(scale=False),
        layers.Dense(10, "gelu"),
        layers.BatchNormalization(center=False),
        layers.Dense(5),
        shape=shape,
    )
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (40, *shape), "uint8")
    predictor = check(ensemble, x)
    assert predictor.input_shape == shape
    assert (predictor.num_members, predictor.num_outputs) == (2, 5)


@pytest.mark.parametrize("dtype", [None, "float16", "int8"])
def test_packed_file(dtype, tmp_path):
    ensemble = ensemble_of(layers.Dense(30, "relu"), layers.Dense(5))
    path = tmp_path / "ensemble.npz"
    ensemble.save_packed(path, dtype)
    predictor = SparsePredictor.load(path)
    check(kft.EnsembleModel.from_packed(path), inputs(), predictor)


NAMES = [
    *("elu", "exponential", "gelu", "hard_sigmoid", "hard_silu", "leaky_relu"),
    *("linear", "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid"),
    *("silu", "softmax", "softplus", "softsign", "tanh"),
]


@pytest.mark.parametrize("name", NAMES)
def test_activations(name):
    """Inside and at the end, for one example and a batch."""
    chain = [
        keras.Input((20,)),
        layers.Dense(9, name),
        layers.Dense(6),
        layers.Activation(name),
    ]
    model = member(keras.Sequential(chain), 0)
    ensemble = kft.EnsembleModel([model], pooling="mean")
    x = inputs() * (0.2 if name == "exponential" else 3.0)
    x = x.astype("float32")
    predictor = SparsePredictor.from_ensemble(ensemble)
    wanted = keras.ops.convert_to_numpy(model(x))
    for batch in (1, 40):
        found = predictor.predict(x[:batch])
        np.testing.assert_allclose(found, wanted[:batch], rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        layers.ReLU(6.0, negative_slope=0.1, threshold=0.2),
        layers.LeakyReLU(0.3),
        layers.ELU(0.7),
        layers.Softmax(),
        layers.Identity(),
        layers.BatchNormalization(),
        layers.Rescaling(2.0, 0.5),
        layers.Reshape((2, 3)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_after_an_activation(layer):
    tail = [layers.Flatten()] if isinstance(layer, layers.Reshape) else []
    ensemble = ensemble_of(
        layers.Dense(6, "tanh"), layer, *tail, pooling="mean"
    )
    check(ensemble, inputs())


def test_normalization():
    layer = layers.Normalization()
    x = 5 * inputs() + 3
    layer.adapt(x)
    check(ensemble_of(layer, layers.Dense(6)), x)


def test_bare_linear_member():
    """Against numbers worked out: one weight of 2, a bias of 1."""
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    sparse = kft.sparsify(model, sparsity=0.5)
    kernel = np.array([[0.0], [2.0]], "float32")
    (record,) = sparse.masked_kernels
    record.mask.assign(kernel != 0)
    record.kernel.assign(kernel)
    sparse.layers[-1].layer.bias.assign([1.0])
    ensemble = kft.EnsembleModel([sparse], pooling="mean")
    predictor = SparsePredictor.from_ensemble(ensemble)
    assert predictor.active == 1
    np.testing.assert_array_equal(predictor.predict([[5, 3]]), [[7.0]])


@pytest.mark.parametrize(
    "settings, end",
    [
        ({"from_logits": True}, layers.Dense(1)),
        ({"from_logits": False}, layers.Dense(1, "sigmoid")),
        ({"from_logits": False}, layers.Dense(4, "softmax")),
        ({"from_logits": True, "pooling": "mean_logits"}, layers.Dense(4)),
        ({"from_logits": True, "pooling": "mean_logits"}, layers.Dense(1)),
        (
            {"from_logits": False, "pooling": "mean_logits"},
            layers.Dense(4, "softmax"),
        ),
        (
            {"from_logits": False, "pooling": "mean_logits"},
            layers.Dense(1, "sigmoid"),
        ),
        ({"pooling": "mean_and_variance"}, layers.Dense(4, "softplus")),
    ],
)
def test_poolings(settings, end):
    check(ensemble_of(layers.Dense(9, "relu"), end, **settings), inputs())


def test_stripped_functional_members():
    given = keras.Input((20,))
    y = layers.Dense(9, "relu")(given)
    y = layers.Dropout(0.5)(y)
    model = keras.Model(given, layers.Dense(4)(y))
    members = [kft.strip(member(model, i)) for i in range(2)]
    check(kft.EnsembleModel(members, from_logits=True), inputs())


def test_many_examples_in_passes(monkeypatch):
    ensemble = ensemble_of(layers.Dense(4))
    predictor = SparsePredictor.from_ensemble(ensemble)
    x = inputs(batch=100)
    expected = predictor.predict_members(x)
    monkeypatch.setattr(kft.serving.predictor, "_PASS", 32)
    found = predictor.predict_members(x)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert predictor.predict(x[:0]).shape == (0, 4)


def test_two_threads():
    ensemble = ensemble_of(layers.Dense(30, "gelu"), layers.Dense(4))
    predictor = SparsePredictor.from_ensemble(ensemble)
    x = inputs()
    expected = predictor.predict(x)
    wrong = []

    def run():
        for _ in range(50):
            if not np.array_equal(predictor.predict(x), expected):
                wrong.append(1)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def two_inputs():
    a, b = keras.Input((4,)), keras.Input((4,))
    return keras.Model([a, b], layers.Dense(2)(layers.Add()([a, b])))


def skip():
    a = keras.Input((4,))
    return keras.Model(
        a, layers.Dense(2)(layers.Add()([layers.Dense(4)(a), a]))
    )


@keras.saving.register_keras_serializable(package="test_predictor")
def my_activation(x):
    return x


@keras.saving.register_keras_serializable(package="test_predictor")
class Dense(layers.Dense):
    """A class of a user, of the name of one of Keras."""


def sequential(*chain, shape=(4,)):
    return keras.Sequential([keras.Input(shape), *chain])


REFUSED = {
    "skip": (skip, "layer 'add.*' has 2 inputs"),
    "layer normalization": (
        lambda: sequential(layers.LayerNormalization(), layers.Dense(2)),
        "'layer_normalization.*' is of another kind",
    ),
    "convolution": (
        lambda: sequential(
            layers.Conv1D(2, 1), layers.Flatten(), layers.Dense(2), shape=(3, 4)
        ),
        "'conv1d.*' is of another kind",
    ),
    "positions": (
        lambda: sequential(layers.Dense(2), shape=(3, 4)),
        r"'dense.*' gets examples of shape \(3, 4\)",
    ),
    "activation": (
        lambda: sequential(layers.Dense(2, my_activation)),
        "its activation must be one of elu, .*my_activation",
    ),
    "another's class": (
        lambda: sequential(Dense(2)),
        "is of another kind",
    ),
    "no dense layer": (
        lambda: sequential(layers.Rescaling(2.0), layers.Flatten()),
        "there is none",
    ),
    "unknown size": (
        lambda: sequential(layers.Dense(2), shape=(None, 4)),
        "the shape of an example must be known",
    ),
    "first activation": (
        lambda: sequential(layers.ReLU(), layers.Dense(2)),
        "no dense layer comes before it",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_models(name):
    make, message = REFUSED[name]
    ensemble = kft.EnsembleModel([make()], pooling="mean")
    with pytest.raises(ValueError, match=message) as caught:
        SparsePredictor.from_ensemble(ensemble)
    assert "Predict with keras_freetickets.EnsembleModel" in str(caught.value)
    assert "Received: " in str(caught.value)


def test_refused_pooling():
    ensemble = ensemble_of(layers.Dense(2), pooling="mean")
    config = {**ensemble.get_config(), "pooling": {"class_name": "function"}}
    predictor = SparsePredictor(config, ensemble.arrays_by_path())
    assert predictor.predict_members(inputs()).shape == (2, 40, 2)
    with pytest.raises(ValueError, match="`predict_members` returns"):
        predictor.predict(inputs())


def test_refused_inputs():
    predictor = SparsePredictor.from_ensemble(ensemble_of(layers.Dense(2)))
    for x, message in (
        (inputs((21,)), r"`x` must have the shape \(batch, 20\)"),
        (inputs()[0], r"x\.shape=\(20,\)"),
        (np.float32(1), r"x\.shape=\(\)"),
        (np.full((1, 20), "a"), "`x` must be an array of numbers"),
        (np.zeros((1, 20), complex), r"x\.dtype=complex128"),
    ):
        with pytest.raises(ValueError, match=message):
            predictor.predict(x)


def test_refused_files(tmp_path):
    path = tmp_path / "ensemble.npz"
    with pytest.raises(ValueError, match="a file as `EnsembleModel"):
        SparsePredictor.load(path)
    ensemble_of(layers.Dense(2)).save_packed(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="truncated"):
        SparsePredictor.load(path)


def test_wrong_arrays():
    ensemble = ensemble_of(layers.Dense(2))
    arrays = ensemble.arrays_by_path()
    config = copy.deepcopy(ensemble.get_config())
    bias = next(path for path in arrays if path.endswith("/bias"))
    del arrays[bias]
    with pytest.raises(ValueError, match="its variable 'bias' is not found"):
        SparsePredictor(config, arrays)


def test_no_numba(monkeypatch):
    ensemble = ensemble_of(layers.Dense(2))
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(ImportError, match=r"keras_freetickets\[compressed\]"):
        SparsePredictor.from_ensemble(ensemble)
