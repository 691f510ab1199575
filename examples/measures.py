"""The numbers that evaluate.py computes from predictions."""

from typing import Any

import classifiers
import numpy as np
import results

import keras_freetickets as kft
from keras_freetickets import metrics


def known_classes(probabilities: np.ndarray, num_classes: int) -> np.ndarray:
    """Distributions over the known classes, without MOON's unknown class.

    It is never predicted, so votes and risks are of the known classes.
    """
    known = probabilities[..., :num_classes]
    if known.shape == probabilities.shape:
        return probabilities
    return known / known.sum(axis=-1, keepdims=True)


def scores(
    probabilities: np.ndarray, labels: np.ndarray, num_classes: int
) -> dict[str, float]:
    """Accuracy, likelihood, calibration and selective prediction."""
    brier = metrics.brier_score(labels, probabilities)
    ece = metrics.expected_calibration_error
    classwise = metrics.classwise_calibration_errors(labels, probabilities)
    return {
        **results.scores(probabilities, labels, num_classes),
        "brier": float(np.mean(brier)),
        "ece_equal_mass": ece(labels, probabilities, binning="equal_mass"),
        "ece_freetickets": ece(labels, probabilities, binning="freetickets"),
        "ece_classwise": float(np.mean(classwise)),
        "mce": metrics.maximum_calibration_error(labels, probabilities),
        "aurc": metrics.area_under_risk_coverage(
            labels,
            known_classes(probabilities, num_classes),
            scores=probabilities[:, :num_classes].max(axis=-1),
        ),
    }


def confidences(
    made: classifiers.Predictions, num_classes: int
) -> dict[str, np.ndarray]:
    """Scores of images that are all higher for known ones."""
    p = made.probabilities
    if p.shape[1] == num_classes + 1:
        # MOON: an image that is certainly unknown must score low.
        found = {"maximum probability": metrics.unknown_aware_score(p)}
    else:
        found = {
            "maximum probability": metrics.maximum_probability(p),
            "entropy": metrics.negative_entropy(p),
        }
    if made.members is not None and len(made.members) > 1:
        found["mutual information"] = metrics.negative_mutual_information(
            made.members
        )
    if made.logits is not None:
        # The mean over the members of an ensemble.
        logits = made.logits[..., :num_classes]
        for name, score in {
            "energy": metrics.negative_energy,
            "maximum logit": metrics.maximum_logit,
        }.items():
            found[name] = np.mean([score(one) for one in logits], axis=0)
    return {name: np.asarray(values) for name, values in found.items()}


def detection(known: np.ndarray, unknown: np.ndarray) -> dict[str, float]:
    """How well a score separates known images from unknown ones."""
    return {
        "auroc": metrics.auroc(known, unknown),
        "aupr_in": metrics.aupr(known, unknown, "in"),
        "aupr_out": metrics.aupr(known, unknown, "out"),
        "fpr_at_95": metrics.fpr_at_tpr(known, unknown),
    }


def diversity(
    network: classifiers.Network,
    members: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
) -> dict[str, Any]:
    """How the members of an ensemble differ."""
    members = known_classes(members, num_classes)
    share = metrics.disagreement(members)
    faults = metrics.double_fault(labels, members)
    found: dict[str, Any] = {
        "disagreement": float(np.mean(share)),
        "pairwise_kl": float(np.mean(metrics.pairwise_kl(members))),
        "double_fault": float(np.mean(faults)),
        "mutual_information": float(
            np.mean(metrics.mutual_information(members))
        ),
        "disagreement_matrix": metrics.disagreement_matrix(members).tolist(),
    }
    parts = [network.model.member(i) for i in range(len(members))]
    if getattr(parts[0], "masked_kernels", None):
        found["mask_overlap_matrix"] = kft.mask_overlap(parts).tolist()
    return found
