"""Sections of the report: clean images, unknown images, members."""

from typing import Any

import classifiers
import measures
import numpy as np
import report
from absl import flags

from keras_freetickets import plots

FLAGS = flags.FLAGS
# scikit-learn's t-SNE is slow for more.
_TSNE_IMAGES = 300


_SCORES = {
    "accuracy": "accuracy",
    "nll": "NLL",
    "brier": "Brier",
    "ece": "ECE",
    "ece_equal_mass": "ECE, equal mass",
    "ece_freetickets": "ECE, 14 bins",
    "ece_classwise": "ECE, class-wise",
    "mce": "MCE",
    "aurc": "AURC",
}


def clean_images(
    found: dict[str, dict[str, float]],
    made: dict[str, classifiers.Predictions],
    labels: np.ndarray,
    num_classes: int,
) -> report.Section:
    all_outputs = {name: one.probabilities for name, one in made.items()}
    known = {
        name: measures.known_classes(p, num_classes)
        for name, p in all_outputs.items()
    }
    table = report.Table(
        ["model", *_SCORES.values()],
        [[name, *(row[key] for key in _SCORES)] for name, row in found.items()],
    )
    pictures = [
        report.picture(
            "reliability",
            "Reliability: accuracy against confidence, 15 bins",
            plots.reliability_diagram,
            labels,
            all_outputs,
        ),
        report.picture(
            "risk_coverage",
            "Remaining errors when the least confident images are rejected",
            plots.risk_coverage_curves,
            labels,
            known,
        ),
    ]
    text = (
        f"{len(labels):,} test images of {FLAGS.dataset}. ECE has 15 bins; "
        "the one with 14 bins is that of the FreeTickets scripts."
    )
    if any(known[name] is not p for name, p in all_outputs.items()):
        text += (
            " For a model with an output for unknown images (MOON), accuracy, "
            "AURC and votes are over the known classes, other scores over all."
        )
    return report.Section("Clean images", text, [table], pictures)


def unknown_images(
    found: dict[str, Any],
    known: dict[str, dict[str, np.ndarray]],
    unknown: dict[str, dict[str, dict[str, np.ndarray]]],
) -> report.Section:
    """The keys of `found` and `unknown` are set, model and score.

    Those of `known` are model and score.
    """
    rows = [
        [name, model, score, *values.values()]
        for name, models in found.items()
        for model, kinds in models.items()
        for score, values in kinds.items()
    ]
    heads = ["unknown set", "model", "score"]
    heads += ["AUROC", "AUPR in", "AUPR out", "FPR@95"]
    score = "maximum probability"
    histograms = {
        model: {
            FLAGS.dataset: known[model][score],
            **{name: unknown[name][model][score] for name in unknown},
        }
        for model in known
    }
    curves = {
        name: {
            model: (known[model][score], models[model][score])
            for model in models
        }
        for name, models in unknown.items()
    }
    pictures = [
        report.picture(
            "scores",
            "Maximum probability of known (filled) and unknown images",
            plots.score_histograms,
            histograms,
        ),
        report.picture(
            "roc",
            "Known against unknown images, by maximum probability",
            plots.roc_curves,
            curves,
        ),
    ]
    text = (
        "Known images are the positive class; all scores are higher for them. "
        "The maximum probability is over the known classes; MOON's output for "
        "unknown images lowers it. Energy and maximum logit are computed "
        "before the softmax; for an ensemble, the mean over its members"
    )
    return report.Section(
        "Unknown images", f"{text}.", [report.Table(heads, rows)], pictures
    )


def members_apart(
    name: str, found: dict[str, Any], members: np.ndarray, labels: np.ndarray
) -> report.Section:
    names = [f"ticket {i}" for i in range(len(members))]
    shown = {"images classified differently": found["disagreement_matrix"]}
    if "mask_overlap_matrix" in found:
        shown["connections in common"] = found["mask_overlap_matrix"]
    keys = ["disagreement", "pairwise_kl", "double_fault", "mutual_information"]
    table = report.Table(
        [key.replace("_", " ") for key in keys], [[found[k] for k in keys]]
    )
    pictures = [
        report.picture(
            f"matrices_{name}",
            "Fractions of the images and of the connections, for each pair of "
            "tickets",
            plots.matrices,
            shown,
            names=names,
        ),
        report.picture(
            f"tsne_{name}",
            f"Predictions of the tickets for at most the first {_TSNE_IMAGES} "
            "images, in one t-SNE plane",
            plots.predictions_in_plane,
            labels[:_TSNE_IMAGES],
            members[:, :_TSNE_IMAGES],
            names=names,
            seed=FLAGS.seed,
        ),
    ]
    text = (
        "Means over the clean images: fraction of pairs of members that choose "
        "different classes, Kullback-Leibler divergence of pairs (nats), "
        "fraction of pairs that are both wrong, mutual information (nats)."
    )
    return report.Section(f"Members of {name}", text, [table], pictures)
