import numpy as np
import pytest

from keras_freetickets import metrics
from keras_freetickets.metrics import expected_calibration_error
from keras_freetickets.metrics import reliability_bins


def test_reliability_bins_by_hand():
    predictions = [[0.75, 0.25], [0.75, 0.25], [0.9, 0.1]]
    confidence, accuracy, count = reliability_bins([0, 1, 0], predictions, 4)
    np.testing.assert_array_equal(count, [0, 0, 2, 1])
    np.testing.assert_allclose(confidence, [np.nan, np.nan, 0.75, 0.9])
    np.testing.assert_allclose(accuracy, [np.nan, np.nan, 0.5, 1.0])


def test_a_rare_class_shows_by_label_only():
    """A base rate for all: calibrated, and wrong on every rare example."""
    predictions, labels = np.tile([0.9, 0.1], (50, 1)), np.arange(50) % 10 == 0
    pooled = expected_calibration_error(labels.astype(int), predictions)
    assert pooled == pytest.approx(0.0, abs=1e-6)
    for binning in ("equal_width", "equal_mass"):
        errors = metrics.calibration_errors_by_label(
            labels.astype(int), predictions, binning=binning
        )
        np.testing.assert_allclose(errors, [0.1, 0.9], atol=1e-6)
    missing = metrics.calibration_errors_by_label([0] * 5, predictions[:5])
    assert np.isnan(missing[1])
