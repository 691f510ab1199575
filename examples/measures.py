"""The figures of evaluate.py: what goes into report.json."""

import results
from absl import flags

FLAGS = flags.FLAGS
SEVERITIES = (1, 2, 3, 4, 5)


def known_classes(probabilities, num_classes):
    """Distributions over the known classes, without MOON's unknown.

    It is never predicted, so that votes and the risk of a prediction are a
    matter of these.
    """
    known = probabilities[..., :num_classes]
    if known.shape == probabilities.shape:
        return probabilities
    return known / known.sum(axis=-1, keepdims=True)


def scores(probabilities, labels, num_classes):
    """Accuracy, likelihood, calibration and selective prediction."""
    import numpy as np

    from keras_freetickets import metrics

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


def confidences(made, num_classes):
    """Scores of predictions, all higher for known images."""
    import numpy as np

    from keras_freetickets import metrics

    p = made.probabilities
    if p.shape[1] == num_classes + 1:
        # An image that is surely unknown is not a familiar one (MOON).
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
        # Of an ensemble the mean over its members.
        logits = made.logits[..., :num_classes]
        for name, score in {
            "energy": metrics.negative_energy,
            "maximum logit": metrics.maximum_logit,
        }.items():
            found[name] = np.mean([score(one) for one in logits], axis=0)
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

    classes = images.data.num_classes
    labels = np.tile(images.labels, len(SEVERITIES))
    parts = {network.name: [] for network in networks}
    found = {network.name: {} for network in networks}
    for name in names:
        print(f"Corruption {name}", flush=True)
        # One call for all severities: each call traces an ensemble again.
        x = images.corrupted(name, SEVERITIES)
        for network in networks:
            made = network.predict(x).probabilities
            parts[network.name].append(made)
            found[network.name][name] = [
                results.scores(one, images.labels, classes)
                for one in np.split(made, len(SEVERITIES))
            ]
    return {
        name: {
            "by_corruption": found[name],
            # All predictions put together, as FreeTickets has it.
            "together": results.scores(
                np.concatenate(made), np.tile(labels, len(names)), classes
            ),
        }
        for name, made in parts.items()
    }


def under_attack(networks, images, epsilon):
    """Accuracy where pixels were moved to raise a network's own loss.

    Of an ensemble also where they were moved to raise that of its first
    member alone.
    """
    import keras_freetickets as kft

    classes = images.data.num_classes
    found = {}
    for network in networks:
        attackers = {"itself": network.model}
        if getattr(network.model, "num_members", 1) > 1:
            attackers["its first member"] = network.model.member(0)
        for name, attacker in attackers.items():
            attacked = kft.attacks.fast_gradient_sign(
                attacker,
                images.x,
                images.labels,
                epsilon,
                mean=images.data.mean,
                std=images.data.std,
                batch_size=FLAGS.batch_size,
            )
            made = network.predict(attacked).probabilities
            row = results.scores(made, images.labels, classes)
            found.setdefault(network.name, {})[name] = row
    return found


def diversity(network, members, labels, num_classes):
    """What the members of an ensemble differ in."""
    import numpy as np

    import keras_freetickets as kft

    metrics = kft.metrics
    members = known_classes(members, num_classes)
    share = metrics.disagreement(members)
    faults = metrics.double_fault(labels, members)
    found = {
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
