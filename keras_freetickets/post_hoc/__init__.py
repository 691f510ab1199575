"""Calibration after training, on data that was held out."""

from keras_freetickets.post_hoc.calibrated_model import CalibratedModel
from keras_freetickets.post_hoc.calibrated_model import calibrate
from keras_freetickets.post_hoc.calibrators import Calibrator
from keras_freetickets.post_hoc.calibrators import IsotonicCalibration
from keras_freetickets.post_hoc.calibrators import TemperatureScaling
from keras_freetickets.post_hoc.calibrators import VectorScaling
from keras_freetickets.post_hoc.calibrators import get

__all__ = [
    "CalibratedModel",
    "Calibrator",
    "IsotonicCalibration",
    "TemperatureScaling",
    "VectorScaling",
    "calibrate",
    "get",
]
