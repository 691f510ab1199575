"""Ensembles of regressors, and pooling of one's own."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_freetickets as kft
from keras_freetickets import recipes
from keras_freetickets.ensembles import GaussianNegativeLogLikelihood
from keras_freetickets.ensembles import pooling

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 5)).astype("float32")
Y = X[:, :1] + 0.1 * RNG.normal(size=(50, 1)).astype("float32")


def regressor(seed, loss="mse", outputs=1):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(8, activation="relu"),
            layers.Dense(outputs),
        ]
    )
    model.compile("sgd", loss)
    return model


def with_variance(seed, loss=None):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((5,))
    mean = layers.Dense(2)(inputs)
    variance = layers.Dense(2, activation="softplus")(inputs)
    model = keras.Model(inputs, layers.Concatenate()([mean, variance]))
    model.compile("sgd", loss or GaussianNegativeLogLikelihood())
    return model


def constant(mean, variance):
    """A model that predicts these numbers for every input."""
    inputs = keras.Input((5,))
    outputs = layers.Dense(2, kernel_initializer="zeros")(inputs)
    model = keras.Model(inputs, outputs)
    model.layers[-1].bias.assign([mean, variance])
    return model


@keras.saving.register_keras_serializable(package="test_regression")
def median(outputs):
    return ops.median(outputs, axis=0)


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_mean_of_regressors(outputs):
    members = [regressor(seed, outputs=outputs) for seed in range(3)]
    ensemble = kft.EnsembleModel(members)
    assert ensemble.pooling == "mean" and ensemble.from_logits is None
    assert not ensemble.is_classifier and not ensemble.returns_probabilities
    stacked = np.stack([m.predict(X, verbose=0) for m in members])
    np.testing.assert_allclose(
        ensemble.predict_members(X), stacked, rtol=1e-5, atol=1e-6
    )
    mean = stacked.mean(axis=0)
    np.testing.assert_allclose(
        ensemble.predict(X, verbose=0), mean, rtol=1e-5, atol=1e-6
    )
    y = np.repeat(Y, outputs, axis=1)
    logs = ensemble.evaluate(X, y, verbose=0, return_dict=True)
    expected = np.mean((mean - y) ** 2)
    assert logs["mean_squared_error"] == pytest.approx(expected, rel=1e-4)
    found = ensemble.predict_uncertainty(X)
    assert sorted(found) == ["mean", "variance"]
    np.testing.assert_allclose(found["variance"], stacked.var(0), rtol=1e-3)


def test_the_law_of_total_variance_by_hand():
    """Means 1 and 3 spread by 1; variances 0.5 and 1.5 have the mean 1."""
    members = [constant(1.0, 0.5), constant(3.0, 1.5)]
    ensemble = kft.EnsembleModel(members, pooling="mean_and_variance")
    np.testing.assert_allclose(ensemble.predict(X[:1], verbose=0), [[2.0, 2.0]])
    found = ensemble.predict_uncertainty(X[:1])
    found = {name: float(value[0, 0]) for name, value in found.items()}
    assert found == {
        "mean": 2.0,
        "variance": 2.0,
        "expected_variance": 1.0,
        "variance_of_means": 1.0,
    }
    # 1/2 (log(2 pi 2) + (3 - 2)^2 / 2), and the squared error 1.
    logs = ensemble.evaluate(X[:4], 3 * np.ones(4), verbose=0, return_dict=True)
    loss = 0.5 * (np.log(4 * np.pi) + 0.5)
    assert logs["loss"] == pytest.approx(loss, rel=1e-5)
    assert logs["mean_squared_error"] == pytest.approx(1.0)


def test_a_mixture_has_that_variance():
    """As the variance of draws from the members in turn."""
    means, variances = np.array([-1.0, 0.5, 4.0]), np.array([0.2, 1.0, 3.0])
    stacked = np.stack([means, variances], axis=-1)[:, None]
    mean, variance = ops.convert_to_numpy(pooling.mean_and_variance(stacked))[0]
    draws = RNG.normal(means, np.sqrt(variances), size=(200_000, 3))
    assert mean == pytest.approx(draws.mean(), abs=0.02)
    assert variance == pytest.approx(draws.var(), rel=0.02)


@pytest.mark.parametrize(
    "make, name",
    [
        (regressor, None),
        (with_variance, None),
        (regressor, "function"),
        (regressor, "mean"),
    ],
)
def test_saved_packed_and_exported(tmp_path, make, name):
    members = [make(seed) for seed in range(3)]
    wanted = median if name == "function" else name
    ensemble = kft.EnsembleModel(members, pooling=wanted)
    predicted = ops.convert_to_numpy(ensemble(X))
    ensemble.save(tmp_path / "ensemble.keras")
    ensemble.save_packed(tmp_path / "ensemble.npz")
    loaded = keras.saving.load_model(tmp_path / "ensemble.keras")
    packed = kft.EnsembleModel.from_packed(tmp_path / "ensemble.npz")
    for one in (loaded, packed):
        assert one.pooling == ensemble.pooling
        np.testing.assert_array_equal(ops.convert_to_numpy(one(X)), predicted)
    if name != "function":
        y = np.repeat(Y, 2 if make is with_variance else 1, axis=1)
        whole = ensemble.evaluate(X, y, verbose=0)
        assert loaded.evaluate(X, y, verbose=0) == whole
        assert packed.evaluate(X, y, verbose=0) == whole
    # Members come and go, and the pooling stays.
    assert loaded.with_members(members[0]).pooling == ensemble.pooling
    one = loaded.without_members([0, 2])
    assert one.num_members == 1 and one.pooling == ensemble.pooling


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="reads a SavedModel"
)
def test_exported(tmp_path):
    import tensorflow as tf

    ensemble = kft.EnsembleModel([with_variance(seed) for seed in range(2)])
    ensemble.export(tmp_path / "served")
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(
        served.serve(X), ensemble.predict(X, verbose=0), rtol=1e-5, atol=1e-6
    )


def test_a_function_from_outputs():
    members = [regressor(seed) for seed in range(3)]
    ensemble = kft.EnsembleModel(members, pooling=median)
    stacked = ensemble.predict_members(X)
    np.testing.assert_allclose(
        ensemble.predict(X, verbose=0), np.median(stacked, axis=0), rtol=1e-5
    )
    ensemble.compile(loss="mae")
    expected = np.abs(np.median(stacked, axis=0) - Y).mean()
    found = ensemble.evaluate(X, Y, verbose=0)
    assert found == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="`predict_uncertainty` needs a pool"):
        ensemble.predict_uncertainty(X)
    with pytest.raises(ValueError, match="`select_members` needs a pooling"):
        ensemble.select_members(X, Y)


def test_embeddings_may_change_their_shape():
    """A function may return another number of columns than members do."""
    members = [regressor(seed, outputs=4) for seed in range(2)]

    def both(outputs):
        return ops.concatenate([outputs[0], outputs[1]], axis=-1)

    ensemble = kft.EnsembleModel(members, pooling=both)
    assert ensemble.compute_output_shape((None, 5)) == (None, 8)
    assert ensemble.predict(X, verbose=0).shape == (50, 8)


def test_a_function_that_loading_would_not_find(tmp_path):
    ensemble = kft.EnsembleModel([regressor(0)], pooling=lambda y: y[0])
    with pytest.raises(ValueError, match="function registered with Keras"):
        ensemble.save_packed(tmp_path / "ensemble.npz")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="function registered with Keras"):
        ensemble.save(tmp_path / "ensemble.keras")


def classifier(seed, activation):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [keras.Input((5,)), layers.Dense(3, activation=activation)]
    )


def test_the_mean_of_logits():
    """A geometric mean of probabilities, however members are written."""
    logits = [classifier(seed, None) for seed in range(3)]
    soft = [classifier(seed, "softmax") for seed in range(3)]
    pool = {"pooling": "mean_logits"}
    of_logits = kft.EnsembleModel(logits, from_logits=True, **pool)
    of_softmax = kft.EnsembleModel(soft, **pool)
    members = of_softmax.predict_members(X)
    expected = np.exp(np.log(members).mean(axis=0))
    expected /= expected.sum(-1, keepdims=True)
    for ensemble in (of_logits, of_softmax):
        assert ensemble.is_classifier and ensemble.returns_probabilities
        found = ensemble.predict(X, verbose=0)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
        assert len(ensemble.evaluate(X, np.zeros(50, int), verbose=0)) == 3


def test_the_mean_of_logits_of_one_column():
    stacked = np.array([[[0.9]], [[0.2]], [[0.6]]], "float32")
    logit = np.log(stacked / (1 - stacked))
    expected = 1 / (1 + np.exp(-logit.mean(axis=0)))
    for given, from_logits in ((stacked, False), (logit, True)):
        found = pooling.mean_of_logits(
            ops.convert_to_tensor(given), from_logits
        )
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_classifiers_predict_what_they_did():
    members = [classifier(seed, "softmax") for seed in range(3)]
    ensemble = kft.EnsembleModel(members)
    assert ensemble.pooling == "mean_probability"
    before = {**ensemble.get_config()}
    del before["pooling"]  # as files of earlier versions have it
    older = kft.EnsembleModel.from_config(before)
    older.set_weights(ensemble.get_weights())
    older._derive()
    stacked = ensemble.predict_members(X)
    np.testing.assert_array_equal(
        older.predict(X, verbose=0), ensemble.predict(X, verbose=0)
    )
    np.testing.assert_allclose(  # one program or two: JAX rounds differently
        ensemble.predict(X, verbose=0), stacked.mean(axis=0), rtol=1e-6
    )


def test_selection_by_squared_error():
    biased = [constant(bias, 0.5) for bias in (2.0, 0.9, -0.9)]
    y = np.zeros((50, 1), "float32")
    ensemble = kft.EnsembleModel(biased, pooling="mean_and_variance")
    selection = ensemble.select_members(X, y)
    assert selection.members == [1, 2] and selection.order == [1, 2, 0]
    expected = [0.9**2, 0.0, (2 / 3) ** 2]
    np.testing.assert_allclose(selection.scores, expected, atol=1e-6)
    with pytest.raises(ValueError, match="`metric` must be"):
        ensemble.select_members(X, y, "accuracy")
    with pytest.raises(ValueError, match="`y` must hold targets in the shape"):
        ensemble.select_members(X, np.zeros((50, 2)))


@pytest.mark.parametrize(
    "members, arguments, message",
    [
        ([regressor(0)], {"pooling": "median"}, "`pooling` must be one of"),
        ([regressor(0)], {"pooling": 3}, "Received: pooling=3"),
        (
            [regressor(0)],
            {"pooling": "mean", "from_logits": True},
            "`from_logits` is for classifiers",
        ),
        (
            [regressor(0)],
            {"pooling": "mean_and_variance"},
            "members that return 1 numbers",
        ),
        (
            [regressor(0), regressor(1, "hinge")],
            {},
            "all classifiers or all regressors",
        ),
        (
            [regressor(0, outputs=4), regressor(1, with_variance(0).loss, 4)],
            {},
            "must all return variances, or none",
        ),
    ],
)
def test_bad_arguments(members, arguments, message):
    with pytest.raises(ValueError, match=message):
        kft.EnsembleModel(members, **arguments)


def test_half_precision_is_pooled_in_float32():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        members = [regressor(seed) for seed in range(2)]
    finally:
        keras.config.set_dtype_policy("float32")
    ensemble = kft.EnsembleModel(members)
    assert ensemble.predict(X, verbose=0).dtype == "float32"


@pytest.mark.parametrize("name", ["dense", "dst", "edst"])
def test_recipes_of_regressors(tmp_path, name):
    recipe = recipes.get(name, num_members=2, monitor="val_loss")
    for setting, value in {
        "epochs": 1,
        "exploration_epochs": 1,
        "refinement_epochs": 1,
        "update_interval": 2,
    }.items():
        if hasattr(recipe, setting):
            setattr(recipe, setting, value)
    data = {"x": X, "y": Y, "validation_data": (X, Y), "batch_size": 10}
    ensemble = recipe.fit(
        lambda seed: regressor(seed),
        lambda model: model.compile("sgd", "mse", run_eagerly=True),
        data,
        tmp_path / "a",
        verbose=0,
    )
    assert ensemble.pooling == "mean" and ensemble.num_members == 2
    if name == "dense":
        with pytest.raises(ValueError, match=r"`compile_model` .*from_logits"):
            recipe.fit(
                lambda seed: regressor(seed),
                lambda model: model.compile("sgd", of_mine, run_eagerly=True),
                data,
                tmp_path / "b",
                verbose=0,
            )
        assert not (tmp_path / "b" / "member_0" / "tickets.json").exists()
        named = recipe.fit(
            lambda seed: regressor(seed),
            lambda model: model.compile("sgd", of_mine),
            data,
            tmp_path / "b",
            verbose=0,
            pooling="mean",
        )
        assert named.pooling == "mean"


def of_mine(y_true, y_pred):
    return ops.square(y_true - y_pred)


@pytest.mark.parametrize(
    "columns, message",
    [(3, "`y_pred` must hold means"), (4, "as many outputs")],
)
def test_shapes_that_do_not_fit_are_refused(columns, message):
    loss = kft.ensembles.GaussianNegativeLogLikelihood()
    with pytest.raises(ValueError, match=message):
        loss(np.zeros((5, 1)), np.ones((5, columns)))
