import json
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
from backends import ON_NEW_JAX
from keras import layers

import keras_freetickets as kft


def member(seed, units=8, classes=3, shape=(6, 6, 1), activation="softmax"):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(units, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(classes, activation=activation),
        ]
    )
    norm = model.layers[1]
    norm.moving_mean.assign(np.full(4, 0.1 * seed))
    return kft.sparsify(model, 0.5, seed=seed, mask_initializer="random")


@pytest.fixture(scope="module")
def members():
    return [member(seed) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def ensemble(members):
    return kft.EnsembleModel(members)


@pytest.fixture(scope="module")
def x():
    generator = np.random.default_rng(0)
    return generator.normal(size=(10, 6, 6, 1)).astype("float32")


def called(model, x):
    """What `predict` returns, without its compilation."""
    return keras.ops.convert_to_numpy(model(x))


def mean_of(members, x):
    return np.mean([called(m, x) for m in members], axis=0)


def test_mean_of_probabilities(ensemble, members, x):
    expected = mean_of(members, x)
    np.testing.assert_allclose(
        ensemble.predict(x, verbose=0), expected, atol=1e-6
    )
    assert not ensemble.trainable_variables


def test_members_keep_their_own_statistics(ensemble, members, x):
    stacked = ensemble.predict_members(x)
    assert stacked.shape == (3, 10, 3)
    for i, model in enumerate(members):
        expected = model.predict(x, verbose=0)
        np.testing.assert_allclose(stacked[i], expected, atol=1e-6)
        again = ensemble.member(i)
        np.testing.assert_array_equal(again.predict(x, verbose=0), expected)
        np.testing.assert_array_equal(
            again.masked_kernels[0].mask.numpy(),
            model.masked_kernels[0].mask.numpy(),
        )


def test_evaluate_scores_what_it_returns(ensemble, members, x):
    y = np.arange(10) % 3
    scores = ensemble.evaluate(x, y, verbose=0, return_dict=True)
    mean = mean_of(members, x)
    nll = -np.log(mean[np.arange(10), y]).mean()
    np.testing.assert_allclose(scores["nll"], nll, rtol=1e-5)
    np.testing.assert_allclose(scores["loss"], nll, rtol=1e-5)
    accuracy = (mean.argmax(-1) == y).mean()
    np.testing.assert_allclose(scores["accuracy"], accuracy, rtol=1e-6)


def test_logits(x):
    models = [member(seed, activation=None) for seed in (1, 2)]
    logits = [called(model, x) for model in models]
    exp = [np.exp(z - z.max(-1, keepdims=True)) for z in logits]
    expected = np.mean([e / e.sum(-1, keepdims=True) for e in exp], axis=0)
    told = kft.EnsembleModel(models, from_logits=True)
    with pytest.raises(ValueError, match="`from_logits` must be given where"):
        kft.EnsembleModel(models)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    for model in models:
        model.compile(loss=loss)
    for ensemble in (told, kft.EnsembleModel(models)):
        assert ensemble.from_logits
        np.testing.assert_allclose(
            ensemble.predict(x, verbose=0), expected, atol=1e-6
        )


def test_save_and_load(ensemble, x, tmp_path):
    expected = ensemble.predict(x, verbose=0)
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.saving.load_model(tmp_path / "ensemble.keras")
    assert isinstance(loaded, kft.EnsembleModel)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)
    scores = loaded.evaluate(x, np.zeros(10), verbose=0, return_dict=True)
    assert set(scores) == {"accuracy", "loss", "nll"}
    ensemble.save_weights(tmp_path / "e.weights.h5")
    other = kft.EnsembleModel([member(seed) for seed in (4, 5, 6)])
    other.load_weights(tmp_path / "e.weights.h5")
    np.testing.assert_array_equal(other.predict(x, verbose=0), expected)


@pytest.mark.skipif(ON_NEW_JAX, reason="TensorFlow 2.21 cannot read it")
def test_saved_model_without_this_package(ensemble, x, tmp_path):
    ensemble.export(str(tmp_path / "saved"))
    np.save(tmp_path / "x.npy", x)
    script = """
        import sys
        import numpy as np
        import tensorflow as tf

        model = tf.saved_model.load("saved")
        serve = model.signatures["serving_default"]
        x = np.load("x.npy")
        (name,) = serve.structured_input_signature[1]
        whole = list(serve(**{name: tf.constant(x)}).values())[0].numpy()
        one = list(serve(**{name: tf.constant(x[:1])}).values())[0].numpy()
        np.testing.assert_allclose(whole[:1], one, atol=1e-6)
        assert not [m for m in sys.modules if m.startswith("keras_free")]
        np.save("y.npy", whole)
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    np.testing.assert_allclose(
        np.load(tmp_path / "y.npy"), ensemble.predict(x, verbose=0), atol=1e-5
    )


def test_from_tickets(members, x, tmp_path):
    for i, model in enumerate(members):
        model.save(tmp_path / f"ticket_{i}.keras")
    every = kft.EnsembleModel.from_tickets(tmp_path)
    np.testing.assert_allclose(
        every.predict(x, verbose=0), mean_of(members, x), atol=1e-6
    )
    index = {"tickets": [{"file": "ticket_2.keras"}]}
    (tmp_path / "tickets.json").write_text(json.dumps(index))
    assert kft.EnsembleModel.from_tickets(tmp_path).num_members == 1
    paths = [tmp_path / "ticket_0.keras", tmp_path]
    assert kft.EnsembleModel.from_tickets(paths).num_members == 2


def test_missing_or_damaged_tickets(members, tmp_path):
    with pytest.raises(ValueError, match="`source` must be a ticket or a dir"):
        kft.EnsembleModel.from_tickets(tmp_path)
    (tmp_path / "ticket_0.keras").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"cannot be read: .*ticket_0.keras"):
        kft.EnsembleModel.from_tickets(tmp_path)


@pytest.mark.parametrize(
    "others, message",
    [
        ([], "at least one"),
        ([{}, {"classes": 4}], "agree in the shapes of their outputs"),
        ([{}, {"shape": (8, 8, 1)}], "agree in the shapes of their inputs"),
        ([{}, {"units": 9}], "same architecture"),
        ([{"activation": "tanh"}], "`from_logits` must be given"),
    ],
)
def test_refused(others, message):
    models = [
        member(0, **other) if isinstance(other, dict) else other
        for other in others
    ]
    with pytest.raises(ValueError, match=message):
        kft.EnsembleModel(models)


def test_arguments_of_a_wrong_type(ensemble, members):
    with pytest.raises(ValueError, match="`members` must be a list"):
        kft.EnsembleModel(members[0])
    with pytest.raises(ValueError, match="`from_logits` must be True"):
        kft.EnsembleModel(members, from_logits="no")
    with pytest.raises(ValueError, match="`source` must be the path"):
        kft.EnsembleModel.from_tickets(None)
    for index in (-1, len(members), "x"):
        with pytest.raises(ValueError, match="`index` must be in"):
            ensemble.member(index)


def test_it_cannot_be_trained(ensemble, x):
    with pytest.raises(RuntimeError, match="cannot be trained"):
        ensemble.fit(x, np.zeros(10), verbose=0)


def tail(activation, *more):
    inputs = keras.Input((4,))
    outputs = layers.Dense(3, activation=activation)(inputs)
    for layer in more:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize(
    "model, logits",
    [
        (lambda: tail("softmax", layers.Activation("linear")), False),
        (lambda: tail(None, layers.Softmax()), False),
        (lambda: tail(None, layers.Activation("softmax")), False),
        (lambda: tail(None, layers.Activation("linear")), True),
        (lambda: tail(None, layers.Identity()), True),
    ],
)
def test_logits_are_told_through_layers_that_pass_on(model, logits):
    member = model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
    member.compile(loss=loss)
    assert kft.EnsembleModel([member]).from_logits is logits


def test_activations_are_part_of_the_architecture():
    def network(activation, seed):
        keras.utils.set_random_seed(seed)
        return keras.Sequential(
            [
                keras.Input((4,)),
                layers.Dense(5, activation=activation),
                layers.Dropout(0.1 * seed),
                layers.Dense(3, activation="softmax"),
            ]
        )

    with pytest.raises(ValueError, match="must have the same architecture"):
        kft.EnsembleModel([network("relu", 1), network("tanh", 2)])
    kft.EnsembleModel([network("relu", 1), network("relu", 2)])


def test_order_of_the_graph_is_part_of_the_architecture():
    def network(swapped):
        inputs = keras.Input((4,))
        a = layers.Dense(4, activation="relu")(inputs)
        b = layers.Dense(4, activation="relu")(a if swapped else inputs)
        outputs = layers.Dense(3, activation="softmax")(a + b)
        return keras.Model(inputs, outputs)

    with pytest.raises(ValueError, match="must have the same architecture"):
        kft.EnsembleModel([network(False), network(True)])
    kft.EnsembleModel([network(True), network(True)])


@pytest.mark.parametrize("one_hot", [False, True])
def test_labels_as_integers_or_one_hot(ensemble, x, one_hot):
    labels = np.arange(len(x)) % 3
    y = np.eye(3)[labels] if one_hot else labels
    scores = ensemble.evaluate(x, y, verbose=0, return_dict=True)
    p = ensemble.predict(x, verbose=0)
    expected = -np.log(p[np.arange(len(x)), labels]).mean()
    np.testing.assert_allclose(scores["nll"], expected, atol=1e-5)
    accuracy = (p.argmax(axis=1) == labels).mean()
    np.testing.assert_allclose(scores["accuracy"], accuracy, atol=1e-6)


@pytest.mark.parametrize("kind", [list, dict])
def test_several_inputs(kind, tmp_path):
    def network(seed):
        keras.utils.set_random_seed(seed)
        a, b = keras.Input((4,), name="a"), keras.Input((2,), name="b")
        hidden = layers.Concatenate()([a, b])
        outputs = layers.Dense(3, activation="softmax")(hidden)
        inputs = [a, b] if kind is list else {"a": a, "b": b}
        return kft.sparsify(keras.Model(inputs, outputs), 0.5, seed=seed)

    members = [network(1), network(2)]
    ensemble = kft.EnsembleModel(members)
    a, b = np.ones((5, 4), "float32"), np.ones((5, 2), "float32")
    inputs = [a, b] if kind is list else {"a": a, "b": b}
    expected = mean_of(members, inputs)
    got = ensemble.predict(inputs, verbose=0)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    if keras.backend.backend() != "tensorflow":
        return
    ensemble.export(tmp_path / "saved")
    import tensorflow as tf

    serve = tf.saved_model.load(str(tmp_path / "saved")).signatures
    (out,) = serve["serving_default"](
        a=tf.constant(a), b=tf.constant(b)
    ).values()
    np.testing.assert_allclose(out.numpy(), expected, atol=1e-6)


def adapted(seed, data):
    keras.utils.set_random_seed(seed)
    norm = layers.Normalization()
    norm.adapt(data)
    inputs = keras.Input((4,))
    outputs = layers.Dense(3, activation="softmax")(norm(inputs))
    return keras.Model(inputs, outputs)


def test_adapted_layers(tmp_path):
    x = np.random.default_rng(0).normal(5, 3, (20, 4)).astype("float32")
    members = [adapted(1, x), adapted(2, x)]
    expected = mean_of(members, x)
    ensemble = kft.EnsembleModel(members)
    ensemble.save(tmp_path / "e.keras")
    loaded = keras.saving.load_model(tmp_path / "e.keras")
    for model in (ensemble, loaded):
        got = model.predict(x, verbose=0)
        np.testing.assert_allclose(got, expected, atol=1e-6)
    one = loaded.member(1).predict(x, verbose=0)
    np.testing.assert_allclose(one, members[1].predict(x, verbose=0), atol=1e-6)
    with pytest.raises(ValueError, match="adapted to the same data"):
        kft.EnsembleModel([members[0], adapted(2, x + 1)])


CALLS = []


@keras.saving.register_keras_serializable(package="test_ensemble")
class Counted(layers.Layer):
    """Notes each time that it is traced, or called eagerly."""

    def call(self, inputs):
        CALLS.append(self.name)
        return inputs


def test_a_second_prediction_of_members_is_not_traced_anew():
    model = keras.Sequential(
        [keras.Input((4,)), Counted(), layers.Dense(3, activation="softmax")]
    )
    ensemble = kft.EnsembleModel([model, model])
    x = np.ones((8, 4), "float32")
    CALLS.clear()
    first = ensemble.predict_members(x)
    assert CALLS
    CALLS.clear()
    second = ensemble.predict_members(x)
    ensemble.predict_uncertainty(x)
    assert not CALLS
    np.testing.assert_array_equal(first, second)


def test_predictions_follow_loaded_weights(tmp_path):
    """Also where the weights of an adapted layer are part of what is traced."""
    x = np.random.default_rng(0).normal(5, 3, (20, 4)).astype("float32")
    mine = kft.EnsembleModel([adapted(1, x), adapted(2, x)])
    other = kft.EnsembleModel([adapted(1, x + 4), adapted(2, x + 4)])
    mine.predict(x, verbose=0), mine.predict_members(x)
    other.save_weights(tmp_path / "e.weights.h5")
    mine.load_weights(tmp_path / "e.weights.h5")
    np.testing.assert_array_equal(
        mine.predict(x, verbose=0), other.predict(x, verbose=0)
    )
    np.testing.assert_array_equal(
        mine.predict_members(x), other.predict_members(x)
    )


def constant(*probabilities, dtype="float32"):
    """A model that returns the same probabilities for any input."""
    model = keras.Sequential(
        [
            keras.Input((1,)),
            layers.Dense(
                len(probabilities),
                activation="softmax",
                kernel_initializer="zeros",
                dtype=dtype,
            ),
        ]
    )
    model.layers[0].bias.assign(np.log(probabilities))
    return model


def entropy(p):
    return -sum(q * np.log(q) for q in p)


def test_uncertainty_by_hand():
    members = [(0.5, 0.25, 0.25), (0.25, 0.5, 0.25), (0.5, 0.25, 0.25)]
    mean = (5 / 12, 1 / 3, 1 / 4)
    ensemble = kft.EnsembleModel([constant(*p) for p in members])
    found = ensemble.predict_uncertainty(np.ones((4, 1)), batch_size=3)
    expected = {
        "probabilities": mean,
        "predictive_entropy": entropy(mean),
        "expected_entropy": 1.5 * np.log(2),
        "mutual_information": entropy(mean) - 1.5 * np.log(2),
        "variation_ratio": 1 / 3,
    }
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert isinstance(found[name], np.ndarray)
        assert len(found[name]) == 4
        for example in found[name]:
            np.testing.assert_allclose(example, value, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_uncertainty_in_half_precision(dtype):
    """Rows whose rounded probabilities do not sum to one."""
    p = np.random.default_rng(0).dirichlet([2] * 40)
    model = constant(*p, dtype=dtype)
    ensemble = kft.EnsembleModel([model, model])
    found = ensemble.predict_uncertainty(np.ones((2, 1)))
    np.testing.assert_allclose(found["probabilities"].sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(
        found["predictive_entropy"], entropy(p), atol=0.05
    )
    np.testing.assert_allclose(found["mutual_information"], 0, atol=1e-6)


def test_uncertainty_of_what_is_no_probability(x):
    with pytest.raises(ValueError, match="`x` must be inputs for which"):
        kft.EnsembleModel([tail("softmax")]).predict_uncertainty(
            np.full((2, 4), np.nan)
        )
    logits = kft.EnsembleModel([member(1, activation=None)], from_logits=False)
    with pytest.raises(ValueError, match="from_logits=False, outputs in"):
        logits.predict_uncertainty(x)


def assert_members(ensemble, expected, x):
    assert ensemble.num_members == len(expected)
    found = ensemble.predict_members(x)
    for probabilities, model in zip(found, expected, strict=True):
        one = called(model, x)
        np.testing.assert_allclose(probabilities, one, atol=1e-6)


def test_with_members(ensemble, members, x, tmp_path):
    more = [member(seed) for seed in (4, 5, 6)]
    for i, model in enumerate(more):
        model.save(tmp_path / f"ticket_{i}.keras")
    first = tmp_path / "ticket_0.keras"
    one = ensemble.with_members(more[0])
    assert_members(one, [*members, more[0]], x)
    assert_members(ensemble.with_members(first), [*members, more[0]], x)
    assert_members(ensemble.with_members(tmp_path), [*members, *more], x)
    both = ensemble.with_members([more[2], str(first)])
    assert_members(both, [*members, more[2], more[0]], x)
    assert both.name == ensemble.name
    assert_members(ensemble, members, x)


def test_members_to_add_are_checked(ensemble, tmp_path):
    for source, match in [
        ([], "`source` must name one ticket or more"),
        (3, "`source` must be the path"),
        ([None], "`source` must be the path"),
        (tmp_path, r"`source` must be a ticket .*\(no ticket is finished th"),
        (
            tmp_path / "x.keras",
            "`source` must be .*the file or directory does not exist",
        ),
        (member(1, classes=4), "`source` must be tickets that agree .* shapes"),
        (member(1, units=9), "`source` must be .*architecture.*member 3"),
    ]:
        with pytest.raises(ValueError, match=match):
            ensemble.with_members(source)


def test_logits_stay_logits(x):
    """Also where it cannot be told by the last activation."""
    models = [member(seed, activation="tanh") for seed in (1, 2, 3)]
    ensemble = kft.EnsembleModel(models[:2], from_logits=True)
    larger = ensemble.with_members(models[2])
    assert larger.from_logits and larger.without_members(0).from_logits
    expected = kft.EnsembleModel(models, True).predict(x, verbose=0)
    np.testing.assert_array_equal(larger.predict(x, verbose=0), expected)


@pytest.mark.parametrize(
    "indices, kept",
    [(0, [1, 2]), ([2, 0], [1]), ([1, 1], [0, 2]), (np.array([2]), [0, 1])],
)
def test_without_members(ensemble, members, x, indices, kept):
    smaller = ensemble.without_members(indices)
    assert_members(smaller, [members[i] for i in kept], x)
    for i, index in enumerate(kept):
        np.testing.assert_array_equal(
            smaller.member(i).masked_kernels[0].mask.numpy(),
            members[index].masked_kernels[0].mask.numpy(),
        )
    assert ensemble.num_members == 3


@pytest.mark.parametrize(
    "indices", [3, -1, [0, 3], [0, 1, 2], "0", None, 1.0, True, [[0]], {}]
)
def test_members_to_remove_are_checked(ensemble, indices):
    with pytest.raises(ValueError, match="`indices` must name members to rem"):
        ensemble.without_members(indices)


def test_adapted_layers_of_other_ensembles():
    x = np.random.default_rng(0).normal(5, 3, (20, 4)).astype("float32")
    members = [adapted(seed, x) for seed in (1, 2, 3)]
    larger = kft.EnsembleModel(members[:2]).with_members(members[2])
    assert_members(larger, members, x)
    assert_members(larger.without_members(0), members[1:], x)
