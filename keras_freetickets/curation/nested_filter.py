"""Which training examples stay, by scores that several models add up."""

import math
import typing

import numpy as np

from keras_freetickets.arguments import check_boolean
from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import check_number
from keras_freetickets.types import Array


class NestedFilter:
    """Keeps the examples that scored best, round after round.

    In each round all examples that are left get a score, and the worst of them
    are dropped for good. Scores are added up and never reset, a temporal
    ensemble that is steadier than any one model; as the sets are nested, all
    that are left have been scored equally often.

    Args:
        num_examples: Positive integer.
        keep: Float in (0, 1], the share of the examples left that each round
            keeps, rounded down. Defaults to 0.9 (released code). With 1
            nothing is ever dropped.
        floor: Float in [0, 1], the share of all examples below which no round
            goes, so that hard but clean examples stay. Defaults to 0.5 (ours).
        accumulate: Whether scores are added up over rounds (default), or only
            those of the last round count.
        spare_disputed: Whether to keep examples of a low mean whose scores
            differ more over the rounds than those of the median example: the
            models disagree on them, as they do on hard examples. From the
            second round on. Defaults to False, as in the released code.

    Attributes:
        active: Array of integers, ascending, the examples left.
        totals: Array `(num_examples,)`, sums of scores.
        counts: Array of integers `(num_examples,)`, how often each was scored.
        rounds: Integer, the rounds so far.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> chosen = NestedFilter(4, keep=0.5)
    >>> chosen.update([0.1, 0.9, 0.5, 0.2]).tolist()
    [1, 2]

    Reference:
        Wang et al., 2021, arXiv:2109.04699 (ensemble confident learning);
        xxaxxx/EfficientCLIP. There the first round's scores are those of an
        untrained model; score after a first training instead.
    """

    def __init__(
        self,
        num_examples: int,
        keep: float = 0.9,
        floor: float = 0.5,
        accumulate: bool = True,
        spare_disputed: bool = False,
    ) -> None:
        check_count("num_examples", num_examples)
        check_number("keep", keep, "(0, 1]")
        check_number("floor", floor)
        check_boolean("accumulate", accumulate)
        check_boolean("spare_disputed", spare_disputed)
        self.num_examples = num_examples
        self.keep = keep
        self.floor = floor
        self.accumulate = accumulate
        self.spare_disputed = spare_disputed
        self.active = np.arange(num_examples)
        self.totals = np.zeros(num_examples)
        self.counts = np.zeros(num_examples, int)
        self._squares = np.zeros(num_examples)
        self.rounds = 0

    def update(self, scores: typing.Any) -> Array:
        """Adds the scores of one round and drops the worst examples.

        Args:
            scores: Array of floats, one for each of `active`, in its order;
                the larger, the more an example is trusted.

        Returns:
            Array of integers, the examples left, `active`.

        Raises:
            ValueError: If `scores` has another length or is not finite.
        """
        scores = np.asarray(scores, "float64")
        if scores.shape != self.active.shape or not np.isfinite(scores).all():
            raise ValueError(
                f"`scores` must be {len(self.active)} finite numbers, one for "
                "each example of `active`. Received: scores of shape "
                f"{scores.shape} with {np.sum(~np.isfinite(scores))} not finite"
            )
        self.totals[self.active] += scores
        self._squares[self.active] += scores**2
        self.counts[self.active] += 1
        self.rounds += 1
        ranked = self.totals[self.active] if self.accumulate else scores
        least = math.ceil(self.floor * self.num_examples)
        # 0.29 * 100 is 28.999 in floats.
        share = math.floor(self.keep * len(self.active) + 1e-9)
        count = max(share, min(least, len(self.active)), 1)
        # Stable, so that of equals the first stay.
        order = np.argsort(-ranked, kind="stable")
        kept, dropped = order[:count], order[count:]
        if self.spare_disputed and self.rounds > 1:
            spreads = self.spreads()
            spared = spreads[dropped] > np.median(spreads)
            kept = np.concatenate([kept, dropped[spared]])
        self.active = np.sort(self.active[kept])
        return self.active

    def spreads(self) -> Array:
        """Standard deviation over the rounds of each example left.

        Returns:
            Array of floats, in the order of `active`; zeros before a round.
        """
        counts = np.maximum(self.counts[self.active], 1)
        mean = self.totals[self.active] / counts
        variance = self._squares[self.active] / counts - mean**2
        return np.sqrt(np.maximum(variance, 0.0))


def label_scores(
    probabilities: Array, y: Array, kind: str = "log_probability"
) -> Array:
    """How much a classifier trusts the labels of examples.

    Args:
        probabilities: Array `(examples, classes)`.
        y: Array of integers `(examples,)`, labels that may be wrong.
        kind: `"log_probability"` (default) of the label, or `"margin"`: its
            probability minus the largest of another class.

    Returns:
        Array of floats `(examples,)`, for `NestedFilter.update`.

    Raises:
        ValueError: If the arrays do not fit, or `kind` is unknown.

    Example:

    >>> label_scores([[0.75, 0.25], [0.75, 0.25]], [0, 1], "margin").tolist()
    [0.5, -0.5]
    """
    p, y = np.asarray(probabilities, "float64"), np.asarray(y)
    fits = p.ndim == 2 and y.shape == p.shape[:1] and y.dtype.kind in "iu"
    if not fits or (len(y) and not 0 <= y.min() <= y.max() < p.shape[1]):
        raise ValueError(
            "`y` must hold a class for each row of `probabilities`, "
            f"(examples, classes). Received: y of shape {y.shape} and "
            f"probabilities of shape {p.shape}"
        )
    own = p[np.arange(len(y)), y]
    if kind == "log_probability":
        return np.log(np.maximum(own, np.finfo("float32").tiny))
    if kind != "margin":
        raise ValueError(
            "`kind` must be 'log_probability' or 'margin'. Received: "
            f"kind={kind!r}"
        )
    others = p.copy()
    others[np.arange(len(y)), y] = -np.inf
    return own - others.max(axis=1)
