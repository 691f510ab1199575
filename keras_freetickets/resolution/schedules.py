"""Which steps of a training are reduced."""

import dataclasses

import numpy as np

from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import check_number


class Schedule:
    """Base class of schedules: subclasses define `is_reduced`.

    It is a function of the step alone, so that a resumed training reduces the
    same steps.

    Example:

    ```python
    class FirstHalf(Schedule):
        def is_reduced(self, step, num_steps):
            return step < num_steps / 2
    ```
    """

    def is_reduced(self, step: int, num_steps: int) -> bool:
        """Whether a step trains on a reduced batch.

        Args:
            step: Integer, counted from 0.
            num_steps: Integer, the steps of the training.
        """
        raise NotImplementedError  # abstract

    def share(self, num_steps: int) -> float:
        """The share of reduced steps in a training of `num_steps`.

        Args:
            num_steps: Positive integer.

        Example:

        >>> Periodic(reduced=1, period=4, until=0.8).share(100)
        0.2
        """
        flags = [self.is_reduced(step, num_steps) for step in range(num_steps)]
        return float(np.mean(flags))


@dataclasses.dataclass(frozen=True)
class Periodic(Schedule):
    """The first `reduced` steps of every `period` steps are reduced.

    Args:
        reduced: Non-negative integer, at most `period`. Defaults to 1.
        period: Positive integer. Defaults to 2: every second step is reduced.
        until: Float in [0, 1], the share of the training after which all steps
            are full. Defaults to 0.8.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> schedule = Periodic(reduced=1, period=3, until=0.5)
    >>> [int(schedule.is_reduced(step, 10)) for step in range(10)]
    [1, 0, 0, 1, 0, 0, 0, 0, 0, 0]

    Reference:
        Poulos et al., 2019, arXiv:1910.06548, whose abstract names
        deterministic and stochastic schedules. The defaults are ours: a last
        part of full steps matters (docs/resolution.md).
    """

    reduced: int = 1
    period: int = 2
    until: float = 0.8

    def __post_init__(self) -> None:
        check_count("reduced", self.reduced, least=0)
        check_count("period", self.period)
        check_number("until", self.until)
        if self.reduced > self.period:
            raise ValueError(
                "`reduced` must be at most `period`. Received: "
                f"reduced={self.reduced}, period={self.period}"
            )

    def is_reduced(self, step: int, num_steps: int) -> bool:
        within = step < self.until * num_steps
        return within and step % self.period < self.reduced


@dataclasses.dataclass(frozen=True)
class Bernoulli(Schedule):
    """Each step is reduced with the same probability.

    Args:
        probability: Float in [0, 1]. Defaults to 0.4 (the share of the other
            schedules is about that).
        until: As for `Periodic`.
        seed: Non-negative integer. Defaults to 0.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> round(Bernoulli(0.25, until=0.8).share(10_000), 1)
    0.2

    Reference:
        As for `Periodic`.
    """

    probability: float = 0.4
    until: float = 0.8
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("probability", self.probability)
        check_number("until", self.until)
        check_count("seed", self.seed, least=0)

    def is_reduced(self, step: int, num_steps: int) -> bool:
        within = step < self.until * num_steps
        return within and _uniform(self.seed, step) < self.probability


@dataclasses.dataclass(frozen=True)
class Annealed(Schedule):
    """The probability of a reduced step falls linearly to 0.

    It is `probability * (1 - step / (until * num_steps))`.

    Args:
        probability: Float in [0, 1], that of the first step. Defaults to 0.8,
            which is 0.4 on average until it is 0.
        until: Float in (0, 1], the share of the training after which all steps
            are full. Defaults to 0.8.
        seed: Non-negative integer. Defaults to 0.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> round(Annealed(0.5, until=0.8).share(10_000), 1)  # 0.5 * 0.8 / 2
    0.2

    Reference:
        As for `Periodic`.
    """

    probability: float = 0.8
    until: float = 0.8
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("probability", self.probability)
        check_number("until", self.until, "(0, 1]")
        check_count("seed", self.seed, least=0)

    def is_reduced(self, step: int, num_steps: int) -> bool:
        left = 1.0 - step / (self.until * num_steps)
        return _uniform(self.seed, step) < self.probability * left


def _uniform(seed: int, step: int) -> float:
    """A number in [0, 1) that depends only on the seed and the step."""
    return np.random.default_rng((seed, step)).random()
