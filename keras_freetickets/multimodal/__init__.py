"""InVA: an outcome image from several images, with intervals."""

from keras_freetickets.multimodal.data import Modalities
from keras_freetickets.multimodal.data import halves
from keras_freetickets.multimodal.data import toy_modalities
from keras_freetickets.multimodal.layers import DropModalities
from keras_freetickets.multimodal.layers import GaussianSample
from keras_freetickets.multimodal.layers import KLDivergence
from keras_freetickets.multimodal.layers import KLRamp
from keras_freetickets.multimodal.layers import gaussian_divergence
from keras_freetickets.multimodal.network import MASKED
from keras_freetickets.multimodal.network import SumOfSquares
from keras_freetickets.multimodal.network import compile_inva
from keras_freetickets.multimodal.network import inva
from keras_freetickets.multimodal.network import outcome_model
from keras_freetickets.multimodal.prediction import ImagePrediction
from keras_freetickets.multimodal.prediction import PixelScaler
from keras_freetickets.multimodal.prediction import check_subjects
from keras_freetickets.multimodal.prediction import input_saliency
from keras_freetickets.multimodal.prediction import predict_images
from keras_freetickets.multimodal.prediction import residual_variance
from keras_freetickets.multimodal.prediction import sample_images

__all__ = [
    "MASKED",
    "DropModalities",
    "GaussianSample",
    "ImagePrediction",
    "KLDivergence",
    "KLRamp",
    "Modalities",
    "PixelScaler",
    "SumOfSquares",
    "check_subjects",
    "compile_inva",
    "gaussian_divergence",
    "halves",
    "input_saliency",
    "inva",
    "outcome_model",
    "predict_images",
    "residual_variance",
    "sample_images",
    "toy_modalities",
]
