"""From a trained model to a file that a runtime was seen to run."""

from keras_freetickets.deployment import formats
from keras_freetickets.deployment.exporting import export
from keras_freetickets.deployment.plain import plain_model
from keras_freetickets.deployment.plain import with_uncertainty
from keras_freetickets.deployment.quantization_aware import train_for_8_bits
from keras_freetickets.deployment.report import ExportReport

__all__ = [
    "ExportReport",
    "export",
    "formats",
    "plain_model",
    "train_for_8_bits",
    "with_uncertainty",
]
