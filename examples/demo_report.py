"""What the demo says of its predictions: scores, differences, a sentence."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_freetickets import metrics

# The models of the table, and their names there.
NAMES = {
    "dense": "one dense network",
    "dense_ensemble": "three dense networks",
    "ticket": "the first ticket",
    "tickets": "three tickets of one run",
}
_SCORES = {"accuracy": "accuracy", "nll": "NLL"}
_COSTS = ("training_flops", "seconds", "bytes")
_WORDS = {
    "wins": "better than",
    "loses": "worse than",
    "within noise": "within noise of",
}


def scores(
    labels: np.ndarray, probabilities: np.ndarray
) -> dict[str, np.ndarray]:
    """Of each image: whether it is classified correctly, and its NLL."""
    nll = metrics.negative_log_likelihood(labels, probabilities)
    correct = probabilities.argmax(axis=-1) == labels
    return {"accuracy": correct.astype(float), "nll": np.asarray(nll)}


def report(
    labels: np.ndarray, folds: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Rows, differences and the sentence.

    Args:
        labels: Labels of the images, fold after fold.
        folds: Of each fold a dict with `probabilities` and `costs`, dicts of
            the models of `NAMES`.
    """
    every, rows = {}, []
    for name in NAMES:
        probabilities = joined(folds, name)
        every[name] = scores(labels, probabilities)
        row: dict[str, Any] = {"model": name}
        row |= {score: float(v.mean()) for score, v in every[name].items()}
        row["ece"] = metrics.expected_calibration_error(labels, probabilities)
        for cost in _COSTS:
            values = [fold["costs"][name][cost] for fold in folds]
            row[cost] = float(np.mean(values))
        rows.append(row)
    differences = [
        _difference(every, "tickets", other, score)
        for other in ("dense", "dense_ensemble")
        for score in _SCORES
    ]
    return {
        "images": len(labels),
        "rows": rows,
        "differences": differences,
        "sentence": sentence(len(labels), rows, differences),
    }


def joined(folds: Sequence[dict[str, Any]], name: str) -> np.ndarray:
    """A model's probabilities of the images, fold after fold."""
    parts = [fold["probabilities"][name] for fold in folds]
    return np.concatenate(parts).astype("float32")


def _difference(
    every: dict[str, dict[str, np.ndarray]],
    first: str,
    second: str,
    score: str,
) -> dict[str, Any]:
    """The first model's score minus the second's, with its interval."""
    found = metrics.paired_bootstrap(every[first][score], every[second][score])
    return {
        "first": first,
        "second": second,
        "score": score,
        **dataclasses.asdict(found),
        "verdict": found.verdict(higher_is_better=score == "accuracy"),
    }


def sentence(
    images: int,
    rows: Sequence[dict[str, Any]],
    differences: Sequence[dict[str, Any]],
) -> str:
    """What the table shows, whichever way it falls."""
    said: dict[str, list[str]] = {score: [] for score in _SCORES}
    for one in differences:
        phrase = f"{_WORDS[one['verdict']]} {NAMES[one['second']]}"
        said[one["score"]].append(phrase)
    by_name = {row["model"]: row for row in rows}
    flops, seconds, size = (
        by_name["tickets"][cost] / by_name["dense"][cost] for cost in _COSTS
    )
    return (
        f"On {images:,} images, each predicted by networks that had not seen "
        "it, three tickets of one run are in accuracy "
        f"{' and '.join(said['accuracy'])}, in NLL "
        f"{' and '.join(said['nll'])}. Compared with one dense network, they "
        f"took {flops:.2f} of the theoretical FLOPs of training and "
        f"{seconds:.1f} times the seconds, and their file has {size:.2f} of "
        "the bytes."
    )


def table(found: dict[str, Any]) -> str:
    """The report as text."""
    cells = [["model", *_SCORES.values(), "ECE", "train FLOPs x dense"]]
    cells[0] += ["train seconds", "file, kB"]
    for row in found["rows"]:
        cells.append(
            [
                NAMES[row["model"]],
                *(f"{row[score]:.4f}" for score in (*_SCORES, "ece")),
                f"{row['training_flops']:.3f}",
                f"{row['seconds']:.1f}",
                f"{row['bytes'] / 1000:.0f}",
            ]
        )
    lines = [_aligned(cells)]
    lines += ["", "Differences, with 95 % intervals over the images:"]
    for one in found["differences"]:
        lines.append(
            f"{NAMES[one['first']]} - {NAMES[one['second']]}, "
            f"{_SCORES[one['score']]}: {one['mean']:+.4f} "
            f"[{one['low']:+.4f}, {one['high']:+.4f}] {one['verdict']}"
        )
    return "\n".join([*lines, "", found["sentence"]])


def _aligned(cells: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    head, *lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join([head, "-" * len(head), *lines])
