"""Intervals and distributions of predictions, by hand and by samples."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_freetickets import metrics

RANDOM = np.random.default_rng(0)


def test_identical_models_without_residuals():
    p = RANDOM.uniform(size=7)
    found = metrics.jackknife_intervals(np.stack([p] * 4), np.zeros(4))
    np.testing.assert_array_equal(found, np.stack([p, p], axis=-1))


def test_quantiles_of_all_pairs():
    predictions = RANDOM.uniform(size=(5, 3))
    residuals = RANDOM.uniform(size=(5, 8))
    found = metrics.jackknife_intervals(predictions, residuals, 0.8, clip=False)
    for i in range(3):
        sums = predictions[:, i, None] + residuals
        differences = predictions[:, i, None] - residuals
        assert found[i, 0] == pytest.approx(np.quantile(differences, 0.1))
        assert found[i, 1] == pytest.approx(np.quantile(sums, 0.9))
    clipped = metrics.jackknife_intervals(predictions, residuals, 0.8)
    np.testing.assert_array_equal(clipped, np.clip(found, 0, 1))


def test_members_of_an_ensemble_make_intervals_that_hold():
    """Residuals of a calibration split, instead of a Hessian."""
    truth = RANDOM.normal(size=400)
    shared, own = RANDOM.normal(size=400), RANDOM.normal(size=(3, 400))
    members = truth + 0.5 * shared + 0.1 * own
    residuals = np.abs(members[:, :200] - truth[:200])
    found = metrics.jackknife_intervals(
        members[:, 200:], residuals, 0.9, clip=False
    )
    inside = (truth[200:] >= found[:, 0]) & (truth[200:] <= found[:, 1])
    assert 0.85 <= inside.mean() <= 0.97


@pytest.mark.parametrize(
    "predictions, residuals, coverage, message",
    [
        ([[0.5]], [0.1, 0.2], 0.9, "`residuals` must be"),
        ([], [], 0.9, "`residuals` must be"),
        ([[0.5]], [-0.1], 0.9, "non-negative"),
        ([[0.5]], [0.1], 1.0, "`coverage` must be"),
    ],
)
def test_wrong_intervals_are_named(predictions, residuals, coverage, message):
    with pytest.raises(ValueError, match=message):
        metrics.jackknife_intervals(predictions, residuals, coverage)


def test_the_error_compares_the_same_class():
    """A confident example of class 0 in a low interval has no error."""
    eice = metrics.ExpectedIndividualCalibrationError()
    assert float(eice([[0.0, 0.1]], [[0.95, 0.05]])) == pytest.approx(
        0, abs=1e-6
    )
    eice.reset_state()
    # Ends outside [0, 1] are clipped: the midpoint is 0.3.
    assert float(eice([[-0.4, 0.6]], [[0.7]])) == pytest.approx(0.4)
    with pytest.raises(ValueError, match="Intervals"):
        eice([[0.0, 0.1]], [[0.2, 0.3, 0.5]])


def test_why_metrics_of_one_class_are_needed():
    """Always the base rate: calibrated on average, wrong about the rare."""
    y = np.zeros(1000, "int64")
    y[:70] = 1
    p = np.tile([0.93, 0.07], (1000, 1))
    for binning in ("equal_width", "equal_mass"):
        whole = metrics.expected_calibration_error(y, p, 20, binning)
        by_label = metrics.calibration_errors_by_label(y, p, 20, binning)
        assert whole < 1e-6
        assert by_label[1] == pytest.approx(0.93)


@pytest.mark.parametrize("count", [100, 103, 119])
def test_bins_of_equal_mass(count):
    p = RANDOM.uniform(0.5, 1, size=count)
    _, _, sizes = metrics.reliability_bins(
        np.zeros(count, "int64"), np.stack([p, 1 - p], -1), 20, "equal_mass"
    )
    np.testing.assert_allclose(sizes, count / 20)


def test_coverage_and_length_by_hand():
    y = [[1.0, 2.0], [3.0, 4.0]]
    ends = [[0.0, 0.0, 1.0, 1.0], [3.0, 0.0, 6.0, 5.0]]
    coverage, length = metrics.IntervalCoverage(), metrics.IntervalLength()
    assert float(coverage(y, ends)) == 0.75
    assert float(length(y, ends)) == (1 + 1 + 3 + 5) / 4
    length.reset_state()
    assert float(length(y, ends, sample_weight=[1.0, 0.0])) == 1.0


def test_scores_of_normal_distributions_against_samples():
    y = np.array([0.3, -1.0, 2.5])
    mean, deviation = np.array([0.0, 0.5, 1.0]), np.array([1.0, 0.2, 2.0])
    pairs = np.stack([mean, deviation**2], axis=-1)
    crps, nll = metrics.CRPS(), metrics.GaussianNLL()
    samples = mean + deviation * RANDOM.normal(size=(20000, 3))
    by_samples = metrics.sample_crps(y, samples)
    for i in range(3):
        crps.reset_state()
        found = float(crps(y[i : i + 1], pairs[i : i + 1]))
        assert found == pytest.approx(by_samples[i], abs=0.03)
    z = (y - mean) / deviation
    expected = 0.5 * np.log(2 * np.pi * deviation**2) + z**2 / 2
    assert float(nll(y, pairs)) == pytest.approx(expected.mean(), rel=1e-5)


def test_crps_of_samples_is_its_definition():
    y, samples = RANDOM.normal(size=4), RANDOM.normal(size=(6, 4))
    pairs = np.abs(samples[:, None] - samples[None]).sum((0, 1)) / 30
    expected = np.abs(samples - y).mean(0) - pairs / 2
    np.testing.assert_allclose(metrics.sample_crps(y, samples), expected)
    with pytest.raises(ValueError, match="at least 2 samples"):
        metrics.sample_crps(y, samples[:1])


CLASSES = [
    metrics.IntervalCoverage,
    metrics.IntervalLength,
    metrics.ExpectedIndividualCalibrationError,
    metrics.GaussianNLL,
    metrics.CRPS,
]


@pytest.mark.parametrize("metric_class", CLASSES)
def test_batches_config_and_fit(metric_class):
    eice = metric_class is metrics.ExpectedIndividualCalibrationError
    y = RANDOM.uniform(size=(10, 4, 2 if eice else 1)).astype("float32")
    y_pred = RANDOM.uniform(size=(10, 4, 2)).astype("float32")
    whole, parts = metric_class(), metric_class()
    whole.update_state(y, y_pred)
    for i in range(0, 10, 3):
        parts.update_state(y[i : i + 3], y_pred[i : i + 3])
    assert float(parts.result()) == pytest.approx(float(whole.result()), 1e-5)
    copy = metric_class.from_config(whole.get_config())
    assert copy.name == whole.name == metric_class.default_name
    model = keras.Sequential([keras.Input((4, 2)), keras.layers.Dense(2)])
    model.layers[0].set_weights([np.eye(2), np.zeros(2)])
    model.compile(loss="mse", metrics=[metric_class()])
    targets = y if eice else np.repeat(y, 2, -1)[..., :1]
    if not eice:
        model.compile(loss=lambda a, b: ops.sum(b, -1), metrics=[copy])
    found = model.evaluate(y_pred, targets, verbose=0, return_dict=True)
    assert found[whole.name] == pytest.approx(float(whole.result()), 1e-4)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match="as many upper ends"):
        metrics.IntervalLength()([1.0], [[0.0, 1.0, 2.0]])
    with pytest.raises(ValueError, match="as many variances"):
        metrics.CRPS()([1.0], [[0.0, 1.0, 2.0]])
    with pytest.raises(ValueError, match="as many outputs"):
        metrics.GaussianNLL()([[1.0, 2.0]], [[0.0, 1.0]])
