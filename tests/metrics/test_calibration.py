import keras
import numpy as np
import pytest

from keras_freetickets.metrics import ExpectedCalibrationError
from keras_freetickets.metrics import expected_calibration_error
from keras_freetickets.metrics import reliability_bins


def _reference(probabilities, labels, num_bins, weights=None):
    """Bin by bin, each closed on the right, in float32 as the metric."""
    probabilities = np.asarray(probabilities, "float32")
    weights = np.ones(len(labels)) if weights is None else weights
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    total = 0.0
    for i in range(num_bins):
        low = np.float32(i) / np.float32(num_bins)
        high = np.float32(i + 1) / np.float32(num_bins)
        inside = (confidence > low) & (confidence <= high)
        gap = weights * (correct.astype(float) - confidence)
        total += abs(gap[inside].sum())
    return total / weights.sum()


def _random_predictions(count=500, classes=4, seed=0):
    generator = np.random.default_rng(seed)
    logits = 2.0 * generator.normal(size=(count, classes)).astype("float32")
    exponents = np.exp(logits)
    probabilities = exponents / exponents.sum(axis=1, keepdims=True)
    return logits, probabilities, generator.integers(classes, size=count)


def _value(y_true, y_pred, sample_weight=None, **kwargs):
    metric = ExpectedCalibrationError(**kwargs)
    metric.update_state(y_true, y_pred, sample_weight)
    return float(metric.result())


def test_by_hand():
    # Both 0.75 confident, one right: |0.5 - 0.75|.
    predictions = [[0.75, 0.25], [0.75, 0.25]]
    assert _value([0, 1], predictions) == pytest.approx(0.25)
    # Two bins: (|1 - 0.8| + |0 - 0.6|) / 2.
    predictions = [[0.8, 0.2], [0.6, 0.4]]
    assert _value([0, 1], predictions, num_bins=10) == pytest.approx(0.4)
    assert _value([0, 0], [[1.0, 0.0], [1.0, 0.0]]) == 0.0
    assert _value([1, 1], [[1.0, 0.0], [1.0, 0.0]]) == 1.0


def test_nothing_seen_is_zero():
    assert float(ExpectedCalibrationError().result()) == 0.0


@pytest.mark.parametrize("num_bins", [1, 7, 14, 15, 100])
def test_against_numpy(num_bins):
    _, probabilities, labels = _random_predictions()
    expected = _reference(probabilities, labels, num_bins)
    value = _value(labels, probabilities, num_bins=num_bins)
    assert value == pytest.approx(expected, abs=1e-6)
    value = expected_calibration_error(probabilities, labels, num_bins)
    assert value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("num_bins", [3, 10, 15, 49])
def test_an_edge_belongs_to_the_bin_below(num_bins):
    half = (num_bins + 1) // 2
    edges = np.arange(half, num_bins + 1, dtype="float32") / num_bins
    edges = edges[edges > 0.5]
    predictions = np.stack([edges, 1 - edges], axis=1)
    labels = np.zeros(len(edges), int)
    count = reliability_bins(predictions, labels, num_bins)[2]
    # Edge k / n is the last of bin k - 1.
    expected = np.zeros(num_bins)
    expected[num_bins - len(edges) :] = 1
    np.testing.assert_array_equal(count, expected)
    metric = ExpectedCalibrationError(num_bins=num_bins)
    metric.update_state(labels, predictions)
    np.testing.assert_array_equal(np.array(metric.weight.value), expected)


def test_batches_give_the_value_of_all():
    _, probabilities, labels = _random_predictions()
    metric = ExpectedCalibrationError()
    for start in range(0, 500, 64):
        part = slice(start, start + 64)
        metric.update_state(labels[part], probabilities[part])
    expected = _reference(probabilities, labels, 15)
    assert float(metric.result()) == pytest.approx(expected, abs=1e-6)
    metric.reset_state()
    assert float(metric.result()) == 0.0


def test_logits_one_hot_columns_and_weights():
    logits, probabilities, labels = _random_predictions()
    expected = _value(labels, probabilities)
    assert _value(labels, logits, from_logits=True) == pytest.approx(
        expected, abs=1e-5
    )
    one_hot = np.eye(4)[labels]
    assert _value(one_hot, probabilities) == pytest.approx(expected)
    assert _value(labels[:, None], probabilities) == pytest.approx(expected)
    weights = np.random.default_rng(1).uniform(size=500)
    assert _value(labels, probabilities, weights) == pytest.approx(
        _reference(probabilities, labels, 15, weights), abs=1e-6
    )


def test_reliability_bins_by_hand():
    predictions = [[0.75, 0.25], [0.75, 0.25], [0.9, 0.1]]
    confidence, accuracy, count = reliability_bins(predictions, [0, 1, 0], 4)
    np.testing.assert_array_equal(count, [0, 0, 2, 1])
    np.testing.assert_allclose(confidence, [np.nan, np.nan, 0.75, 0.9])
    np.testing.assert_allclose(accuracy, [np.nan, np.nan, 0.5, 1.0])


def test_config_round_trip():
    metric = ExpectedCalibrationError(7, from_logits=True, name="calibration")
    config = keras.saving.serialize_keras_object(metric)
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == metric.get_config()


@pytest.mark.parametrize("jit_compile", [False, True])
def test_in_a_compiled_model(jit_compile):
    logits, probabilities, labels = _random_predictions(96)
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Activation("softmax")]
    )
    model.compile(
        loss="sparse_categorical_crossentropy",
        metrics=[ExpectedCalibrationError()],
        jit_compile=jit_compile,
    )
    logs = model.evaluate(
        logits, labels, batch_size=32, verbose=0, return_dict=True
    )
    expected = _reference(probabilities, labels, 15)
    assert logs["ece"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("num_bins", [0, -1, 2.5, "x", None, True])
def test_bad_number_of_bins_is_refused(num_bins):
    with pytest.raises(ValueError, match="`num_bins` must be"):
        ExpectedCalibrationError(num_bins=num_bins)
    with pytest.raises(ValueError, match="`num_bins` must be"):
        expected_calibration_error([[0.5, 0.5]], [0], num_bins=num_bins)


def test_integers_of_numpy_are_integers():
    metric = ExpectedCalibrationError(num_bins=np.int64(5))
    assert metric.get_config()["num_bins"] == 5


def test_one_label_for_each_row():
    with pytest.raises(ValueError, match="`labels` must have one integer"):
        reliability_bins([[0.5, 0.5], [0.5, 0.5]], [0])
    with pytest.raises(ValueError, match="`labels` must have one integer"):
        expected_calibration_error([0.5, 0.5], [0, 1])
