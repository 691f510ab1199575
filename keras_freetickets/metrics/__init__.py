"""Likelihood, calibration, unknown inputs, diversity, theoretical cost."""

from keras_freetickets.metrics import flops
from keras_freetickets.metrics.calibration_error import (
    ClasswiseCalibrationError,
)
from keras_freetickets.metrics.calibration_error import ExpectedCalibrationError
from keras_freetickets.metrics.calibration_error import MaximumCalibrationError
from keras_freetickets.metrics.detection import AUPR
from keras_freetickets.metrics.detection import AUROC
from keras_freetickets.metrics.detection import FPRAtTPR
from keras_freetickets.metrics.differences import Difference
from keras_freetickets.metrics.differences import paired_bootstrap
from keras_freetickets.metrics.diversity import Disagreement
from keras_freetickets.metrics.diversity import DoubleFault
from keras_freetickets.metrics.diversity import ExpectedEntropy
from keras_freetickets.metrics.diversity import MutualInformation
from keras_freetickets.metrics.diversity import PairwiseKL
from keras_freetickets.metrics.diversity import PredictiveEntropy
from keras_freetickets.metrics.diversity import VariationRatio
from keras_freetickets.metrics.diversity import disagreement
from keras_freetickets.metrics.diversity import disagreement_matrix
from keras_freetickets.metrics.diversity import double_fault
from keras_freetickets.metrics.diversity import expected_entropy
from keras_freetickets.metrics.diversity import mutual_information
from keras_freetickets.metrics.diversity import pairwise_kl
from keras_freetickets.metrics.diversity import predictive_entropy
from keras_freetickets.metrics.diversity import variation_ratio
from keras_freetickets.metrics.gaussian import CRPS
from keras_freetickets.metrics.gaussian import GaussianNLL
from keras_freetickets.metrics.gaussian import sample_crps
from keras_freetickets.metrics.intervals import (
    ExpectedIndividualCalibrationError,
)
from keras_freetickets.metrics.intervals import IntervalCoverage
from keras_freetickets.metrics.intervals import IntervalLength
from keras_freetickets.metrics.intervals import individual_gaps
from keras_freetickets.metrics.intervals import jackknife_intervals
from keras_freetickets.metrics.out_of_distribution import maximum_logit
from keras_freetickets.metrics.out_of_distribution import maximum_probability
from keras_freetickets.metrics.out_of_distribution import negative_energy
from keras_freetickets.metrics.out_of_distribution import negative_entropy
from keras_freetickets.metrics.out_of_distribution import (
    negative_mutual_information,
)
from keras_freetickets.metrics.out_of_distribution import unknown_aware_score
from keras_freetickets.metrics.reliability import calibration_errors_by_label
from keras_freetickets.metrics.reliability import classwise_calibration_errors
from keras_freetickets.metrics.reliability import expected_calibration_error
from keras_freetickets.metrics.reliability import maximum_calibration_error
from keras_freetickets.metrics.reliability import reliability_bins
from keras_freetickets.metrics.roc import aupr
from keras_freetickets.metrics.roc import auroc
from keras_freetickets.metrics.roc import fpr_at_tpr
from keras_freetickets.metrics.roc import roc_curve
from keras_freetickets.metrics.scores import Accuracy
from keras_freetickets.metrics.scores import Brier
from keras_freetickets.metrics.scores import NegativeLogLikelihood
from keras_freetickets.metrics.scores import NegativeLogLikelihoodLoss
from keras_freetickets.metrics.scores import brier_score
from keras_freetickets.metrics.scores import negative_log_likelihood
from keras_freetickets.metrics.selective import AURC
from keras_freetickets.metrics.selective import area_under_risk_coverage
from keras_freetickets.metrics.selective import risk_coverage_curve

__all__ = [
    "AUPR",
    "AURC",
    "AUROC",
    "CRPS",
    "Accuracy",
    "Brier",
    "ClasswiseCalibrationError",
    "Difference",
    "Disagreement",
    "DoubleFault",
    "ExpectedCalibrationError",
    "ExpectedEntropy",
    "ExpectedIndividualCalibrationError",
    "FPRAtTPR",
    "GaussianNLL",
    "IntervalCoverage",
    "IntervalLength",
    "MaximumCalibrationError",
    "MutualInformation",
    "NegativeLogLikelihood",
    "NegativeLogLikelihoodLoss",
    "PairwiseKL",
    "PredictiveEntropy",
    "VariationRatio",
    "area_under_risk_coverage",
    "aupr",
    "auroc",
    "brier_score",
    "calibration_errors_by_label",
    "classwise_calibration_errors",
    "disagreement",
    "disagreement_matrix",
    "double_fault",
    "expected_calibration_error",
    "expected_entropy",
    "flops",
    "fpr_at_tpr",
    "individual_gaps",
    "jackknife_intervals",
    "maximum_calibration_error",
    "maximum_logit",
    "maximum_probability",
    "mutual_information",
    "negative_energy",
    "negative_entropy",
    "negative_log_likelihood",
    "negative_mutual_information",
    "paired_bootstrap",
    "pairwise_kl",
    "predictive_entropy",
    "reliability_bins",
    "risk_coverage_curve",
    "roc_curve",
    "sample_crps",
    "unknown_aware_score",
    "variation_ratio",
]
