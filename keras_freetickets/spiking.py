"""Spiking neurons as plain Keras layers.

Activations have a time axis after the batch axis. Layers without memory
(convolution, normalization) process the steps as additional examples, between
`MergeSteps` and `SplitSteps`. The networks of
`keras_freetickets.applications` return the mean of the logits over the steps,
or with `per_step=True` the logits of each step.
"""

import math
import typing

import keras
from keras import ops

from keras_freetickets.arguments import check_choice
from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import check_number
from keras_freetickets.types import Config
from keras_freetickets.types import Tensor


@ops.custom_gradient
def spike(x: typing.Any) -> Tensor:
    """Returns 1 where `x >= 0`, else 0, with a surrogate gradient.

    The surrogate is the derivative of an arctangent,
    `1 / (1 + (pi * x)^2)`: spikingjelly's `ATan` with its default width of 2.

    Args:
        x: Tensor, membrane potentials minus the threshold.

    Example:

    ```python
    spike(keras.ops.array([-0.5, 0.0, 2.0]))  # [0, 1, 1]
    ```
    """

    def gradient(*args, upstream=None):
        if upstream is None:
            (upstream,) = args
        return upstream / (1.0 + ops.square(math.pi * x))

    return ops.cast(x >= 0, x.dtype), gradient


@keras.saving.register_keras_serializable(package="keras_freetickets")
class LIF(keras.layers.Layer):
    """Leaky integrate-and-fire neurons.

    With `reset="soft"` the potential is
    `v[t] = leak * v[t-1] + x[t] - threshold * o[t-1]`. With `"hard"` it is
    `h = v + (x - v) / tau`, and returns to 0 after the neuron fires (no
    gradient flows through this reset). A neuron fires, `o = 1`, when its
    potential reaches the threshold. Every call starts with potentials of 0.

    Args:
        reset: `"soft"` (default, as NDSNN describes; not verified) or
            `"hard"` (as in the code of arXiv:2207.01382, whose setting NDSNN
            compares with). The two scale their inputs differently.
        leak: Float in (0, 1], for `"soft"`. Defaults to 0.5 (could not be
            verified).
        tau: Float, at least 1, for `"hard"`. Defaults to 4/3 (code of
            arXiv:2207.01382).
        threshold: Positive float. Defaults to 1 (code of arXiv:2207.01382).
        **kwargs: As for `keras.layers.Layer`.

    Input shape:
        `(batch, steps, ...)`; the number of steps must be known.

    Output shape:
        As the input; entries are exactly 0 or 1.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    spikes = LIF()(keras.ops.full((1, 8, 1), 0.6))
    # fires at the third and the seventh step
    ```

    Reference:
        Huang et al., 2023, arXiv:2304.12214 (NDSNN).
    """

    def __init__(
        self,
        reset: str = "soft",
        leak: float = 0.5,
        tau: float = 4 / 3,
        threshold: float = 1.0,
        **kwargs: typing.Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice("reset", reset, ("soft", "hard"))
        check_number("leak", leak, "(0, 1]")
        check_number("tau", tau, "[1, inf)")
        check_number("threshold", threshold, "(0, inf)")
        self.reset = reset
        self.leak = float(leak)
        self.tau = float(tau)
        self.threshold = float(threshold)

    def build(self, input_shape: typing.Any) -> None:
        if len(input_shape) < 2 or input_shape[1] is None:
            raise ValueError(
                f"Layer '{self.name}' must know the number of steps. "
                f"Received: inputs of shape {tuple(input_shape)}"
            )

    def call(self, inputs: typing.Any) -> typing.Any:
        step = self._soft if self.reset == "soft" else self._hard
        potential = ops.zeros_like(inputs[:, 0])
        output = potential
        outputs = []
        for time in range(inputs.shape[1]):
            potential, output = step(inputs[:, time], potential, output)
            outputs.append(output)
        return ops.stack(outputs, axis=1)

    def _soft(self, x, potential, output):
        potential = self.leak * potential + x - self.threshold * output
        return potential, spike(potential - self.threshold)

    def _hard(self, x, potential, output):
        potential = potential + (x - potential) / self.tau
        output = spike(potential - self.threshold)
        return (1.0 - ops.stop_gradient(output)) * potential, output

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "reset": self.reset,
            "leak": self.leak,
            "tau": self.tau,
            "threshold": self.threshold,
        }

    def compute_output_shape(self, input_shape: typing.Any) -> typing.Any:
        return input_shape


class _KnowsSteps(keras.layers.Layer):
    """Base of layers with an argument `steps`."""

    def __init__(self, steps: int, **kwargs: typing.Any) -> None:
        super().__init__(**kwargs)
        check_count("steps", steps)
        self.steps = int(steps)

    def get_config(self) -> Config:
        return {**super().get_config(), "steps": self.steps}


@keras.saving.register_keras_serializable(package="keras_freetickets")
class RepeatSteps(_KnowsSteps):
    """Repeats the input at every step: direct coding of static images.

    Args:
        steps: Positive integer.
        **kwargs: As for `keras.layers.Layer`.

    Input shape:
        `(batch, ...)`

    Output shape:
        `(batch, steps, ...)`

    Raises:
        ValueError: If `steps` is not a positive integer.

    Example:

    ```python
    RepeatSteps(5)(keras.ops.ones((2, 32, 32, 3))).shape  # (2, 5, 32, 32, 3)
    ```
    """

    def call(self, inputs: typing.Any) -> typing.Any:
        return ops.repeat(ops.expand_dims(inputs, 1), self.steps, axis=1)

    def compute_output_shape(self, input_shape: typing.Any) -> typing.Any:
        return (input_shape[0], self.steps, *input_shape[1:])


@keras.saving.register_keras_serializable(package="keras_freetickets")
class MergeSteps(keras.layers.Layer):
    """Turns every step into a separate example, for layers without memory.

    Args:
        **kwargs: As for `keras.layers.Layer`.

    Input shape:
        `(batch, steps, ...)`

    Output shape:
        `(batch * steps, ...)`

    Example:

    ```python
    MergeSteps()(keras.ops.ones((2, 5, 8))).shape  # (10, 8)
    ```
    """

    def __init__(self, **kwargs: typing.Any) -> None:
        super().__init__(**kwargs)

    def call(self, inputs: typing.Any) -> typing.Any:
        return ops.reshape(inputs, (-1, *inputs.shape[2:]))

    def compute_output_shape(self, input_shape: typing.Any) -> typing.Any:
        return (None, *input_shape[2:])


@keras.saving.register_keras_serializable(package="keras_freetickets")
class SplitSteps(_KnowsSteps):
    """Undoes `MergeSteps`.

    Args:
        steps, **kwargs: As for `RepeatSteps`.

    Input shape:
        `(batch * steps, ...)`

    Output shape:
        `(batch, steps, ...)`

    Raises:
        ValueError: As for `RepeatSteps`.

    Example:

    ```python
    SplitSteps(5)(keras.ops.ones((10, 8))).shape  # (2, 5, 8)
    ```
    """

    def call(self, inputs: typing.Any) -> typing.Any:
        return ops.reshape(inputs, (-1, self.steps, *inputs.shape[1:]))

    def compute_output_shape(self, input_shape: typing.Any) -> typing.Any:
        return (None, self.steps, *input_shape[1:])
