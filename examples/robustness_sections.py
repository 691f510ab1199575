"""Sections of the report: corrupted images and attacked images."""

from typing import Any

import numpy as np
import report

from keras_freetickets import plots


def corrupted_images(
    found: dict[str, Any], clean: dict[str, dict[str, float]]
) -> report.Section:
    keys = ["accuracy", "nll", "ece"]

    def levels(model: str, corruption: str, key: str) -> list[float]:
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
        f"{len(names)} corruptions at 5 severities, "
        "made from the test images. cA, cNLL and cECE pool all predictions. In "
        "the picture a line is the mean over corruptions; half of them are in "
        "its band."
    )
    drawn = report.picture(
        "severity",
        "Against the severity of corruptions",
        plots.severity_curves,
        curves,
        labels=["accuracy", "NLL", "ECE"],
    )
    return report.Section("Corruptions", text, [together, means], [drawn])


def attacked_images(
    found: dict[str, Any],
    clean: dict[str, dict[str, float]],
    epsilon: float,
) -> report.Section:
    rows = [
        [name, clean[name]["accuracy"], attacker, row["accuracy"], row["nll"]]
        for name, attackers in found.items()
        for attacker, row in attackers.items()
    ]
    heads = ["model", "accuracy", "attacked by", "accuracy then", "NLL then"]
    text = (
        f"One step of {epsilon:.4g} of the pixels' range in the direction of "
        "the sign of the gradient, which raises the loss. A network so "
        "confident that its probabilities round to 1 has no gradient, so it "
        "looks more robust than it is."
    )
    return report.Section("Attacks", text, [report.Table(heads, rows)], [])
