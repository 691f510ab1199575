"""Ensembles of binary, per-pixel and per-token classifiers."""

import keras
import numpy as np
import pytest
from keras import layers
from sklearn.metrics import accuracy_score
from sklearn.metrics import log_loss

import keras_freetickets as kft

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
IGNORED = 255
GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(37, 6)).astype("float32")
Y = (X[:, 0] + GENERATOR.normal(size=37) > 0).astype(int)
IMAGES = GENERATOR.normal(size=(11, 4, 5, 2)).astype("float32")
MAPS = np.where(
    GENERATOR.uniform(size=(11, 4, 5)) < 0.3,
    IGNORED,
    GENERATOR.integers(3, size=(11, 4, 5)),
)


def binary(seed, activation="sigmoid", dtype=None):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, activation="relu"),
            layers.Dense(1, activation=activation, dtype=dtype),
        ]
    )
    model.compile(
        loss=keras.losses.BinaryCrossentropy(from_logits=activation is None)
    )
    return kft.sparsify(model, 0.3, seed=seed) if dtype is None else model


def segmenter(seed, activation="softmax"):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((None, None, 2)),
            layers.Conv2D(4, 3, padding="same", activation="relu"),
            layers.Conv2D(3, 1, activation=activation),
        ]
    )
    model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(
            from_logits=activation is None, ignore_class=IGNORED
        )
    )
    return model


def predictions_of(members, x):
    return np.stack([m.predict(x, verbose=0) for m in members])


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def softmax(z):
    z = np.exp(z - z.max(-1, keepdims=True))
    return z / z.sum(-1, keepdims=True)


@pytest.fixture(scope="module")
def pair():
    """Ensembles of the same binary members: sigmoids, and logits told."""
    members = [binary(seed, None) for seed in (1, 2, 3)]
    for member in members:  # `sparsify` leaves a model to be compiled
        member.compile(loss=keras.losses.BinaryCrossentropy(from_logits=True))
    return members, kft.EnsembleModel(members)


def test_binary_logits(pair):
    members, ensemble = pair
    assert ensemble.from_logits
    p = sigmoid(predictions_of(members, X))
    np.testing.assert_allclose(ensemble.predict_members(X), p, atol=1e-6)
    mean = p.mean(axis=0)
    np.testing.assert_allclose(ensemble.predict(X, verbose=0), mean, atol=1e-6)
    # 37 examples by 16: a ragged batch at the end.
    for y in (Y, Y[:, None]):
        logs = ensemble.evaluate(
            X, y, batch_size=16, verbose=0, return_dict=True
        )
        expected = log_loss(Y, mean[:, 0].astype("float64"))
        assert logs["nll"] == pytest.approx(expected, rel=1e-4)
        assert logs["loss"] == pytest.approx(expected, rel=1e-4)
        hits = accuracy_score(Y, mean[:, 0] > 0.5)
        assert logs["accuracy"] == pytest.approx(hits)


def test_binary_uncertainty_by_hand(pair):
    members, ensemble = pair
    found = ensemble.predict_uncertainty(X)
    p = sigmoid(predictions_of(members, X)).astype("float64")

    def entropy(q):
        return (-q * np.log(q) - (1 - q) * np.log(1 - q))[..., 0]

    total, own = entropy(p.mean(axis=0)), entropy(p).mean(axis=0)
    votes = (p > 0.5).sum(axis=0)[:, 0]
    expected = {
        "probabilities": p.mean(axis=0),
        "predictive_entropy": total,
        "expected_entropy": own,
        "mutual_information": total - own,
        "variation_ratio": 1 - np.maximum(votes, 3 - votes) / 3,
    }
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5)


def test_binary_members_are_selected(pair):
    members, ensemble = pair
    found = ensemble.select_members(X, Y)
    p = sigmoid(predictions_of(members, X)).astype("float64")[..., 0]
    first = [log_loss(Y, one) for one in p]
    assert found.order[0] == int(np.argmin(first))
    assert found.scores[0] == pytest.approx(min(first), rel=1e-5)
    whole = log_loss(Y, p.mean(axis=0))
    assert found.scores[-1] == pytest.approx(whole, rel=1e-5)
    by_hits = ensemble.select_members(X, Y, metric="accuracy")
    assert by_hits.scores[0] == pytest.approx(
        max(accuracy_score(Y, one > 0.5) for one in p)
    )


@pytest.mark.parametrize("way", ["keras", "compact", "tickets", "export"])
def test_binary_ensembles_are_saved(pair, way, tmp_path):
    members, ensemble = pair
    expected = ensemble.predict(X, verbose=0)
    if way == "export":
        if not ON_TENSORFLOW:
            pytest.skip("SavedModel")
        import tensorflow as tf

        ensemble.export(tmp_path / "saved")
        loaded = tf.saved_model.load(tmp_path / "saved")
        served = loaded.serve(X)
        np.testing.assert_allclose(served, expected, atol=1e-6)
        return
    if way == "keras":
        ensemble.save(tmp_path / "e.keras")
        again = keras.saving.load_model(tmp_path / "e.keras")
    elif way == "compact":
        ensemble.save_packed(tmp_path / "e.npz")
        again = kft.EnsembleModel.from_packed(tmp_path / "e.npz")
    else:
        # A ticket keeps the loss, which says what its outputs are.
        for i, member in enumerate(members):
            member.save(tmp_path / f"ticket_{i}.keras")
        again = kft.EnsembleModel.from_tickets(tmp_path)
    np.testing.assert_allclose(again.predict(X, verbose=0), expected, atol=1e-6)
    assert again.from_logits
    logs = ensemble.evaluate(X, Y, verbose=0)
    np.testing.assert_allclose(again.evaluate(X, Y, verbose=0), logs, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_binary_in_half_precision(dtype):
    members = [binary(seed, dtype=dtype) for seed in (1, 2)]
    ensemble = kft.EnsembleModel(members)
    assert not ensemble.from_logits
    p = np.stack(
        [
            keras.ops.convert_to_numpy(
                keras.ops.cast(m(X, training=False), "float32")
            )
            for m in members
        ]
    )
    np.testing.assert_allclose(ensemble.predict_members(X), p, atol=1e-2)
    found = ensemble.predict_uncertainty(X)
    np.testing.assert_allclose(found["probabilities"], p.mean(0), atol=1e-2)
    logs = ensemble.evaluate(X, Y, verbose=0, return_dict=True)
    wanted = log_loss(Y, p.mean(0)[:, 0].astype("float64"))
    assert logs["nll"] == pytest.approx(wanted, abs=0.02)


@pytest.mark.parametrize("activation", ["softmax", None])
def test_maps(activation, tmp_path):
    members = [segmenter(seed, activation) for seed in (1, 2, 3)]
    ensemble = kft.EnsembleModel(members)
    # Both are told by the members' loss.
    assert ensemble.ignore_class == IGNORED
    assert ensemble.from_logits is (activation is None)
    p = predictions_of(members, IMAGES)
    p = p if activation else softmax(p)
    np.testing.assert_allclose(ensemble.predict_members(IMAGES), p, atol=1e-6)
    counted, mean = MAPS != IGNORED, p.mean(axis=0)
    own = np.take_along_axis(
        mean, np.where(counted, MAPS, 0)[..., None], axis=-1
    )[..., 0]
    logs = ensemble.evaluate(
        IMAGES, MAPS, batch_size=4, verbose=0, return_dict=True
    )
    assert logs["nll"] == pytest.approx(-np.log(own[counted]).mean(), rel=1e-4)
    hits = (mean.argmax(-1) == MAPS)[counted]
    assert logs["accuracy"] == pytest.approx(hits.mean())
    assert ensemble.predict_uncertainty(IMAGES)["variation_ratio"].shape == (
        11,
        4,
        5,
    )
    found = ensemble.select_members(IMAGES, MAPS)
    assert found.scores[-1] == pytest.approx(logs["nll"], rel=1e-4)
    # Images of another size, for the graph is fully convolutional.
    assert ensemble.predict(IMAGES[:, :2], verbose=0).shape == (11, 2, 5, 3)
    ensemble.save(tmp_path / "e.keras")
    again = keras.saving.load_model(tmp_path / "e.keras")
    assert again.ignore_class == IGNORED
    np.testing.assert_allclose(
        again.evaluate(IMAGES, MAPS, verbose=0),
        ensemble.evaluate(IMAGES, MAPS, verbose=0),
        rtol=1e-6,
    )
    assert ensemble.without_members(0).ignore_class == IGNORED
    assert ensemble.with_members(members[0]).ignore_class == IGNORED


def test_all_labels_ignored():
    ensemble = kft.EnsembleModel([segmenter(seed) for seed in (1, 2)])
    nothing = np.full_like(MAPS, IGNORED)
    logs = ensemble.evaluate(IMAGES, nothing, verbose=0, return_dict=True)
    assert logs == {"accuracy": 0.0, "loss": 0.0, "nll": 0.0}
    with pytest.raises(ValueError, match="one label or more that counts"):
        ensemble.select_members(IMAGES, nothing)


def test_padded_tokens_are_not_scored():
    """What an Embedding masks, the ensemble masks as its members do."""

    def tagger(seed):
        keras.utils.set_random_seed(seed)
        model = keras.Sequential(
            [
                keras.Input((4,), dtype="int32"),
                layers.Embedding(5, 3, mask_zero=True),
                layers.Dense(3, activation="softmax"),
            ]
        )
        model.compile(loss="sparse_categorical_crossentropy")
        return model

    members = [tagger(1), tagger(2)]
    ensemble = kft.EnsembleModel(members)
    tokens = np.array([[1, 2, 3, 0], [2, 0, 0, 0]])
    y = np.array([[0, 1, 2, 0], [1, 0, 0, 0]])
    mean = predictions_of(members, tokens).mean(axis=0)
    own = np.take_along_axis(mean, y[..., None], -1)[..., 0][tokens > 0]
    logs = ensemble.evaluate(tokens, y, verbose=0, return_dict=True)
    assert logs["nll"] == pytest.approx(-np.log(own).mean(), rel=1e-4)
    assert logs["loss"] == pytest.approx(logs["nll"], rel=1e-4)


# What is told apart.


def network(activation, loss=None, units=2, seed=0, **kwargs):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6,))
    outputs = layers.Dense(units, activation=activation, name="out")(inputs)
    model = keras.Model(inputs, outputs)
    if loss is not None:
        model.compile(loss=loss, **kwargs)
    return model


def of_mine(y_true, y_pred):
    return keras.ops.mean(keras.ops.square(y_true - y_pred))


class Mine(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return of_mine(y_true, y_pred)


CE = keras.losses.SparseCategoricalCrossentropy
BCE = keras.losses.BinaryCrossentropy


@pytest.mark.parametrize("units", [1, 2])
@pytest.mark.parametrize(
    "loss",
    [
        "mse",
        "mean_absolute_error",
        keras.losses.Huber(),
        keras.losses.mean_squared_error,
        ["mse"],
        {"out": "log_cosh"},
    ],
)
def test_regressors_are_not_taken_for_classifiers(loss, units):
    """A softmax made (0.27, 0.73) of the outputs (-1.19, -0.08)."""
    members = [network(None, loss, units, seed) for seed in (1, 2)]
    assert kft.EnsembleModel(members).pooling == "mean"
    with pytest.raises(ValueError, match="`from_logits` must be given where"):
        kft.EnsembleModel(members, pooling="mean_probability")
    if units == 1:
        sigmoid = kft.EnsembleModel([network("sigmoid", loss, 1)])
        assert sigmoid.pooling == "mean"
    with pytest.raises(ValueError, match="`model` must be a classifier"):
        kft.calibration.calibrate(members[0], X, Y)
    # Whoever knows better says so.
    assert kft.EnsembleModel(members, from_logits=True).from_logits


@pytest.mark.parametrize("units", [1, 2])
@pytest.mark.parametrize(
    "loss", [None, of_mine, Mine(), "kl_divergence", "hinge", "ce", BCE()]
)
def test_where_nothing_tells_it_is_asked(loss, units):
    member = network(None, loss, units)
    message = "`from_logits` must be given where|one class of several"
    with pytest.raises(ValueError, match=message):
        kft.EnsembleModel([member, member])


@pytest.mark.parametrize(
    "activation, loss, units, expected",
    [
        ("softmax", None, 2, False),
        ("softmax", "mse", 2, False),
        ("softmax", of_mine, 2, False),
        ("sigmoid", None, 1, False),
        ("sigmoid", BCE(), 1, False),
        ("sigmoid", Mine(), 1, False),
        (None, CE(from_logits=True), 2, True),
        (None, [CE(from_logits=True)], 2, True),
        (None, {"out": CE(from_logits=True)}, 2, True),
        (None, BCE(from_logits=True), 1, True),
        (None, keras.losses.BinaryFocalCrossentropy(from_logits=True), 1, True),
        (
            None,
            keras.losses.CategoricalFocalCrossentropy(from_logits=True),
            2,
            True,
        ),
    ],
)
def test_what_tells_logits(activation, loss, units, expected):
    member = network(activation, loss, units)
    assert kft.EnsembleModel([member]).from_logits is expected


@pytest.mark.parametrize(
    "activation, loss, from_logits",
    [
        ("sigmoid", None, None),
        ("sigmoid", "binary_crossentropy", None),
        ("sigmoid", "binary_crossentropy", False),
        (None, BCE(from_logits=True), True),
    ],
)
def test_several_labels_are_told_how(activation, loss, from_logits):
    member = network(activation, loss, 3)
    with pytest.raises(ValueError, match=r"one class of several.*Reshape\(\(3"):
        kft.EnsembleModel([member], from_logits=from_logits)
    # What the sentence advises.
    y = GENERATOR.integers(2, size=(37, 3))
    members = []
    for seed in (1, 2):
        plain = network(activation, loss, 3, seed)
        column = layers.Reshape((3, 1))(plain.output)
        members.append(keras.Model(plain.input, column))
        if loss is not None:
            members[-1].compile(loss=loss)
    ensemble = kft.EnsembleModel(members, from_logits)
    mean = ensemble.predict_members(X).mean(axis=0)
    logs = ensemble.evaluate(X, y, verbose=0, return_dict=True)
    expected = np.mean(
        [log_loss(y[:, k], mean[:, k, 0].astype("float64")) for k in range(3)]
    )
    assert logs["nll"] == pytest.approx(expected, rel=1e-4)


def test_several_outputs_are_told_how():
    inputs = keras.Input((6,))
    outputs = [layers.Dense(2, activation="softmax")(inputs) for _ in range(2)]
    model = keras.Model(inputs, outputs)
    model.compile(loss=["sparse_categorical_crossentropy", "mse"])
    with pytest.raises(ValueError, match=r"one output each.*model.outputs\[k"):
        kft.EnsembleModel([model])
    parts = [keras.Model(model.inputs, model.outputs[k]) for k in range(2)]
    assert kft.EnsembleModel([parts[0]]).num_members == 1


def test_one_output_in_a_dict_or_a_list():
    """Keras returns a dict as one, but an array for a list of one."""
    inputs = keras.Input((6,))
    outputs = layers.Dense(2, activation="softmax")(inputs)
    named = keras.Model(inputs, {"kind": outputs})
    with pytest.raises(ValueError, match=r"not a dict.*dict of \['kind'\]"):
        kft.EnsembleModel([named])
    listed = kft.EnsembleModel([keras.Model(inputs, [outputs])])
    assert listed.predict(X, verbose=0).shape == (37, 2)
    named = kft.EnsembleModel([keras.Model(named.inputs, named.outputs[0])])
    np.testing.assert_allclose(
        named.predict(X, verbose=0), listed.predict(X, verbose=0), rtol=1e-6
    )


def test_a_softmax_that_was_reshaped_since_tells_nothing():
    inputs = keras.Input((6,))
    outputs = layers.Dense(6, activation="softmax")(inputs)
    model = keras.Model(inputs, layers.Reshape((2, 3))(outputs))
    with pytest.raises(ValueError, match="`from_logits` must be given"):
        kft.EnsembleModel([model])


def test_logits_of_lower_resolution():
    inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(3, 1)(inputs)
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    model = keras.Model(inputs, x)
    model.compile(loss=CE(from_logits=True, ignore_class=-1))
    ensemble = kft.EnsembleModel([model])
    assert ensemble.from_logits and ensemble.ignore_class == -1


def test_a_ticket_of_a_loss_that_is_not_known(tmp_path):
    member = network(None, Mine())
    member.save(tmp_path / "ticket_0.keras")
    with pytest.raises(ValueError, match="`from_logits` must be given"):
        kft.EnsembleModel.from_tickets(tmp_path)
    found = kft.EnsembleModel.from_tickets(tmp_path, from_logits=True)
    assert found.from_logits
    regressor = network(None, "mse")
    regressor.save(tmp_path / "ticket_0.keras")
    assert kft.EnsembleModel.from_tickets(tmp_path).pooling == "mean"
