"""Calibration and theoretical cost."""

from keras_freetickets.metrics import flops
from keras_freetickets.metrics.calibration import ExpectedCalibrationError
from keras_freetickets.metrics.calibration import expected_calibration_error
from keras_freetickets.metrics.calibration import reliability_bins

__all__ = [
    "ExpectedCalibrationError",
    "expected_calibration_error",
    "flops",
    "reliability_bins",
]
