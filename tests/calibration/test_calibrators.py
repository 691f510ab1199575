import warnings

import keras
import numpy as np
import pytest
import scipy.optimize
from sklearn.isotonic import IsotonicRegression

from keras_freetickets import calibration
from keras_freetickets.metrics import expected_calibration_error

NAMES = ["temperature", "vector", "isotonic"]


def _softmax(logits):
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)


def _calibrated(count=4000, classes=4, seed=0):
    """Logits, and labels drawn from their softmax."""
    generator = np.random.default_rng(seed)
    logits = 1.5 * generator.normal(size=(count, classes))
    chances = _softmax(logits).cumsum(axis=1)
    labels = (generator.uniform(size=(count, 1)) > chances).sum(axis=1)
    return logits, np.minimum(labels, classes - 1)


def _array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def _loss(probabilities, labels):
    own = probabilities[np.arange(len(labels)), labels]
    return -np.log(own).mean()


def test_temperature_by_hand():
    # Logits (z, 0) with z = 4 and right 3 times of 4: the best is
    # softmax(4 / T) = 3/4, so T = 4 / log 3.
    logits = np.tile([4.0, 0.0], (4, 1))
    scaling = calibration.TemperatureScaling(from_logits=True)
    assert scaling.temperature == 1.0
    scaling.fit([0, 0, 0, 1], logits)
    assert scaling.temperature == pytest.approx(4 / np.log(3), rel=1e-6)
    np.testing.assert_allclose(
        _array(scaling(logits)), [[0.75, 0.25]] * 4, atol=1e-6
    )


@pytest.mark.parametrize("factor", [0.4, 1.0, 2.5])
def test_temperature_undoes_a_factor(factor):
    logits, labels = _calibrated(40_000)
    scaling = calibration.TemperatureScaling(from_logits=True)
    scaling.fit(labels, factor * logits)
    assert scaling.temperature == pytest.approx(factor, rel=0.02)


def test_temperature_against_scipy():
    logits, labels = _calibrated(500)
    best = scipy.optimize.minimize_scalar(
        lambda t: _loss(_softmax(3 * logits / t), labels),
        bounds=(0.1, 20),
        method="bounded",
        options={"xatol": 1e-8},
    )
    scaling = calibration.TemperatureScaling(from_logits=True)
    scaling.fit(labels, 3 * logits)
    assert scaling.temperature == pytest.approx(best.x, rel=1e-4)
    of_probabilities = calibration.TemperatureScaling()
    of_probabilities.fit(labels, _softmax(3 * logits))
    assert of_probabilities.temperature == pytest.approx(best.x, rel=1e-4)


def test_vector_against_scipy():
    logits, labels = _calibrated(400, classes=3)
    logits = logits * [2.0, 1.0, 0.5] + [0.5, 0.0, -1.0]

    def loss(point):
        p = _softmax(point[:3] * logits + point[3:])
        distance = np.square(point - [1, 1, 1, 0, 0, 0]).sum()
        return _loss(p, labels) + 1e-4 / 2 * distance

    best = scipy.optimize.minimize(
        loss, [1, 1, 1, 0, 0, 0], method="BFGS", options={"gtol": 1e-8}
    )
    scaling = calibration.VectorScaling(from_logits=True).fit(labels, logits)
    found = np.concatenate([_array(scaling.scale), _array(scaling.shift)])
    np.testing.assert_allclose(found, best.x, atol=1e-4)
    assert loss(found) <= best.fun + 1e-9


def test_isotonic_against_scikit_learn():
    logits, labels = _calibrated(1000, classes=3)
    p = _softmax(2 * logits).astype("float32").astype("float64")
    fresh = _softmax(2 * _calibrated(200, classes=3, seed=1)[0])
    fresh = fresh.astype("float32")
    columns = []
    for k in range(3):
        curve = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        columns.append(curve.fit(p[:, k], labels == k).predict(fresh[:, k]))
    expected = np.stack(columns, axis=1)
    expected /= expected.sum(axis=1, keepdims=True)
    layer = calibration.IsotonicCalibration().fit(labels, p)
    np.testing.assert_allclose(_array(layer(fresh)), expected, atol=1e-4)


def test_isotonic_before_and_beyond_its_fit():
    layer = calibration.IsotonicCalibration()
    p = np.array([[0.2, 0.8], [0.5, 0.5]], "float32")
    np.testing.assert_allclose(_array(layer(p)), p, atol=1e-6)
    # Class 0 is never right below 0.5: both curves are 0 at (0, 0).
    curves = calibration.IsotonicCalibration(from_logits=True)
    curves.fit([1, 0], np.log([[0.2, 0.8], [0.8, 0.2]]))
    np.testing.assert_allclose(
        _array(curves(np.log([[0.2, 0.8]]))), [[0, 1]], atol=1e-5
    )


@pytest.mark.parametrize("name", NAMES)
def test_makes_an_overconfident_model_calibrated(name):
    logits, labels = _calibrated()
    p = _softmax(3 * logits)
    fresh, fresh_labels = _calibrated(seed=1)
    fresh = _softmax(3 * fresh).astype("float32")
    calibrated = _array(calibration.get(name).fit(labels, p)(fresh))
    before = expected_calibration_error(fresh_labels, fresh)
    after = expected_calibration_error(fresh_labels, calibrated)
    assert before > 0.15 and after < 0.04
    np.testing.assert_allclose(calibrated.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 7.0])
def test_a_temperature_changes_no_choice(temperature):
    logits, labels = _calibrated(300)
    scaling = calibration.TemperatureScaling(from_logits=True)
    scaling.fit(labels, logits * temperature)
    chosen = _array(scaling(logits)).argmax(axis=1)
    np.testing.assert_array_equal(chosen, logits.argmax(axis=1))


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded(name, tmp_path):
    logits, labels = _calibrated(300)
    p = _softmax(2 * logits).astype("float32")
    layer = calibration.get(name).fit(labels, p)
    model = keras.Sequential([keras.Input((4,)), layer])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        again.predict(p, verbose=0), model.predict(p, verbose=0)
    )
    assert not again.trainable_variables


@pytest.mark.parametrize("name", NAMES)
def test_the_same_twice(name):
    logits, labels = _calibrated(300)
    p = _softmax(logits)
    first = calibration.get(name).fit(labels, p).get_weights()
    second = calibration.get(name).fit(labels, p).get_weights()
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_all_right_ends_at_the_bound_and_says_so():
    logits = 5 * np.eye(3)[[0, 1, 2, 0]]
    scaling = calibration.TemperatureScaling(from_logits=True)
    with pytest.warns(UserWarning, match="end of its range, 0.01"):
        scaling.fit([0, 1, 2, 0], logits)
    # The penalty keeps the vectors finite.
    vectors = calibration.VectorScaling(from_logits=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vectors.fit([0, 1, 2, 0], logits)
    assert np.isfinite(_array(vectors.scale)).all()


def test_like_a_given_one():
    given = calibration.VectorScaling(penalty=0.5, name="mine")
    made = calibration.get(given, from_logits=True)
    assert made is not given
    assert made.penalty == 0.5 and made.from_logits


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "predictions, labels, message",
    [
        (np.zeros((0, 2)), [], "`y_true` must hold examples of two classes"),
        ([[0.5, 0.5]] * 3, [1, 1, 1], "`y_true` must hold .* two classes"),
        ([[0.5, 0.5]] * 2, [0, 2], r"`y_true` must .* \[0, 2\)"),
        ([[0.5, 0.9]] * 2, [0, 1], "sum to one"),
        ([[0.5, 0.5]] * 2, [0, 1, 1], "`y_true` must have one integer"),
        ([0.5, 0.5], [0, 1], "two classes or more"),
    ],
)
def test_bad_data(name, predictions, labels, message):
    with pytest.raises(ValueError, match=message):
        calibration.get(name).fit(labels, predictions)


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_labels_given_second(name, from_logits):
    for labels in ([0, 1], [[0], [1]], [[1, 0], [0, 1]]):
        with pytest.raises(ValueError, match=r"order .* \(y_true, y_pred\)"):
            calibration.get(name, from_logits).fit([[0.75, 0.25]] * 2, labels)


def test_bad_arguments():
    with pytest.raises(ValueError, match="`calibrator` must be one of"):
        calibration.get("platt")
    with pytest.raises(
        ValueError, match="`penalty` must be a non-negative number"
    ):
        calibration.VectorScaling(penalty=-1)
    with pytest.raises(
        ValueError, match="`num_knots` must be an integer of at least 2"
    ):
        calibration.IsotonicCalibration(num_knots=1)
    with pytest.raises(ValueError, match="`y_pred` must be finite"):
        calibration.get("vector", True).fit([0, 1], [[0.0, np.inf]] * 2)
    layer = calibration.IsotonicCalibration().fit([0, 1], [[0.5, 0.5]] * 2)
    with pytest.raises(ValueError, match="fitted once"):
        layer.fit([0, 1], [[0.5, 0.5]] * 2)
