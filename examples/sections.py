"""The sections of the report of evaluate.py, with their pictures."""

import os

import measures
import report
from absl import flags

FLAGS = flags.FLAGS
# scikit-learn's t-SNE is slow beyond.
_TSNE_IMAGES = 300


def picture(name, caption, draw, *args, **kwargs):
    """Draws into the folder of pictures."""
    file = f"pictures/{name.replace('/', '_')}.png"
    draw(*args, path=os.path.join(FLAGS.output_dir, file), **kwargs)
    return report.Picture(file, caption)


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


def clean_images(found, made, labels, num_classes):
    from keras_freetickets import plots

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
        picture(
            "reliability",
            "Reliability: accuracy against confidence, 15 bins",
            plots.reliability_diagram,
            labels,
            all_outputs,
        ),
        picture(
            "risk_coverage",
            "Errors left when the least sure images are turned away",
            plots.risk_coverage_curves,
            labels,
            known,
        ),
    ]
    text = (
        f"{len(labels):,} test images of {FLAGS.dataset}. ECE has 15 bins; "
        "that of 14 bins is the one of the FreeTickets scripts."
    )
    if any(known[name] is not p for name, p in all_outputs.items()):
        text += (
            " Of a model with an output for the unknown (MOON), accuracy, AURC "
            "and votes are those of the known classes, the others of all."
        )
    return report.Section("Clean images", text, [table], pictures)


def unknown_images(found, known, unknown):
    """`found` and `unknown` by set, model and score; `known` by the latter."""
    from keras_freetickets import plots

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
        picture(
            "scores",
            "Maximum probability of known (filled) and unknown images",
            plots.score_histograms,
            histograms,
        ),
        picture(
            "roc",
            "Known against unknown images, by maximum probability",
            plots.roc_curves,
            curves,
        ),
    ]
    text = (
        "Known images are the positive class; every score is higher for them. "
        "The maximum probability is that of a known class, which MOON's output "
        "for the unknown lowers. Energy and maximum logit are those before the "
        "softmax, of an ensemble the mean over its members"
    )
    return report.Section(
        "Unknown images", f"{text}.", [report.Table(heads, rows)], pictures
    )


def corrupted_images(found, clean):
    import numpy as np

    from keras_freetickets import plots

    keys = ["accuracy", "nll", "ece"]

    def levels(model, corruption, key):
        levels = found[model]["by_corruption"][corruption]
        return [clean[model][key], *(level[key] for level in levels)]

    names = list(next(iter(found.values()))["by_corruption"])
    curves = {
        model: np.array(
            [[levels(model, n, key) for n in names] for key in keys]
        )
        for model in found
    }
    together = report.Table(
        ["model", "cA", "cNLL", "cECE"],
        [[m, *(found[m]["together"][key] for key in keys)] for m in found],
    )
    means = report.Table(
        ["corruption (mean accuracy)", *found],
        [
            [name, *(float(curves[m][0, i, 1:].mean()) for m in found)]
            for i, name in enumerate(names)
        ],
    )
    text = (
        f"{len(names)} corruptions at {len(measures.SEVERITIES)} severities, "
        "made from the test images. cA, cNLL and cECE are of all predictions "
        "put together. In the picture a line is the mean over corruptions; "
        "half of them lie in its band."
    )
    drawn = picture(
        "severity",
        "Against the severity of corruptions",
        plots.severity_curves,
        curves,
        labels=["accuracy", "NLL", "ECE"],
    )
    return report.Section("Corruptions", text, [together, means], [drawn])


def attacked_images(found, clean, epsilon):
    rows = [
        [name, clean[name]["accuracy"], attacker, row["accuracy"], row["nll"]]
        for name, attackers in found.items()
        for attacker, row in attackers.items()
    ]
    heads = ["model", "accuracy", "attacked by", "accuracy then", "NLL then"]
    text = (
        f"One step of {epsilon:.4g} of the pixels' range against the sign of "
        "the gradient. A network so sure that its probabilities round to one "
        "has no gradient left and looks more robust than it is."
    )
    return report.Section("Attacks", text, [report.Table(heads, rows)], [])


def members_apart(name, found, members, labels):
    from keras_freetickets import plots

    names = [f"ticket {i}" for i in range(len(members))]
    shown = {"images that they read differently": found["disagreement_matrix"]}
    if "mask_overlap_matrix" in found:
        shown["connections that they share"] = found["mask_overlap_matrix"]
    keys = ["disagreement", "pairwise_kl", "double_fault", "mutual_information"]
    table = report.Table(
        [key.replace("_", " ") for key in keys], [[found[k] for k in keys]]
    )
    pictures = [
        picture(
            f"matrices_{name}",
            "Shares of the images and of the connections of a pair of tickets",
            plots.matrices,
            shown,
            names=names,
        ),
        picture(
            f"tsne_{name}",
            f"Predictions of the tickets for the first {_TSNE_IMAGES} images "
            "at most, by t-SNE, all laid out together",
            plots.predictions_in_plane,
            labels[:_TSNE_IMAGES],
            members[:, :_TSNE_IMAGES],
            names=names,
            seed=FLAGS.seed,
        ),
    ]
    text = (
        "Means over the clean images: share of pairs of members that choose "
        "otherwise, Kullback-Leibler divergence of pairs (nats), share of "
        "pairs that are both wrong, mutual information (nats)."
    )
    return report.Section(f"Members of {name}", text, [table], pictures)
