"""The figures of evaluate.py: what goes into report.json."""

import common
from absl import flags

FLAGS = flags.FLAGS
SEVERITIES = (1, 2, 3, 4, 5)


def scores(probabilities, labels, num_classes):
    """Accuracy, likelihood, calibration and selective prediction."""
    import numpy as np

    from keras_freetickets import metrics

    brier = metrics.brier_score(labels, probabilities)
    ece = metrics.expected_calibration_error
    classwise = metrics.classwise_calibration_errors(probabilities, labels)
    return {
        **common.scores(probabilities, labels, num_classes),
        "brier": float(np.mean(brier)),
        "ece_equal_mass": ece(probabilities, labels, binning="equal_mass"),
        "ece_freetickets": ece(probabilities, labels, binning="freetickets"),
        "ece_classwise": float(np.mean(classwise)),
        "mce": metrics.maximum_calibration_error(probabilities, labels),
        "aurc": metrics.area_under_risk_coverage(probabilities, labels),
    }


def confidences(made, num_classes):
    """Scores of predictions, all higher for known images."""
    import numpy as np

    from keras_freetickets import metrics

    found = {
        "maximum probability": metrics.maximum_probability(made.probabilities),
        "entropy": metrics.negative_entropy(made.probabilities),
    }
    if made.members is not None:
        found["mutual information"] = metrics.negative_mutual_information(
            made.members, members_axis=0
        )
    if made.logits is not None:
        found["energy"] = metrics.negative_energy(made.logits)
        found["maximum logit"] = metrics.maximum_logit(made.logits)
    if made.probabilities.shape[1] == num_classes + 1:
        found["MOON's"] = metrics.unknown_aware_score(made.probabilities)
    return {name: np.asarray(values) for name, values in found.items()}


def detection(known, unknown):
    """How well a score tells known images from unknown ones."""
    from keras_freetickets import metrics

    return {
        "auroc": metrics.auroc(known, unknown),
        "aupr_in": metrics.aupr(known, unknown, "in"),
        "aupr_out": metrics.aupr(known, unknown, "out"),
        "fpr_at_95": metrics.fpr_at_tpr(known, unknown),
    }


def under_corruption(networks, images, names):
    """Scores of each network by corruption and severity, and of all."""
    import numpy as np

    import keras_freetickets as kft

    classes = images.data.num_classes
    labels = np.tile(images.labels, len(SEVERITIES))
    parts = {network.name: [] for network in networks}
    found = {network.name: {} for network in networks}
    for name in names:
        print(f"Corruption {name}", flush=True)
        # One call for all severities: each call traces an ensemble anew.
        corrupted = np.concatenate(
            [
                kft.datasets.corrupt(images.pixels, name, level, FLAGS.seed)
                for level in SEVERITIES
            ]
        )
        x = images.standardized(corrupted)
        for network in networks:
            made = network.predict(x).probabilities
            parts[network.name].append(made)
            found[network.name][name] = [
                common.scores(one, images.labels, classes)
                for one in np.split(made, len(SEVERITIES))
            ]
    return {
        name: {
            "by_corruption": found[name],
            # All predictions put together, as FreeTickets has it.
            "together": common.scores(
                np.concatenate(made), np.tile(labels, len(names)), classes
            ),
        }
        for name, made in parts.items()
    }


def diversity(network, members, labels):
    """What the members of an ensemble differ in."""
    import numpy as np

    import keras_freetickets as kft

    metrics = kft.metrics
    share = metrics.disagreement(members, members_axis=0)
    faults = metrics.double_fault(labels, members, members_axis=0)
    found = {
        "disagreement": float(np.mean(share)),
        "pairwise_kl": float(
            np.mean(metrics.pairwise_kl(members, members_axis=0))
        ),
        "double_fault": float(np.mean(faults)),
        "mutual_information": float(
            np.mean(metrics.mutual_information(members, members_axis=0))
        ),
        "disagreement_matrix": metrics.disagreement_matrix(members).tolist(),
    }
    parts = [network.model.member(i) for i in range(len(members))]
    if getattr(parts[0], "connections", None):
        found["mask_overlap_matrix"] = kft.mask_overlap(parts).tolist()
    return found
