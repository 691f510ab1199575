"""Schedules of the drop fraction as functions of the optimizer's step.

They work like `keras.optimizers.schedules`: an object is called with the step,
inside the compiled train step, and returns a float tensor.
"""

import functools
import math
import typing
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from keras_freetickets.arguments import is_real
from keras_freetickets.arguments import is_within
from keras_freetickets.topology.kernel_view import PARTS
from keras_freetickets.types import Config
from keras_freetickets.types import Tensor


def _check_fraction(name: str, value: typing.Any) -> None:
    if not is_within(value, "[0, 1]"):
        raise ValueError(
            f"`{name}` must be in [0, 1]: the fraction of active weights that "
            f"an update replaces. Received: {name}={value}"
        )


def _check_span(name: str, value: typing.Any) -> None:
    if not is_real(value) or not value >= 1:
        raise ValueError(
            f"`{name}` must be a positive number of optimizer updates. "
            f"Received: {name}={value}"
        )


class DropFraction:
    """Base class of schedules.

    A subclass defines `__call__(step)`, which takes the number of optimizer
    updates as an integer tensor and returns a float tensor in [0, 1], and
    `get_config()`. Values are rounded to multiples of 1/10,000. Near a half,
    backends may round differently; derive from `Monotone` to avoid that.

    Example:

    ```python
    @keras.saving.register_keras_serializable()
    class Halving(DropFraction):
        def __call__(self, step):
            return 0.5 ** keras.ops.cast(1 + step // 1000, "float32")

        def get_config(self):
            return {}
    ```
    """

    def __call__(self, step: Tensor) -> Tensor:
        raise NotImplementedError  # abstract

    @classmethod
    def from_config(cls, config: Config) -> typing.Any:
        return cls(**config)


class Monotone(DropFraction):
    """Base class of schedules that only decrease or only increase.

    Backends and compilers differ in the last digit of a cosine. In 7 of 75,000
    steps of RigL's schedule this changed how many connections were replaced.
    Therefore NumPy computes once, on the host, at which steps the value
    rounded to 1/10,000 changes, and keeps the value of each step within the
    rounding interval.

    A subclass sets `decay_steps`, the positive number of optimizer updates
    until the end, and defines `_value(progress, library)`, where `progress`
    in [0, 1] is a float tensor or a `float64` array and `library` the module
    of its functions, `keras.ops` or `numpy`.

    Example:

    ```python
    @keras.saving.register_keras_serializable()
    class Linear(Monotone):
        def __init__(self, decay_steps):
            self.decay_steps = decay_steps

        def _value(self, progress, library):
            return 0.5 * (1.0 - progress)

        def get_config(self):
            return {"decay_steps": self.decay_steps}
    ```
    """

    decay_steps: float

    def _value(self, progress: Tensor, library: typing.Any) -> Tensor:
        """The drop fraction after a share of `decay_steps`."""
        raise NotImplementedError  # abstract

    def __call__(self, step: Tensor) -> Tensor:
        step = ops.cast(step, "int32")
        progress = ops.cast(step, "float32") / float(self.decay_steps)
        value = self._value(ops.clip(progress, 0.0, 1.0), ops)
        first, direction, changes = self._table
        passed = ops.cast(step[..., None] >= changes, "int32")
        parts = first + direction * ops.sum(passed, axis=-1)
        parts = ops.cast(parts, "float32")
        return ops.clip(value, (parts - 0.49) / PARTS, (parts + 0.49) / PARTS)

    def __setattr__(self, name: str, value: typing.Any) -> None:
        super().__setattr__(name, value)
        vars(self).pop("_table", None)  # belongs to the old settings

    def _parts(self, steps: np.ndarray) -> np.ndarray:
        progress = np.clip(steps / self.decay_steps, 0.0, 1.0)
        return np.rint(self._value(progress, np) * PARTS).astype("int32")

    @functools.cached_property
    def _table(self) -> tuple[int, int, np.ndarray]:
        """Initial value in parts, direction (+-1), and steps of changes."""
        end = math.ceil(self.decay_steps)
        first, last = self._parts(np.array([0, end]))
        changes = np.arange(1, abs(last - first) + 1)
        # Bisects for the first step at each distance from the initial value.
        before, after = np.zeros_like(changes), np.full_like(changes, end)
        while (after - before > 1).any():
            middle = (before + after) // 2
            reached = abs(self._parts(middle) - first) >= changes
            before = np.where(reached, before, middle)
            after = np.where(reached, middle, after)
        after = np.minimum(after, np.iinfo("int32").max).astype("int32")
        return int(first), int(np.sign(last - first)), after


@keras.saving.register_keras_serializable(package="keras_freetickets")
class Constant(DropFraction):
    """The same drop fraction at every update.

    Args:
        drop_fraction: Float in [0, 1].

    Raises:
        ValueError: If `drop_fraction` is not a number in [0, 1].

    Example:

    ```python
    Constant(0.5)(step=1000)  # 0.5
    ```
    """

    def __init__(self, drop_fraction: typing.Any) -> None:
        _check_fraction("drop_fraction", drop_fraction)
        self.drop_fraction = drop_fraction

    def __call__(self, step: Tensor) -> Tensor:
        return ops.cast(self.drop_fraction, "float32")

    def get_config(self) -> Config:
        return {"drop_fraction": self.drop_fraction}


@keras.saving.register_keras_serializable(package="keras_freetickets")
class Cosine(Monotone):
    """Decays from `drop_fraction` to `minimum` along half a cosine.

    `minimum + (drop_fraction - minimum) / 2 * (1 + cos(pi * t / decay_steps))`
    for `t <= decay_steps`, then `minimum`.

    Args:
        drop_fraction: Float in [0, 1], the value at step 0.
        decay_steps: Positive integer, optimizer updates until `minimum` is
            reached.
        minimum: Float in [0, 1]. Defaults to 0 (RigL, arXiv:1911.11134);
            ITOP's code uses 0.005.

    Raises:
        ValueError: If a fraction lies outside [0, 1] or `decay_steps` is not
            positive.

    Example:

    ```python
    Cosine(0.3, decay_steps=75000)(step=25000)  # 0.225
    ```
    """

    def __init__(
        self,
        drop_fraction: typing.Any,
        decay_steps: float,
        minimum: float = 0.0,
    ) -> None:
        _check_fraction("drop_fraction", drop_fraction)
        _check_fraction("minimum", minimum)
        _check_span("decay_steps", decay_steps)
        self.drop_fraction = drop_fraction
        self.decay_steps = decay_steps
        self.minimum = minimum

    def _value(self, progress: Tensor, library: typing.Any) -> Tensor:
        span = (self.drop_fraction - self.minimum) / 2.0
        return self.minimum + span * (1.0 + library.cos(np.pi * progress))

    def get_config(self) -> Config:
        return {
            "drop_fraction": self.drop_fraction,
            "decay_steps": self.decay_steps,
            "minimum": self.minimum,
        }


@keras.saving.register_keras_serializable(package="keras_freetickets")
class InversePower(Monotone):
    """Decays as `drop_fraction * (1 - t / decay_steps) ** power`, then 0.

    Args:
        drop_fraction: Float in [0, 1], the value at step 0.
        decay_steps: Positive integer, optimizer updates until 0 is reached.
        power: Positive float. Defaults to 3 (a parameter of the "exponential"
            decay in google-research/rigl).

    Raises:
        ValueError: If `drop_fraction` lies outside [0, 1], or `decay_steps`
            or `power` is not positive.

    Example:

    ```python
    InversePower(0.4, decay_steps=100, power=1)(step=50)  # 0.2
    ```
    """

    def __init__(
        self, drop_fraction: typing.Any, decay_steps: float, power: float = 3.0
    ) -> None:
        _check_fraction("drop_fraction", drop_fraction)
        _check_span("decay_steps", decay_steps)
        if not is_real(power) or not power > 0:
            raise ValueError(
                f"`power` must be a positive number. Received: power={power}"
            )
        self.drop_fraction = drop_fraction
        self.decay_steps = decay_steps
        self.power = power

    def _value(self, progress: Tensor, library: typing.Any) -> Tensor:
        return self.drop_fraction * library.power(1.0 - progress, self.power)

    def get_config(self) -> Config:
        return {
            "drop_fraction": self.drop_fraction,
            "decay_steps": self.decay_steps,
            "power": self.power,
        }


def get(identifier: typing.Any) -> Callable[[Tensor], Tensor]:
    """Returns a schedule; a float becomes a constant schedule.

    Args:
        identifier: Float in [0, 1], a callable of the step, or the serialized
            config of a schedule.

    Returns:
        A callable of the step.

    Raises:
        ValueError: If `identifier` is none of these.

    Example:

    ```python
    get(0.3)(step=1000)  # 0.3
    ```
    """
    if isinstance(identifier, dict) and "class_name" in identifier:
        return keras.saving.deserialize_keras_object(identifier)
    if callable(identifier):
        return identifier
    if is_real(identifier):
        return Constant(float(identifier))
    raise ValueError(
        "`drop_fraction` must be a float in [0, 1] or a schedule. "
        f"Received: drop_fraction={identifier}"
    )
