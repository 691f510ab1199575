"""Out-of-distribution scores, and metrics of how well they detect.

Every score is higher for inputs that look familiar: in-distribution is the
positive class. The metrics keep a histogram of the scores of each kind, over
cells of 1/1024 of a score's size, so that batches and replicas can be added;
the functions on arrays are exact.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_freetickets import data
from keras_freetickets import keras_adapter
from keras_freetickets.arguments import check_boolean
from keras_freetickets.arguments import check_choice
from keras_freetickets.arguments import check_number
from keras_freetickets.metrics import diversity
from keras_freetickets.metrics import validation
from keras_freetickets.metrics.grid import LogGrid
from keras_freetickets.metrics.grid import histogram
from keras_freetickets.types import Tensor

# From below what float32 resolves of 1 - p to logits of absurd size.
_SCORE_GRID = LogGrid(1024, -24, 16, signed=True)


def maximum_probability(probabilities: Tensor) -> Tensor:
    """The largest probability.

    Args:
        probabilities: Tensor `(examples, ..., classes)`, or
            `(examples, ..., 1)` of class 1.

    Returns:
        Tensor `(examples, ...)`, higher for familiar inputs.

    Raises:
        ValueError: If rows do not sum to one.

    Example:

    >>> score = maximum_probability([[0.75, 0.25]])
    >>> round(float(score[0]), 4)
    0.75

    Reference:
        Hendrycks and Gimpel, 2017, arXiv:1610.02136.
    """
    return ops.max(validation.read_predictions(probabilities, False), axis=-1)


def negative_entropy(probabilities: Tensor) -> Tensor:
    """Minus the entropy of the probabilities, in nats.

    Args:
        probabilities: Tensor `(examples, ..., classes)`, or
            `(examples, ..., 1)` of class 1.

    Returns:
        Tensor `(examples, ...)`, higher for familiar inputs.

    Raises:
        ValueError: If rows do not sum to one.

    Example:

    >>> score = negative_entropy([[0.5, 0.5]])  # -log 2
    >>> round(float(score[0]), 4)
    -0.6931
    """
    probabilities = validation.read_predictions(probabilities, False)
    return -diversity.predictive_entropy(probabilities[None])


def negative_energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Minus the energy, `T log sum_k exp(z_k / T)`.

    Args:
        logits: Tensor `(examples, ..., classes)`, two classes or more.
        temperature: Positive float. Defaults to 1 (Liu et al., 2020).

    Returns:
        Tensor `(examples, ...)`, higher for familiar inputs.

    Raises:
        ValueError: If the temperature is not positive, or there is one column
            of logits: a sigmoid has no energy, for it is a softmax of any
            two logits with that difference.

    Example:

    >>> score = negative_energy([[0.0, 0.0]])  # log 2
    >>> round(float(score[0]), 4)
    0.6931

    Reference:
        Liu et al., 2020, arXiv:2010.03759.
    """
    check_number("temperature", temperature, "(0, inf)")
    logits = _read_logits(logits)
    return temperature * ops.logsumexp(logits / temperature, axis=-1)


def maximum_logit(logits: Tensor) -> Tensor:
    """The largest logit.

    Args:
        logits: Tensor `(examples, ..., classes)`, two classes or more.

    Returns:
        Tensor `(examples, ...)`, higher for familiar inputs.

    Raises:
        ValueError: If there is one column of logits, as `negative_energy`.

    Example:

    >>> score = maximum_logit([[3.0, -1.0]])
    >>> round(float(score[0]), 4)
    3.0

    Reference:
        Hendrycks et al., 2022, arXiv:1911.11132.
    """
    return ops.max(_read_logits(logits), axis=-1)


def _read_logits(logits):
    logits = ops.cast(ops.convert_to_tensor(logits), "float32")
    if len(logits.shape) < 2 or logits.shape[-1] == 1:
        raise ValueError(
            "`logits` must have a column for each of two classes or more; of "
            "a binary classifier's one column take `maximum_probability` of "
            "its sigmoid. "
            f"Received: logits of shape {tuple(logits.shape)}"
        )
    return logits


def negative_mutual_information(
    members: Tensor, members_axis: int = 0
) -> Tensor:
    """Minus the mutual information of an ensemble's members, in nats.

    Args:
        members: Probabilities `(members, examples, ..., classes)`, or
            `(members, examples, ..., 1)` of class 1.
        members_axis: Integer, 0 (default), or 1 for
            `(examples, members, ..., classes)`.

    Returns:
        Tensor `(examples, ...)`, higher for familiar inputs.

    Raises:
        ValueError: If the shape is wrong or rows do not sum to one.

    Example:

    >>> score = negative_mutual_information([[[1.0, 0.0]], [[0.0, 1.0]]])
    >>> round(float(score[0]), 4)  # -log 2
    -0.6931
    """
    return -diversity.mutual_information(members, members_axis)


def unknown_aware_score(probabilities: Tensor) -> Tensor:
    """MOON's score: the largest probability of all classes but the last.

    The last output stands for "unknown"; what it takes lowers the score.

    Args:
        probabilities: Tensor `(examples, ..., classes + 1)`, summing to one
            with the unknown.

    Returns:
        Tensor `(examples, ...)`, higher for familiar inputs.

    Raises:
        ValueError: If rows do not sum to one, or there is one column.

    Example:

    >>> score = unknown_aware_score([[0.3, 0.2, 0.5]])
    >>> round(float(score[0]), 4)
    0.3

    Reference:
        Lei et al., 2024, arXiv:2403.20047.
    """
    probabilities = ops.convert_to_tensor(probabilities)
    if probabilities.shape[-1] == 1:
        raise ValueError(
            "`probabilities` must have a column for the unknown, the last, "
            "and one or more for classes. Received: probabilities of shape "
            f"{tuple(probabilities.shape)}"
        )
    probabilities = validation.read_predictions(probabilities, False)
    best = ops.max(probabilities[..., :-1], axis=-1)
    return validation.keep_nan(best, probabilities)


# What each score reads: probabilities, logits or members' probabilities.
_SCORES: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "maximum_probability": ("probabilities", maximum_probability),
    "entropy": ("probabilities", negative_entropy),
    "unknown_aware": ("probabilities", unknown_aware_score),
    "energy": ("logits", negative_energy),
    "maximum_logit": ("logits", maximum_logit),
    "mutual_information": ("members", negative_mutual_information),
}
# Probabilities differ least near 1; the grid is finest near 0.
_SHIFTS = {"maximum_probability": -1.0, "unknown_aware": -1.0}


class _DetectionMetric(keras.metrics.Metric):
    """Histograms of the scores of known and unknown inputs."""

    def __init__(
        self,
        score: str | None,
        from_logits: bool,
        members_axis: int,
        ignore_class: int | None,
        name: str,
        dtype: Any,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        check_boolean("from_logits", from_logits)
        validation.check_ignore_class(ignore_class)
        validation.check_members_axis(members_axis)
        if score is not None:
            check_choice("score", score, _SCORES)
            kind = _SCORES[score][0]
            if kind == "logits" and not from_logits:
                raise ValueError(
                    f"`from_logits` must be True for `score={score!r}`: it is "
                    "computed from logits, not from probabilities. "
                    f"Received: from_logits={from_logits}"
                )
            if kind == "members" and from_logits:
                raise ValueError(
                    f"`from_logits` must be False for `score={score!r}`, made "
                    "of the members' probabilities. "
                    f"Received: from_logits={from_logits}"
                )
        self.score = score
        self.from_logits = from_logits
        self.members_axis = members_axis
        self.ignore_class = ignore_class
        self.known = self._histogram("known")
        self.unknown = self._histogram("unknown")

    def _histogram(self, name):
        return self.add_variable(
            shape=(_SCORE_GRID.size,),
            initializer="zeros",
            dtype="float32",
            name=name,
        )

    def _read(self, y_pred):
        """Predictions, those of members first, and the shape of the scores."""
        y_pred = ops.convert_to_tensor(y_pred)
        if self.score is None:
            y_pred = data.without_column(y_pred)
            return y_pred, ops.shape(y_pred)
        kind, _ = _SCORES[self.score]
        if kind == "members":
            y_pred = validation.members_first(y_pred, self.members_axis)
            return y_pred, ops.shape(y_pred)[1:-1]
        validation.check_shape(y_pred)
        return y_pred, ops.shape(y_pred)[:-1]

    def _scores(self, y_pred):
        if self.score is None:
            return ops.cast(y_pred, "float32")
        kind, function = _SCORES[self.score]
        if kind == "probabilities":
            y_pred = validation.read_predictions(y_pred, self.from_logits)
        return function(y_pred) + _SHIFTS.get(self.score, 0.0)

    def update_state(
        self,
        y_true: Tensor,
        y_pred: Tensor,
        sample_weight: Tensor | None = None,
    ) -> None:
        y_pred, shape = self._read(y_pred)
        known = validation.read_known(y_true, shape)
        weight = validation.read_weights(sample_weight, shape)
        if self.ignore_class is not None:
            counted = ops.not_equal(known, float(self.ignore_class))
            weight = ops.where(counted, weight, 0.0)
            known = ops.where(counted, known, 0.0)
            if self.score is not None:
                y_pred = validation.without_ignored(y_pred, counted)
            else:
                y_pred = ops.where(counted, y_pred, ops.zeros_like(y_pred))
        values = validation.concrete(known)
        if values is not None and not np.isin(values, (0, 1)).all():
            raise ValueError(
                "`y_true` must be 1 for known inputs and 0 for others. "
                f"Received: y_true with the values {np.unique(values)[:5]}"
            )
        known, weight, scores = (
            ops.reshape(part, (-1,))
            for part in (known, weight, self._scores(y_pred))
        )
        self.known.assign_add(histogram(_SCORE_GRID, scores, known * weight))
        self.unknown.assign_add(
            histogram(_SCORE_GRID, scores, (1.0 - known) * weight)
        )

    def _arrays(self):
        return [
            ops.convert_to_numpy(v.value).astype("float64")
            for v in (self.known, self.unknown)
        ]

    def get_config(self) -> dict[str, Any]:
        return {
            "score": self.score,
            "from_logits": self.from_logits,
            "members_axis": self.members_axis,
            "ignore_class": self.ignore_class,
            "name": self.name,
            "dtype": self.dtype,
        }


@keras.saving.register_keras_serializable(package="keras_freetickets")
class AUROC(_DetectionMetric):
    """Area under the ROC curve of known against unknown inputs.

    The chance that a known input scores higher than an unknown one, ties
    counting half. Scores of one cell of the histogram count as ties:
    `error_bound()` says how far the value may be off; the function `auroc` is
    exact. NaN unless both kinds have been seen.

    Args:
        score: What to make of the predictions: `"maximum_probability"`,
            `"entropy"`, `"energy"`, `"maximum_logit"`, `"unknown_aware"`
            (MOON's), `"mutual_information"`, or `None` for predictions that
            are scores, `(batch,)` or `(batch, 1)`, higher for known inputs.
            Scores are resolved to 1/1024 of their size, so for a score near 1
            it is better to pass `score - 1`.
        from_logits: Whether predictions are logits. Energy and maximum logit
            need them.
        members_axis: Integer, of mutual information. 0 (default) for
            `(members, examples, ..., classes)`, as `predict_members` returns
            them; 1 for `(batch, members, ...)`, as a compiled model does.
        ignore_class: Integer, the `y_true` that is not counted, or `None`
            (default).
        name: Name of the metric.
        dtype: Unused; sums are kept in float32.

    Call arguments:
        y_true: 1 for known inputs, 0 for others: `(batch,)`, or
            `(batch, ...)` where only some positions of an input are unknown.
        y_pred: Predictions `(batch, ..., classes)`, or `(batch, ..., 1)` of
            class 1; for mutual information those of the members.
        sample_weight: Optional weights `(batch,)` up to `(batch, ...)`.

    Raises:
        ValueError: If an argument is out of range, `y_true` is of another
            length or, called eagerly, rows do not sum to one or `y_true` is
            not 0 or 1.

    Example:

    ```python
    metric = AUROC(score=None)
    metric.update_state([1, 1, 0, 0], [0.9, 0.4, 0.5, 0.2])
    metric.result()  # 3 of 4 pairs are in order: 0.75
    ```
    """

    def __init__(
        self,
        score: str | None = "maximum_probability",
        from_logits: bool = False,
        members_axis: int = 0,
        ignore_class: int | None = None,
        name: str = "auroc",
        dtype: Any = None,
    ) -> None:
        super().__init__(
            score, from_logits, members_axis, ignore_class, name, dtype
        )
        keras_adapter.set_direction(self, "up")

    def result(self) -> Tensor:
        known = self.known.value / ops.sum(self.known.value)
        unknown = self.unknown.value / ops.sum(self.unknown.value)
        below = ops.cumsum(unknown) - unknown / 2
        return ops.sum(known * below)

    def error_bound(self) -> float:
        """How far `result` may be from the value of all scores, at most.

        Returns:
            Float: half the chance that a known and an unknown input share a
            cell.
        """
        known, unknown = self._arrays()
        return float(np.sum(known * unknown) / known.sum() / unknown.sum() / 2)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class AUPR(_DetectionMetric):
    """Area under the precision-recall curve, as average precision.

    The sum over thresholds of precision times the recall gained, without
    interpolation. `error_bound()` says how far the histogram may be off; the
    function `aupr` is exact. NaN unless both kinds have been seen.

    Args:
        positive: `"in"`: known inputs are to be found, by high scores;
            `"out"`: unknown ones, by low scores.
        score: As for `AUROC`.
        from_logits: As for `AUROC`.
        members_axis: As for `AUROC`.
        ignore_class: As for `AUROC`.
        name: Name of the metric, `"aupr_in"` or `"aupr_out"` if `None`.
        dtype: Unused; sums are kept in float32.

    Raises:
        ValueError: As `AUROC`.

    Example:

    ```python
    metric = AUPR(score=None)
    metric.update_state([1, 1, 0, 0], [0.9, 0.4, 0.5, 0.2])
    metric.result()  # 1/2 * 1 + 1/2 * 2/3 = 0.8333
    ```
    """

    def __init__(
        self,
        positive: str = "in",
        score: str | None = "maximum_probability",
        from_logits: bool = False,
        members_axis: int = 0,
        ignore_class: int | None = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        check_choice("positive", positive, ("in", "out"))
        name = name or f"aupr_{positive}"
        super().__init__(
            score, from_logits, members_axis, ignore_class, name, dtype
        )
        self.positive = positive
        keras_adapter.set_direction(self, "up")

    def _ranked(self, known, unknown):
        """Positives and negatives in each cell, the surest cell first."""
        if self.positive == "in":
            return known[::-1], unknown[::-1]
        return unknown, known

    def result(self) -> Tensor:
        found, wrong = self._ranked(self.known.value, self.unknown.value)
        hits = ops.cumsum(found)
        precision = ops.divide_no_nan(hits, hits + ops.cumsum(wrong))
        total = ops.sum(found)
        one_kind = ops.minimum(total, ops.sum(wrong)) == 0
        value = ops.sum(found * precision) / total
        return ops.where(one_kind, float("nan"), value)

    def error_bound(self) -> float:
        """How far `result` may be from the value of all scores, at most.

        Returns:
            Float: positives of a cell may all come before or all after its
            negatives. For examples of weight 1.
        """
        found, wrong = self._ranked(*self._arrays())
        filled = found > 0
        hits, misses = np.cumsum(found)[filled], np.cumsum(wrong)[filled]
        found, wrong = found[filled], wrong[filled]
        best = hits / (hits + misses - wrong)
        worst = (hits - found + 1) / (hits - found + 1 + misses)
        return float(np.sum(found * (best - worst)) / found.sum())

    def get_config(self) -> dict[str, Any]:
        return {"positive": self.positive, **super().get_config()}


@keras.saving.register_keras_serializable(package="keras_freetickets")
class FPRAtTPR(_DetectionMetric):
    """Share of unknown inputs accepted where most known ones are.

    The threshold is the highest at which at least `level` of the known inputs
    score as high or higher. `error_bound()` says how far the histogram may be
    off, always to the high side; the function `fpr_at_tpr` is exact. NaN
    unless both kinds have been seen.

    Args:
        level: Float in (0, 1], the share of known inputs to accept. Defaults
            to 0.95, the FPR@95 of the literature.
        score: As for `AUROC`.
        from_logits: As for `AUROC`.
        members_axis: As for `AUROC`.
        ignore_class: As for `AUROC`.
        name: Name of the metric, e.g. `"fpr_at_95"` if `None`.
        dtype: Unused; sums are kept in float32.

    Raises:
        ValueError: If `level` is out of range, and as `AUROC`.

    Example:

    ```python
    metric = FPRAtTPR(score=None)
    metric.update_state([1, 1, 0, 0], [0.9, 0.4, 0.5, 0.2])
    metric.result()  # 0.5 is accepted along with 0.4: 0.5
    ```
    """

    def __init__(
        self,
        level: float = 0.95,
        score: str | None = "maximum_probability",
        from_logits: bool = False,
        members_axis: int = 0,
        ignore_class: int | None = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        check_number("level", level, "(0, 1]")
        name = name or f"fpr_at_{100 * level:g}"
        super().__init__(
            score, from_logits, members_axis, ignore_class, name, dtype
        )
        self.level = level
        keras_adapter.set_direction(self, "down")

    def result(self) -> Tensor:
        accepted = ops.cumsum(self.known.value[::-1])
        wrongly = ops.cumsum(self.unknown.value[::-1])
        # A hair less, for 19 of 20 to be 0.95 in float32 too.
        wanted = self.level * (1 - 1e-6) * accepted[-1]
        reached = accepted >= wanted
        rate = ops.min(ops.where(reached, wrongly, wrongly[-1])) / wrongly[-1]
        return ops.where(accepted[-1] > 0, rate, float("nan"))

    def error_bound(self) -> float:
        """How far `result` may be above the value of all scores, at most.

        Returns:
            Float: the share of unknown inputs in the cell of the threshold.
        """
        known, unknown = self._arrays()
        accepted = np.cumsum(known[::-1])
        wanted = self.level * (1 - 1e-6) * accepted[-1]
        cell = np.searchsorted(accepted, wanted, side="left")
        return float(unknown[::-1][cell] / unknown.sum())

    def get_config(self) -> dict[str, Any]:
        return {"level": self.level, **super().get_config()}


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
        known: Array of the scores of known inputs.
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
        known: Array of the scores of known inputs.
        unknown: Array of the scores of other inputs.

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
        known: Array of the scores of known inputs.
        unknown: Array of the scores of other inputs.
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
        known: Array of the scores of known inputs.
        unknown: Array of the scores of other inputs.
        level: Float in (0, 1], the share of known inputs to accept. Defaults
            to 0.95, the FPR@95 of the literature.

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
