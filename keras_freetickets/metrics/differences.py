"""Whether one model scores better than another, or by chance."""

import dataclasses

import numpy as np

from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import check_number
from keras_freetickets.types import Tensor


@dataclasses.dataclass(frozen=True)
class Difference:
    """The difference of two mean scores, with an interval.

    What `paired_bootstrap` returns. The arguments are the attributes.

    Args:
        mean: Float, the first mean minus the second.
        low: Float, the lower end of the interval.
        high: Float, the upper end.

    Example:

    ```python
    Difference(mean=0.004, low=0.001, high=0.007).verdict()  # "wins"
    ```
    """

    mean: float
    low: float
    high: float

    def verdict(self, higher_is_better: bool = True) -> str:
        """What the interval says of the first model.

        Args:
            higher_is_better: Boolean, `False` for scores such as the negative
                log-likelihood. Defaults to `True`.

        Returns:
            `"wins"`, `"loses"`, or `"within noise"` where the interval holds
            0.
        """
        if self.low <= 0.0 <= self.high:
            return "within noise"
        return "wins" if (self.low > 0.0) == higher_is_better else "loses"


def paired_bootstrap(
    first: Tensor,
    second: Tensor,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Compares two models by their scores of the same examples.

    Examples are drawn with replacement, the same ones for both models, so
    that examples which are hard for both do not blur the difference. Of
    several training runs (seeds) those of each model are drawn too; their
    deviations from the model's mean are widened by sqrt(n / (n - 1)), without
    which the spread of n runs would come out too small. With one run the
    interval is that of the examples alone. The difference of the means is
    that of all examples and runs; the interval is the percentiles'.

    Args:
        first: Array of floats, one score for each example, `(examples,)` or
            `(runs, examples)`: 1 where the prediction was right, or
            `negative_log_likelihood`, for instance.
        second: Array of scores of the other model, of the same examples; the
            number of runs may differ.
        num_resamples: Positive integer. Defaults to 2000, with which the ends
            of an interval of 95 % are those of 50 resamples (Efron and
            Tibshirani ask for 1000 or more).
        confidence: Float in (0, 1). Defaults to 0.95.
        seed: Non-negative integer. Defaults to 0.

    Returns:
        A `Difference`.

    Raises:
        ValueError: If an argument is out of range, or the arrays do not fit.

    Example:

    ```python
    right = [model.predict(x).argmax(-1) == y for model in (sparse, dense)]
    paired_bootstrap(*right).verdict()  # "wins", "loses" or "within noise"
    ```

    Reference:
        Efron and Tibshirani, 1993, "An Introduction to the Bootstrap"; Rao
        and Wu, 1988, "Resampling inference with complex survey data", for the
        few runs.
    """
    check_count("num_resamples", num_resamples)
    check_number("confidence", confidence, "(0, 1)")
    check_count("seed", seed, least=0)
    one, other = _read("first", first), _read("second", second)
    if one.shape[1] != other.shape[1]:
        raise ValueError(
            "`first` and `second` must be of the same examples. Received: "
            f"first of shape {one.shape}, second of shape {other.shape}"
        )
    generator = np.random.default_rng(seed)
    draws = np.array(
        [_draw(generator, one, other) for _ in range(num_resamples)]
    )
    outside = (1.0 - confidence) / 2.0
    low, high = np.quantile(draws, [outside, 1.0 - outside])
    mean = one.mean() - other.mean()
    return Difference(float(mean), float(low), float(high))


def _read(name, values):
    """Scores as `(runs, examples)`, in double precision."""
    values = np.asarray(values, "float64")
    values = values[None] if values.ndim == 1 else values
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(
            f"`{name}` must hold one finite score for each example, as an "
            "array (examples,) or (runs, examples). "
            f"Received: {name} of shape {values.shape}"
        )
    return values


def _draw(generator, one, other):
    """The difference of the means of one resample."""
    count = one.shape[1]
    drawn = generator.integers(count, size=count)
    weights = np.bincount(drawn, minlength=count) / count
    first, second = (
        _of_runs(generator, scores @ weights) for scores in (one, other)
    )
    return first - second


def _of_runs(generator, means):
    """The mean of runs that are drawn with replacement."""
    runs = len(means)
    if runs == 1:
        return means[0]
    middle = means.mean()
    drawn = means[generator.integers(runs, size=runs)].mean()
    return middle + (drawn - middle) * np.sqrt(runs / (runs - 1))
