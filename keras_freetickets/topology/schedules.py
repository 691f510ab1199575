"""Schedules of the drop fraction, functions of the optimizer's update count.

Shaped as `keras.optimizers.schedules`: an object that is called with a step,
inside the compiled step, and returns a float tensor.
"""

import math
import numbers

import keras
from keras import ops


def _check_fraction(name, value):
    if not isinstance(value, numbers.Real) or not 0.0 <= value <= 1.0:
        raise ValueError(
            f"`{name}` must be in [0, 1]: the fraction of active weights that "
            f"an update replaces. Received: {name}={value}"
        )


def _check_span(name, value):
    if not isinstance(value, numbers.Real) or not value >= 1:
        raise ValueError(
            f"`{name}` must be a positive number of optimizer updates. "
            f"Received: {name}={value}"
        )


class DropFraction:
    """Base class of schedules.

    A subclass defines `__call__(step)`, which takes the number of optimizer
    updates, an integer tensor, and returns a float tensor in [0, 1], and
    `get_config()`.

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

    def __call__(self, step):
        raise NotImplementedError  # abstract

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def _progress(self, step, span):
        progress = ops.cast(step, "float32") / float(span)
        return ops.clip(progress, 0.0, 1.0)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class Constant(DropFraction):
    """The same drop fraction at every update.

    Args:
        drop_fraction: Float in [0, 1].

    Raises:
        ValueError: If `drop_fraction` is no number in [0, 1].

    Example:

    ```python
    Constant(0.5)(step=1000)  # 0.5
    ```
    """

    def __init__(self, drop_fraction):
        _check_fraction("drop_fraction", drop_fraction)
        self.drop_fraction = drop_fraction

    def __call__(self, step):
        return ops.cast(self.drop_fraction, "float32")

    def get_config(self):
        return {"drop_fraction": self.drop_fraction}


@keras.saving.register_keras_serializable(package="keras_freetickets")
class Cosine(DropFraction):
    """Falls from `drop_fraction` to `minimum` along half a cosine.

    `minimum + (drop_fraction - minimum) / 2 * (1 + cos(pi * t / decay_steps))`
    for `t <= decay_steps`, `minimum` after.

    Args:
        drop_fraction: Float in [0, 1], the value at step 0.
        decay_steps: Integer, optimizer updates until `minimum` is reached.
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

    def __init__(self, drop_fraction, decay_steps, minimum=0.0):
        _check_fraction("drop_fraction", drop_fraction)
        _check_fraction("minimum", minimum)
        _check_span("decay_steps", decay_steps)
        self.drop_fraction = drop_fraction
        self.decay_steps = decay_steps
        self.minimum = minimum

    def __call__(self, step):
        progress = self._progress(step, self.decay_steps)
        span = (self.drop_fraction - self.minimum) / 2.0
        return self.minimum + span * (1.0 + ops.cos(math.pi * progress))

    def get_config(self):
        return {
            "drop_fraction": self.drop_fraction,
            "decay_steps": self.decay_steps,
            "minimum": self.minimum,
        }


@keras.saving.register_keras_serializable(package="keras_freetickets")
class InversePower(DropFraction):
    """Falls as `drop_fraction * (1 - t / decay_steps) ** power`, then 0.

    Args:
        drop_fraction: Float in [0, 1], the value at step 0.
        decay_steps: Integer, optimizer updates until 0 is reached.
        power: Positive float. Defaults to 3 (the "exponential" decay of
            google-research/rigl takes it as its parameter).

    Raises:
        ValueError: If `drop_fraction` lies outside [0, 1], or `decay_steps`
            or `power` is not positive.

    Example:

    ```python
    InversePower(0.4, decay_steps=100, power=1)(step=50)  # 0.2
    ```
    """

    def __init__(self, drop_fraction, decay_steps, power=3.0):
        _check_fraction("drop_fraction", drop_fraction)
        _check_span("decay_steps", decay_steps)
        if not isinstance(power, numbers.Real) or not power > 0:
            raise ValueError(
                f"`power` must be a positive number. Received: power={power}"
            )
        self.drop_fraction = drop_fraction
        self.decay_steps = decay_steps
        self.power = power

    def __call__(self, step):
        left = 1.0 - self._progress(step, self.decay_steps)
        return self.drop_fraction * ops.power(left, self.power)

    def get_config(self):
        return {
            "drop_fraction": self.drop_fraction,
            "decay_steps": self.decay_steps,
            "power": self.power,
        }


def get(identifier):
    """Returns the schedule for a float (constant) or a schedule.

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
    if isinstance(identifier, numbers.Real):
        return Constant(float(identifier))
    raise ValueError(
        "`drop_fraction` must be a float in [0, 1] or a schedule. "
        f"Received: drop_fraction={identifier}"
    )
