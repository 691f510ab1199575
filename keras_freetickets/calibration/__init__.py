"""Calibration after training, on data that was held out."""

from keras_freetickets.calibration.calibrated_model import CalibratedModel
from keras_freetickets.calibration.calibrated_model import calibrate
from keras_freetickets.calibration.calibrated_model import (
    choose_input_mask_ratio,
)
from keras_freetickets.calibration.calibrators import Calibrator
from keras_freetickets.calibration.calibrators import IsotonicCalibration
from keras_freetickets.calibration.calibrators import TemperatureScaling
from keras_freetickets.calibration.calibrators import VectorScaling
from keras_freetickets.calibration.calibrators import get

__all__ = [
    "CalibratedModel",
    "Calibrator",
    "IsotonicCalibration",
    "TemperatureScaling",
    "VectorScaling",
    "calibrate",
    "choose_input_mask_ratio",
    "get",
]
