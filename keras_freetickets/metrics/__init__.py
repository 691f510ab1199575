"""Calibration, likelihood and theoretical cost."""

from keras_freetickets.metrics import flops
from keras_freetickets.metrics.calibration import ExpectedCalibrationError
from keras_freetickets.metrics.calibration import expected_calibration_error
from keras_freetickets.metrics.calibration import reliability_bins
from keras_freetickets.metrics.scores import Accuracy
from keras_freetickets.metrics.scores import NegativeLogLikelihood
from keras_freetickets.metrics.scores import negative_log_likelihood

__all__ = [
    "Accuracy",
    "ExpectedCalibrationError",
    "NegativeLogLikelihood",
    "expected_calibration_error",
    "flops",
    "negative_log_likelihood",
    "reliability_bins",
]
