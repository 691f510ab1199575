"""How well scores tell known inputs from unknown ones, exactly, of arrays.

The metrics that add up batches are in `detection.py`.
"""

import numpy as np

from keras_freetickets.arguments import check_choice
from keras_freetickets.arguments import check_number
from keras_freetickets.types import Tensor


def _read_scores(known, unknown):
    arrays = []
    for name, scores in (("known", known), ("unknown", unknown)):
        scores = np.asarray(scores, "float64").reshape(-1)
        if not scores.size or np.isnan(scores).any():
            what = "no scores" if not scores.size else "NaN among the scores"
            raise ValueError(
                f"`{name}` must hold one number or more, no NaN. "
                f"Received: {name} with {what}"
            )
        arrays.append(scores)
    return arrays


def _curve(positive, negative):
    """Positives and negatives at or above each score, the highest first."""
    scores = np.concatenate([positive, negative])
    place = np.unique(-scores, return_inverse=True)[1]
    counts = [
        np.bincount(part, minlength=place.max() + 1)
        for part in np.split(place, [len(positive)])
    ]
    return [np.cumsum(count) for count in counts]


def auroc(known: Tensor, unknown: Tensor) -> float:
    """Exact area under the ROC curve, see `AUROC`.

    Args:
        known: Array of the scores of known inputs, higher for the more
            familiar.
        unknown: Array of the scores of other inputs.

    Returns:
        Float in [0, 1]; 0.5 for scores that tell nothing.

    Raises:
        ValueError: If an array is empty or holds NaN.

    Example:

    >>> auroc([0.9, 0.8, 0.7, 0.6], [0.75, 0.5, 0.4, 0.3])  # 14 of 16 pairs
    0.875
    """
    known, unknown = _read_scores(known, unknown)
    hits, misses = _curve(known, unknown)
    hits = np.diff(hits, prepend=0)
    # Each known input beats the unknown ones below it and half of its equals.
    above = misses - np.diff(misses, prepend=0) / 2
    return float(1 - np.sum(hits * above) / (len(known) * len(unknown)))


def roc_curve(known: Tensor, unknown: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Shares of unknown and of known inputs accepted, for each threshold.

    Args:
        known, unknown: As for `auroc`.

    Returns:
        Tuple of rising arrays `(unknown_accepted, known_accepted)` of as many
        points as there are scores that differ, and (0, 0) before them.

    Raises:
        ValueError: If an array is empty or holds NaN.

    Example:

    >>> curve = roc_curve([0.9, 0.4], [0.5, 0.2])
    >>> [part.tolist() for part in curve]
    [[0.0, 0.0, 0.5, 0.5, 1.0], [0.0, 0.5, 0.5, 1.0, 1.0]]
    """
    known, unknown = _read_scores(known, unknown)
    hits, misses = _curve(known, unknown)
    return (
        np.concatenate([[0.0], misses / len(unknown)]),
        np.concatenate([[0.0], hits / len(known)]),
    )


def aupr(known: Tensor, unknown: Tensor, positive: str = "in") -> float:
    """Exact average precision, see `AUPR`.

    Args:
        known, unknown: As for `auroc`.
        positive: `"in"` or `"out"`, which of them are to be found.

    Returns:
        Float in (0, 1].

    Raises:
        ValueError: If an array is empty or holds NaN.

    Example:

    >>> area = aupr([0.9, 0.4], [0.5, 0.2])  # 1/2 * 1 + 1/2 * 2/3
    >>> round(area, 4)
    0.8333
    """
    check_choice("positive", positive, ("in", "out"))
    known, unknown = _read_scores(known, unknown)
    if positive == "out":
        known, unknown = -unknown, -known
    hits, misses = _curve(known, unknown)
    gained = np.diff(hits, prepend=0) / len(known)
    return float(np.sum(gained * hits / (hits + misses)))


def fpr_at_tpr(known: Tensor, unknown: Tensor, level: float = 0.95) -> float:
    """Exact share of unknown inputs accepted, see `FPRAtTPR`.

    Args:
        known, unknown: As for `auroc`.
        level: As for `FPRAtTPR`.

    Returns:
        Float in [0, 1].

    Raises:
        ValueError: If an array is empty or holds NaN, or `level` is out of
            range.

    Example:

    >>> fpr_at_tpr([0.9, 0.8, 0.7, 0.6], [0.75, 0.5, 0.4, 0.3])
    0.25
    """
    check_number("level", level, "(0, 1]")
    known, unknown = _read_scores(known, unknown)
    # 0.95 of 20 is 19, also where rounding makes it 19.000000000000004.
    wanted = max(1, int(np.ceil(level * len(known) * (1 - 1e-12))))
    threshold = np.sort(known)[::-1][wanted - 1]
    return float(np.mean(unknown >= threshold))
