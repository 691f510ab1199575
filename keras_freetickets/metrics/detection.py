"""Metrics of how well a score tells unknown inputs from known ones.

In-distribution is the positive class: known inputs score higher. A metric
keeps a histogram of the scores of each kind, over cells of 1/1024 of a score's
size, so that batches and replicas can be added; the functions of arrays in
`roc.py` are exact.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_freetickets import data
from keras_freetickets.arguments import check_choice
from keras_freetickets.arguments import check_number
from keras_freetickets.metrics import out_of_distribution as scores
from keras_freetickets.metrics import validation
from keras_freetickets.metrics.base import ClassificationMetric
from keras_freetickets.metrics.grid import LogGrid
from keras_freetickets.metrics.grid import histogram
from keras_freetickets.types import Tensor

# From below what float32 resolves of 1 - p to logits of absurd size.
_SCORE_GRID = LogGrid(1024, -24, 16, signed=True)

# What each score reads: probabilities, logits or members' probabilities.
_SCORES: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "maximum_probability": ("probabilities", scores.maximum_probability),
    "entropy": ("probabilities", scores.negative_entropy),
    "unknown_aware": ("probabilities", scores.unknown_aware_score),
    "energy": ("logits", scores.negative_energy),
    "maximum_logit": ("logits", scores.maximum_logit),
    "mutual_information": ("members", scores.negative_mutual_information),
}
# Probabilities differ least near 1; the grid is finest near 0.
_SHIFTS = {"maximum_probability": -1.0, "unknown_aware": -1.0}


@dataclasses.dataclass
class _Scored:
    """Scores, which of them are of known inputs, and weights: `(inputs,)`."""

    scores: Tensor
    known: Tensor
    weights: Tensor


class _DetectionMetric(ClassificationMetric):
    """Histograms of the scores of known and unknown inputs."""

    def __init__(
        self,
        score: str | None = "maximum_probability",
        from_logits: bool = False,
        members_axis: int = 0,
        ignore_class: int | None = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(from_logits, ignore_class, name, dtype)
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
        self.members_axis: int = members_axis

    def make_state(self) -> None:
        self.known = self._zeros("known", (_SCORE_GRID.size,))
        self.unknown = self._zeros("unknown", (_SCORE_GRID.size,))

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

    def read(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None
    ) -> _Scored:
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
        parts = (self._scores(y_pred), known, weight)
        return _Scored(*(ops.reshape(part, (-1,)) for part in parts))

    def update_rows(self, rows: _Scored) -> None:
        for state, share in (
            (self.known, rows.known),
            (self.unknown, 1.0 - rows.known),
        ):
            state.assign_add(
                histogram(_SCORE_GRID, rows.scores, share * rows.weights)
            )

    def _arrays(self):
        return [
            ops.convert_to_numpy(v.value).astype("float64")
            for v in (self.known, self.unknown)
        ]

    def get_config(self) -> dict[str, Any]:
        return {
            "score": self.score,
            "members_axis": self.members_axis,
            **super().get_config(),
        }


@keras.saving.register_keras_serializable(package="keras_freetickets")
class AUROC(_DetectionMetric):
    """Area under the ROC curve of known against unknown inputs.

    The chance that a known input scores higher than an unknown one, ties
    counting half. Scores of one cell of the histogram count as ties:
    `error_bound()` says how far the value may be off; the function `auroc` is
    exact. NaN unless both kinds have been seen.

    Args:
        score: Which score to compute: `"maximum_probability"` (default),
            `"entropy"`, `"energy"`, `"maximum_logit"`, `"unknown_aware"`
            (MOON's), `"mutual_information"`, or `None` for predictions that
            are scores, `(batch,)` or `(batch, 1)`, higher for known inputs.
            Scores are resolved to 1/1024 of their size, so for a score near 1
            it is better to pass `score - 1`.
        from_logits: Whether predictions are logits. Energy and maximum logit
            need them.
        members_axis: Integer, for mutual information. 0 (default) for
            `(members, examples, ..., classes)`, as `predict_members` returns
            them; 1 for `(batch, members, ...)`, as a compiled model does.
        ignore_class: Integer, the `y_true` that is not counted, or `None`
            (default).
        name: Name of the metric; `None` (default) for `"auroc"`.
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

    default_name = "auroc"
    direction = "up"

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
        positive: The class to be found: `"in"` (default) for known inputs, by
            high scores; `"out"` for unknown ones, by low scores.
        score, from_logits, members_axis, ignore_class, name, dtype: As for
            `AUROC`; the name is `"aupr_in"` or `"aupr_out"` by default.

    Raises:
        ValueError: As `AUROC`.

    Example:

    ```python
    metric = AUPR(score=None)
    metric.update_state([1, 1, 0, 0], [0.9, 0.4, 0.5, 0.2])
    metric.result()  # 1/2 * 1 + 1/2 * 2/3 = 0.8333
    ```
    """

    direction = "up"

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
            Float, for examples of weight 1: the positives of a cell may all
            come before, or all after, its negatives.
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
        score, from_logits, members_axis, ignore_class, name, dtype: As for
            `AUROC`; the name is that of the level by default, `"fpr_at_95"`.

    Raises:
        ValueError: If `level` is out of range, and as `AUROC`.

    Example:

    ```python
    metric = FPRAtTPR(score=None)
    metric.update_state([1, 1, 0, 0], [0.9, 0.4, 0.5, 0.2])
    metric.result()  # 0.5 is accepted along with 0.4: 0.5
    ```
    """

    direction = "down"

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
