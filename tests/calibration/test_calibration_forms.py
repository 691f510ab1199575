"""Calibration of binary, per-pixel and per-token predictions."""

import keras
import numpy as np
import pytest
import scipy.optimize
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import log_loss

import keras_freetickets as kft
from keras_freetickets import calibration

pytestmark = pytest.mark.usefixtures("eagerly")

NAMES = ["temperature", "vector", "isotonic"]
IGNORED = -1
GENERATOR = np.random.default_rng(0)
LOGIT = 2 * GENERATOR.normal(size=(500, 1)).astype("float32")


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def softmax(z):
    z = np.exp(z - z.max(-1, keepdims=True))
    return z / z.sum(-1, keepdims=True)


# Too sure by a factor of 2, and shifted.
LABEL = (GENERATOR.uniform(size=500) < sigmoid(LOGIT[:, 0] / 2 + 0.4)).astype(
    int
)
MAP_LOGIT = 3 * GENERATOR.normal(size=(20, 4, 5, 3)).astype("float32")
CHANCES = softmax(MAP_LOGIT / 2).cumsum(-1)
MAP_LABEL = (GENERATOR.uniform(size=(20, 4, 5, 1)) > CHANCES).sum(-1)
MAP_LABEL = np.where(
    GENERATOR.uniform(size=MAP_LABEL.shape) < 0.3,
    IGNORED,
    np.minimum(MAP_LABEL, 2),
)


def _array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def _loss(p):
    return log_loss(LABEL, p.astype("float64"))


def test_temperature_of_a_column_against_scipy():
    best = scipy.optimize.minimize_scalar(
        lambda t: _loss(sigmoid(LOGIT[:, 0] / t)),
        bounds=(0.1, 20),
        method="bounded",
        options={"xatol": 1e-8},
    )
    for from_logits, given in ((True, LOGIT), (False, sigmoid(LOGIT))):
        scaling = calibration.TemperatureScaling(from_logits=from_logits)
        scaling.fit(LABEL, given)
        assert scaling.temperature == pytest.approx(best.x, rel=1e-3)
        found = _array(scaling(given))
        assert found.shape == (500, 1)
        np.testing.assert_allclose(
            found, sigmoid(LOGIT / scaling.temperature), atol=1e-5
        )


def test_vector_of_a_column_is_platt_scaling():
    """A slope and a shift of the logit, without a penalty worth a name."""
    best = scipy.optimize.minimize(
        lambda v: _loss(sigmoid(v[0] * LOGIT[:, 0] + v[1])), [1, 0]
    )
    scaling = calibration.VectorScaling(penalty=1e-9, from_logits=True)
    found = _array(scaling.fit(LABEL, LOGIT)(LOGIT))
    slope, shift = best.x
    np.testing.assert_allclose(found, sigmoid(slope * LOGIT + shift), atol=1e-4)


def test_isotonic_of_a_column_against_scikit_learn():
    p = sigmoid(LOGIT)
    curve = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    expected = curve.fit(p[:, 0].astype("float64"), LABEL).predict(p[:, 0])
    found = _array(calibration.IsotonicCalibration().fit(LABEL, p)(p))
    # Curves are steep between neighbours: there the last bit shows.
    close = np.isclose(found[:, 0], expected, atol=1e-4)
    assert close.mean() > 0.98


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("from_logits", [False, True])
def test_maps_are_rows(name, from_logits):
    """Fitted to the pixels that count, and applied to all."""
    given = MAP_LOGIT if from_logits else softmax(MAP_LOGIT)
    counted = MAP_LABEL != IGNORED
    rows = calibration.get(name, from_logits)
    rows.fit(MAP_LABEL[counted], given[counted])
    maps = calibration.get(name, from_logits)
    spoilt = np.where(counted[..., None], given, np.nan)
    maps.fit(MAP_LABEL, spoilt, ignore_class=IGNORED)
    expected = _array(rows(given.reshape(-1, 3))).reshape(given.shape)
    np.testing.assert_allclose(_array(maps(given)), expected, atol=1e-6)


@pytest.mark.parametrize(
    "labels, message",
    [
        (np.full(500, IGNORED), "examples of two classes or more"),
        (np.full(500, 1), "examples of two classes or more"),
        (np.full(500, 2), r"integers in \[0, 2\)"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_labels_that_tell_nothing(name, labels, message):
    with pytest.raises(ValueError, match=message):
        calibration.get(name, True).fit(labels, LOGIT, ignore_class=IGNORED)


def binary(seed=0, activation="sigmoid", dtype=None):
    """Passes on a logit of its own, in one column."""
    model = keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(1, activation=activation, dtype=dtype),
        ]
    )
    noise = np.random.default_rng(seed).normal()
    kernel = np.array([[1 + 0.1 * noise]])
    model.layers[0].set_weights([kernel, np.array([0.1 * noise])])
    return model


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["single", "pool_first", "members_first"])
def test_a_binary_model(name, kind, tmp_path):
    if kind == "single":
        model, order = binary(), "pool_first"
    else:
        model, order = kft.EnsembleModel([binary(i) for i in range(3)]), kind
    calibrated = calibration.calibrate(model, LOGIT, LABEL, name, order)
    p = calibrated.predict(LOGIT, verbose=0)
    assert p.shape == (500, 1)
    before = model.predict(LOGIT, verbose=0)
    assert _loss(p[:, 0]) < _loss(before[:, 0]) - 0.02
    # 500 examples by 64: a ragged batch at the end.
    logs = calibrated.evaluate(
        LOGIT, LABEL, batch_size=64, verbose=0, return_dict=True
    )
    # Keras clips probabilities at 1e-7, scikit-learn does not.
    clipped = np.clip(p[:, 0], 1e-7, 1 - 1e-7)
    assert logs["nll"] == pytest.approx(_loss(clipped), rel=1e-3)
    assert logs["ece"] < 0.1
    calibrated.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.predict(LOGIT, verbose=0), p, atol=1e-6)


def test_binary_logits_and_half_precision():
    wanted = calibration.calibrate(binary(), LOGIT, LABEL).calibrators[0]
    logits = calibration.calibrate(binary(activation=None), LOGIT, LABEL)
    (layer,) = logits.calibrators
    assert layer.from_logits and not wanted.from_logits
    assert layer.temperature == pytest.approx(wanted.temperature, rel=1e-3)
    half = calibration.calibrate(binary(dtype="bfloat16"), LOGIT, LABEL)
    (layer,) = half.calibrators
    assert not layer.from_logits
    assert layer.temperature == pytest.approx(wanted.temperature, rel=0.2)


def segmenter(seed=0):
    model = keras.Sequential(
        [
            keras.Input((4, 5, 3)),
            keras.layers.Conv2D(3, 1, activation="softmax"),
        ]
    )
    noise = np.random.default_rng(seed).normal(size=(1, 1, 3, 3))
    kernel = np.eye(3)[None, None] + 0.1 * noise
    model.layers[0].set_weights([kernel, np.zeros(3)])
    model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(ignore_class=IGNORED)
    )
    return model


@pytest.mark.parametrize("order", ["pool_first", "members_first"])
def test_an_ensemble_of_segmenters(order, tmp_path):
    """The label that its members ignored is ignored here as well."""
    ensemble = kft.EnsembleModel([segmenter(i) for i in range(2)])
    calibrated = calibration.calibrate(
        ensemble, MAP_LOGIT, MAP_LABEL, order=order
    )
    assert calibrated.ignore_class == IGNORED
    counted = MAP_LABEL != IGNORED
    logs = calibrated.evaluate(
        MAP_LOGIT, MAP_LABEL, verbose=0, return_dict=True
    )
    p = calibrated.predict(MAP_LOGIT, verbose=0)
    own = np.take_along_axis(p, np.where(counted, MAP_LABEL, 0)[..., None], -1)[
        ..., 0
    ]
    expected = -np.log(own[counted]).mean()
    assert logs["nll"] == pytest.approx(expected, rel=1e-4)
    before = ensemble.evaluate(
        MAP_LOGIT, MAP_LABEL, verbose=0, return_dict=True
    )
    assert logs["nll"] < before["nll"] - 0.05
    calibrated.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.ignore_class == IGNORED
    np.testing.assert_allclose(
        again.evaluate(MAP_LOGIT, MAP_LABEL, verbose=0),
        calibrated.evaluate(MAP_LOGIT, MAP_LABEL, verbose=0),
        rtol=1e-6,
    )


def test_masked_temperature_of_a_binary_model():
    calibrated = calibration.calibrate(
        binary(), LOGIT, LABEL, input_mask_ratio=0.3, num_draws=2
    )
    assert calibrated.calibrators[0].temperature > 1


@pytest.mark.parametrize("kind", ["single", "pool_first", "members_first"])
def test_padded_tokens_stay_masked(kind):
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            keras.layers.Embedding(5, 3, mask_zero=True),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    order = "pool_first" if kind == "single" else kind
    if kind != "single":
        model = kft.EnsembleModel([model, model])
    tokens = np.array([[1, 2, 3, 0], [2, 0, 0, 0]])
    y = np.array([[0, 1, 2, -1], [1, -1, -1, -1]])
    calibrated = calibration.calibrate(
        model, tokens, y, "vector", order, ignore_class=-1
    )
    p = calibrated.predict(tokens, verbose=0)
    # Padded tokens have a label here, but the mask says that they are none.
    y = np.maximum(y, 0)
    own = np.take_along_axis(p, y[..., None], -1)[..., 0][tokens > 0]
    logs = calibrated.evaluate(tokens, y, verbose=0, return_dict=True)
    assert logs["nll"] == pytest.approx(-np.log(own).mean(), rel=1e-4)
    assert logs["loss"] == pytest.approx(logs["nll"], rel=1e-4)


@pytest.mark.parametrize("kind", ["list", "dict", "dict of one"])
def test_several_outputs_are_told_how(kind):
    inputs = keras.Input((1,))
    dense = [keras.layers.Dense(2)(inputs) for _ in range(2)]
    outputs = {
        "list": dense,
        "dict": {"one": dense[0], "two": dense[1]},
        "dict of one": {"one": dense[0]},
    }[kind]
    model = keras.Model(inputs, outputs)
    with pytest.raises(ValueError, match=r"one array.*model.outputs\[k\]"):
        calibration.calibrate(model, LOGIT, LABEL)
    one = keras.Model(model.inputs, model.outputs[0])
    calibrated = calibration.calibrate(one, LOGIT, LABEL)
    assert calibrated.predict(LOGIT, verbose=0).shape == (500, 2)
