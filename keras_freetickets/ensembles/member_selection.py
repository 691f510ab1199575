"""Which members of an ensemble to keep, by what they predict."""

import dataclasses
import typing

import keras
import numpy as np

from keras_freetickets.arguments import check_choice
from keras_freetickets.arguments import check_count
from keras_freetickets.metrics import validation


@dataclasses.dataclass
class MemberSelection:
    """What `EnsembleModel.select_members` returns.

    Attributes:
        ensemble: `EnsembleModel` of the members chosen, in their order.
        members: List of integers, which they are; a beginning of `order`.
        order: List of integers, the members in the order they were added in.
        scores: List of floats, the score of the first, the first two, ...
    """

    ensemble: typing.Any
    members: list
    order: list
    scores: list


def _likelihood(probabilities, labels):
    """Minus the mean negative log-likelihood."""
    chosen = probabilities[np.arange(len(labels)), labels]
    return np.mean(np.log(np.maximum(chosen, keras.config.epsilon())))


def _accuracy(probabilities, labels):
    return np.mean(probabilities.argmax(axis=-1) == labels)


# Score, to be made large, and the sign by which it is reported.
_METRICS = {"nll": (_likelihood, -1.0), "accuracy": (_accuracy, 1.0)}


def check_metric(metric):
    """Raises unless `metric` is the name of one."""
    check_choice("metric", metric, _METRICS)


def forward_selection(
    members, y, metric="nll", max_members=None, ignore_class=None
):
    """Adds, one at a time, the member that helps the mean most.

    Args:
        members: Array of probabilities `(members, examples, ..., classes)`,
            or `(members, examples, ..., 1)` of class 1.
        y: Labels `(examples, ...)`, integers, or one-hot
            `(examples, ..., classes)`.
        metric: `"nll"` or `"accuracy"`.
        max_members: Positive integer, when to stop; `None` for all.
        ignore_class: Integer, the label that is not counted, or `None`.

    Returns:
        Tuple of the order (list of integers), the scores of its beginnings
        (list of floats), and how many of them are best. Of equals the member
        of the lower number, and the smaller ensemble.

    Raises:
        ValueError: If the labels do not fit, or an argument is out of range.

    Example:

    ```python
    order, scores, best = forward_selection(members, labels, max_members=5)
    ```
    """
    check_metric(metric)
    score, sign = _METRICS[metric]
    members, labels = _rows(members, y, ignore_class)
    total = np.zeros(members.shape[1:])
    order, scores = [], []
    for size in range(1, _count(max_members, len(members)) + 1):
        left = [i for i in range(len(members)) if i not in order]
        means = ((total + members[i]) / size for i in left)
        found = [score(mean, labels) for mean in means]
        best = int(np.argmax(found))  # the first of equals
        order.append(left[best])
        scores.append(sign * float(found[best]))
        total += members[left[best]]
    return order, scores, int(np.argmax(sign * np.array(scores))) + 1


def _count(max_members, count):
    if max_members is None:
        return count
    check_count("max_members", max_members)
    return min(max_members, count)


def _rows(members, y, ignore_class):
    """Members' rows `(members, rows, classes)` and labels that count."""
    labels, counted = validation.read_label_array(
        y, members.shape[1:], ignore_class, "y"
    )
    if not counted.any():
        raise ValueError(
            "`y` must hold one label or more that counts. Received: y of "
            f"shape {np.shape(y)} with ignore_class={ignore_class}"
        )
    rows = validation.two_columns(members[:, counted], False, backend=np)
    return rows, labels[counted]
