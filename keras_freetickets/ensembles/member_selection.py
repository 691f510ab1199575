"""Selection of the members of an ensemble that predict best together."""

import dataclasses
import typing
from collections.abc import Callable

import keras
import numpy as np

from keras_freetickets.arguments import check_choice
from keras_freetickets.arguments import check_count
from keras_freetickets.metrics import arrays
from keras_freetickets.metrics import validation
from keras_freetickets.types import Tensor

_Score = Callable[[np.ndarray, np.ndarray], float]


@dataclasses.dataclass
class MemberSelection:
    """What `EnsembleModel.select_members` returns.

    The arguments are the attributes.

    Args:
        ensemble: `EnsembleModel` of the chosen members, best first.
        members: List of integers, the indices of the chosen members: the
            first entries of `order`.
        order: List of integers, the members in the order in which they were
            added.
        scores: List of floats, the score of the first member, of the first
            two, and so on.

    Example:

    ```python
    selection = ensemble.select_members(x_validation, y_validation)
    selection.ensemble.evaluate(x_test, y_test)
    ```
    """

    ensemble: typing.Any  # EnsembleModel, whose module imports this one
    members: list[int]
    order: list[int]
    scores: list[float]


def _likelihood(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Minus the mean negative log-likelihood."""
    chosen = probabilities[np.arange(len(labels)), labels]
    return float(np.mean(np.log(np.maximum(chosen, keras.config.epsilon()))))


def _accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(probabilities.argmax(axis=-1) == labels))


def _squared_error(predictions: np.ndarray, targets: np.ndarray) -> float:
    """Minus the mean squared error."""
    return -float(np.mean(np.square(predictions - targets)))


# A score, higher for better predictions, and the sign it is reported with.
_METRICS: dict[str, tuple[_Score, float]] = {
    "nll": (_likelihood, -1.0),
    "accuracy": (_accuracy, 1.0),
    "mse": (_squared_error, -1.0),
}


def metric_of(metric: str | None, is_classifier: bool) -> str:
    """The metric that `metric` stands for; raises if it does not fit."""
    choices = ["nll", "accuracy"] if is_classifier else ["mse"]
    if metric is None:
        return choices[0]
    check_choice("metric", metric, choices)
    return metric


def forward_selection(
    members: np.ndarray,
    y: Tensor,
    metric: str = "nll",
    max_members: int | None = None,
    ignore_class: int | None = None,
) -> tuple[list[int], list[float], int]:
    """Adds, one at a time, the member that improves the mean most.

    Args:
        members: Array of probabilities `(members, examples, ..., classes)`,
            or `(members, examples, ..., 1)` of class 1; of regressors their
            outputs `(members, examples, ..., outputs)`.
        y: Labels `(examples, ...)`, integers, or one-hot
            `(examples, ..., classes)`; targets `(examples, ..., outputs)` of
            regressors.
        metric: `"nll"` or `"accuracy"`; `"mse"` for regressors.
        max_members: Positive integer, the largest size to try. `None`
            (default) for all.
        ignore_class: Integer, the label that is not counted, or `None`.

    Returns:
        Tuple of the order (list of integers), the scores of its first 1, 2,
        ... members (list of floats), and the number of members that is best.
        Among equals the member of the lower number, and the smaller ensemble.

    Raises:
        ValueError: If the labels do not fit, or an argument is out of range.

    Example:

    ```python
    order, scores, best = forward_selection(members, labels, max_members=5)
    ```
    """
    score, sign = _METRICS[metric]
    if metric == "mse":
        labels = _targets(y, members.shape[1:])
    else:
        members, labels = _rows(members, y, ignore_class)
    total = np.zeros(members.shape[1:])
    order: list[int] = []
    scores: list[float] = []
    for size in range(1, _count(max_members, len(members)) + 1):
        left = [i for i in range(len(members)) if i not in order]
        means = ((total + members[i]) / size for i in left)
        found = [score(mean, labels) for mean in means]
        best = int(np.argmax(found))  # the first of equals
        order.append(left[best])
        scores.append(sign * float(found[best]))
        total += members[left[best]]
    return order, scores, int(np.argmax(sign * np.array(scores))) + 1


def _targets(y: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """Targets in the shape of one member's outputs."""
    targets = np.asarray(y, "float64")
    if targets.shape == shape[:-1] and shape[-1] == 1:
        targets = targets[..., None]
    if targets.shape != shape or not targets.size:
        raise ValueError(
            f"`y` must hold targets in the shape of the outputs, {shape}. "
            f"Received: y of shape {np.shape(y)}"
        )
    return targets


def _count(max_members: int | None, count: int) -> int:
    if max_members is None:
        return count
    check_count("max_members", max_members)
    return min(max_members, count)


def _rows(
    members: np.ndarray, y: Tensor, ignore_class: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Members' rows `(members, rows, classes)` and labels that count."""
    labels, counted = arrays.read_label_array(
        y, members.shape[1:], ignore_class, "y"
    )
    if not counted.any():
        raise ValueError(
            "`y` must hold one label or more that counts. Received: y of "
            f"shape {np.shape(y)} with ignore_class={ignore_class}"
        )
    rows = validation.two_columns(members[:, counted], False, backend=np)
    return rows, labels[counted]
