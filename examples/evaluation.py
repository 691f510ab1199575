"""The evaluation that evaluate.py runs: predictions, numbers, sections."""

from typing import Any

import classifiers
import image_sets
import measures
import numpy as np
import report
import results
import robustness_sections
import sections
from absl import flags

import keras_freetickets as kft

FLAGS = flags.FLAGS
SEVERITIES = (1, 2, 3, 4, 5)
Networks = list[classifiers.Network]
Made = dict[str, classifiers.Predictions]


def evaluate(
    networks: Networks, images: image_sets.Images, corruptions: list[str]
) -> tuple[dict[str, Any], list[report.Section]]:
    """All numbers, for report.json, and the sections that show them."""
    labels, classes = images.labels, images.data.num_classes
    made = {
        network.name: network.predict(images.x, with_logits=bool(FLAGS.ood))
        for network in networks
    }
    clean = clean_scores(made, labels, classes)
    found: dict[str, Any] = {"clean": clean}
    parts = [sections.clean_images(clean, made, labels, classes)]
    if FLAGS.ood:
        found["ood"], section = unknown_images(networks, images, made)
        parts.append(section)
    if corruptions:
        rows = under_corruption(networks, images, corruptions)
        found["corruptions"] = rows
        section = robustness_sections.corrupted_images(rows, clean)
        parts.append(section)
    if FLAGS.attack:
        rows = under_attack(networks, images, FLAGS.attack)
        found["attack"] = rows
        section = robustness_sections.attacked_images(rows, clean, FLAGS.attack)
        parts.append(section)
    for network in networks:
        members = made[network.name].members
        if members is not None and len(members) > 1:
            row = measures.diversity(network, members, labels, classes)
            found.setdefault("diversity", {})[network.name] = row
            section = sections.members_apart(network.name, row, members, labels)
            parts.append(section)
    return found, parts


def clean_scores(
    made: Made, labels: np.ndarray, classes: int
) -> dict[str, dict[str, float]]:
    """Scores of each model, after those of its members."""
    rows = {}
    for name, one in made.items():
        for i, member in enumerate([] if one.members is None else one.members):
            row = measures.scores(member, labels, classes)
            rows[f"{name}: ticket {i}"] = row
        rows[name] = measures.scores(one.probabilities, labels, classes)
    return rows


def unknown_images(
    networks: Networks, images: image_sets.Images, made: Made
) -> tuple[dict[str, Any], report.Section]:
    """How well each score detects the images of each set of --ood."""
    classes = images.data.num_classes
    known = {
        name: measures.confidences(one, classes) for name, one in made.items()
    }
    unknown, found = {}, {}
    for name in FLAGS.ood:
        print(f"Unknown images: {name}", flush=True)
        x = image_sets.load_unknown(name, images)
        unknown[name] = {
            n.name: measures.confidences(n.predict(x, True), classes)
            for n in networks
        }
        found[name] = {
            model: {
                score: measures.detection(known[model][score], values)
                for score, values in kinds.items()
            }
            for model, kinds in unknown[name].items()
        }
    return found, sections.unknown_images(found, known, unknown)


def under_corruption(
    networks: Networks, images: image_sets.Images, names: list[str]
) -> dict[str, Any]:
    """Scores of each network by corruption and severity, and of all."""
    classes = images.data.num_classes
    labels = np.tile(images.labels, len(SEVERITIES))
    parts: dict[str, list[np.ndarray]] = {n.name: [] for n in networks}
    found: dict[str, dict[str, Any]] = {n.name: {} for n in networks}
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
            # All predictions pooled, as FreeTickets does.
            "together": results.scores(
                np.concatenate(made), np.tile(labels, len(names)), classes
            ),
        }
        for name, made in parts.items()
    }


def under_attack(
    networks: Networks, images: image_sets.Images, epsilon: float
) -> dict[str, Any]:
    """Scores on images whose pixels were moved to raise a network's own loss.

    For an ensemble also on those that raise the loss of its first member.
    """
    classes = images.data.num_classes
    found: dict[str, dict[str, Any]] = {}
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
