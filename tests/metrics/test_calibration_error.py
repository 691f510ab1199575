import keras
import numpy as np
import pytest

from keras_freetickets import metrics
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
    value = expected_calibration_error(labels, probabilities, num_bins)
    assert value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("num_bins", [3, 10, 15, 49])
def test_an_edge_belongs_to_the_bin_below(num_bins):
    half = (num_bins + 1) // 2
    edges = np.arange(half, num_bins + 1, dtype="float32") / num_bins
    edges = edges[edges > 0.5]
    predictions = np.stack([edges, 1 - edges], axis=1)
    labels = np.zeros(len(edges), int)
    count = reliability_bins(labels, predictions, num_bins)[2]
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
        expected_calibration_error([0], [[0.5, 0.5]], num_bins=num_bins)


def test_integers_of_numpy_are_integers():
    metric = ExpectedCalibrationError(num_bins=np.int64(5))
    assert metric.get_config()["num_bins"] == 5


def test_one_label_for_each_row():
    with pytest.raises(ValueError, match="`y_true` must have one integer"):
        reliability_bins([0], [[0.5, 0.5], [0.5, 0.5]])
    with pytest.raises(ValueError, match="two classes or more"):
        expected_calibration_error([0, 1], [0.5, 0.5])


@pytest.mark.parametrize("kind", ["expected", "maximum"])
@pytest.mark.parametrize("num_bins", [1, 4, 10])
def test_equal_mass_against_numpy(kind, num_bins):
    """Without ties, and equal parts: split the sorted examples."""
    _, probabilities, labels = _random_predictions(count=400)
    confidence = probabilities.max(axis=1)
    hit = probabilities.argmax(axis=1) == labels
    order = np.argsort(confidence)
    assert len(np.unique(confidence)) == 400
    gaps = [
        abs(hit[part].mean() - confidence[part].mean())
        for part in np.split(order, num_bins)
    ]
    function, metric = {
        "expected": (
            metrics.expected_calibration_error,
            ExpectedCalibrationError,
        ),
        "maximum": (
            metrics.maximum_calibration_error,
            metrics.MaximumCalibrationError,
        ),
    }[kind]
    expected = np.mean(gaps) if kind == "expected" else np.max(gaps)
    value = function(labels, probabilities, num_bins, "equal_mass")
    assert value == pytest.approx(expected, abs=1e-6)
    metric = metric(num_bins, binning="equal_mass")
    metric.update_state(labels, probabilities)
    bound = metric.error_bound()
    assert abs(float(metric.result()) - expected) <= bound + 1e-6
    # A cell holds few of 400 examples.
    assert bound <= 0.02 * num_bins * (num_bins if kind == "maximum" else 1)


def test_equal_mass_with_a_confidence_rounded_above_one():
    """The surest, and so in the upper bin of two with half of the next."""
    predictions = np.array([[1.0005, 0], [0.9999, 1e-4], [0.9998, 2e-4]], "f")
    metric = metrics.MaximumCalibrationError(2, binning="equal_mass")
    metric.update_state([1, 0, 1], predictions)
    # Gaps 1.0005 - 0.0001 / 2 of the upper, 0.9998 - 0.0001 / 2 of the lower.
    assert float(metric.result()) == pytest.approx(1.00045 / 1.5, abs=1e-5)


def test_equal_mass_by_hand():
    # Three examples in two bins: the middle one counts half in each.
    predictions = [[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]]
    # Gaps 1 - 0.9, 0 - 0.8, 1 - 0.6; low: 0.4 - 0.4, high: 0.1 - 0.4.
    value = expected_calibration_error([0, 1, 0], predictions, 2, "equal_mass")
    assert value == pytest.approx(0.3 / 3)
    assert _value(
        [0, 1, 0], predictions, num_bins=2, binning="equal_mass"
    ) == pytest.approx(0.3 / 3, abs=1e-6)
    bins = reliability_bins([0, 1, 0], predictions, 2, "equal_mass")
    np.testing.assert_allclose(bins[2], [1.5, 1.5])
    np.testing.assert_allclose(bins[1], [1 / 1.5, 1 / 1.5])
    np.testing.assert_allclose(bins[0], [1.0 / 1.5, 1.3 / 1.5])


def test_equal_mass_of_equal_confidences():
    """All tied: one gap, whatever the order and the number of bins."""
    predictions = [[0.75, 0.25]] * 6
    for labels in ([0, 0, 0, 1, 1, 1], [1, 0, 1, 0, 1, 0]):
        for num_bins in (1, 2, 5):
            value = expected_calibration_error(
                labels, predictions, num_bins, "equal_mass"
            )
            assert value == pytest.approx(0.25)


def test_bins_of_the_published_scripts():
    """15 edges are 14 bins; what rounds above 1 is counted, in no bin."""
    _, probabilities, labels = _random_predictions()
    value = _value(labels, probabilities, binning="freetickets")
    assert value == pytest.approx(
        _reference(probabilities, labels, 14), abs=1e-6
    )
    edges = np.linspace(0, 1, 15)
    confidence = probabilities.max(axis=1)
    hit = probabilities.argmax(axis=1) == labels
    place = np.digitize(confidence, edges, right=True)
    published = sum(
        abs((hit[place == i] - confidence[place == i]).sum())
        for i in range(1, 15)
    )
    assert value == pytest.approx(published / len(labels), abs=1e-6)
    above = np.array([[1 + 1e-6, 0.0], [0.75, 0.25]], "float32")
    for value in (
        _value([1, 0], above, binning="freetickets"),
        expected_calibration_error([1, 0], above, binning="freetickets"),
    ):
        assert value == pytest.approx(0.25 / 2, abs=1e-6)
    # The standard bins put it into the last one, where it is wrong.
    assert _value([1, 0], above) == pytest.approx(1.25 / 2, abs=1e-5)


def test_maximum_by_hand():
    predictions = [[0.8, 0.2], [0.6, 0.4], [0.62, 0.38]]
    metric = metrics.MaximumCalibrationError(num_bins=10)
    metric.update_state([0, 1, 0], predictions)
    # Bin (0.6, 0.7]: |1 - 0.62|; bin (0.5, 0.6]: |0 - 0.6|.
    assert float(metric.result()) == pytest.approx(0.6)
    assert metrics.maximum_calibration_error(
        [0, 1, 0], predictions, 10
    ) == pytest.approx(0.6)
    assert float(metrics.MaximumCalibrationError().result()) == 0.0


@pytest.mark.parametrize("binning", ["equal_width", "equal_mass"])
def test_classwise_against_numpy(binning):
    _, probabilities, labels = _random_predictions(count=600)
    errors = metrics.classwise_calibration_errors(
        labels, probabilities, 5, binning
    )
    for k in range(4):
        p, own = probabilities[:, k], labels == k
        if binning == "equal_mass":
            parts = np.split(np.argsort(p), 5)
        else:
            place = np.ceil(np.maximum(p, 1e-9) * 5)
            parts = [place == i for i in range(1, 6)]
        expected = sum(abs((own[part] - p[part]).sum()) for part in parts) / 600
        assert errors[k] == pytest.approx(expected, abs=1e-6)
    if binning == "equal_width":
        metric = metrics.ClasswiseCalibrationError(4, 5)
        for start in range(0, 600, 100):
            part = slice(start, start + 100)
            metric.update_state(labels[part], probabilities[part])
        assert float(metric.result()) == pytest.approx(errors.mean(), abs=1e-6)


def test_classwise_weights():
    _, probabilities, labels = _random_predictions(count=20)
    weights = np.arange(20) % 3
    metric = metrics.ClasswiseCalibrationError(4, 5)
    metric.update_state(labels, probabilities, weights)
    copies = np.repeat(np.arange(20), weights)
    errors = metrics.classwise_calibration_errors(
        labels[copies], probabilities[copies], 5
    )
    assert float(metric.result()) == pytest.approx(errors.mean(), abs=1e-6)


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: ExpectedCalibrationError(binning="odd"),
            "`binning` must be one of",
        ),
        (
            lambda: ExpectedCalibrationError(1, binning="freetickets"),
            "`num_bins` must be 2 or more",
        ),
        (
            lambda: metrics.ClasswiseCalibrationError(1),
            "`num_classes` must be an integer of at least 2",
        ),
        (
            lambda: metrics.ClasswiseCalibrationError(3).update_state(
                [0], [[0.5, 0.5]]
            ),
            "as many classes as `num_classes`",
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
