"""Keras' activations on NumPy arrays, in place.

Each changes a float32 array; the axis is that of the units.
"""

import functools
import math
import typing
from collections.abc import Callable

import numpy as np

Activation = Callable[[np.ndarray, int], None]


def activation_of(config: typing.Any) -> Activation | None:
    """The function for an activation as Keras serializes it.

    Args:
        config: A name, such as `"gelu"`.

    Returns:
        A function of an array and the axis of its units, which changes the
        array; `None` for the linear activation.

    Raises:
        ValueError: If it is none of these.
    """
    if config is None or config == "linear":
        return None
    if not isinstance(config, str) or config not in _BY_NAME:
        raise ValueError(
            f"its activation must be one of {', '.join(sorted(_BY_NAME))} or "
            f"linear. Received: activation={_named(config)!r}"
        )
    return _BY_NAME[config]


def _named(config):
    if isinstance(config, dict):
        inner = config.get("config")
        return inner if isinstance(inner, str) else config.get("class_name")
    return config


def relu(
    x: np.ndarray,
    axis: int,
    max_value: float | None = None,
    negative_slope: float = 0.0,
    threshold: float = 0.0,
) -> None:
    """As `keras.activations.relu`."""
    below = x < threshold
    if negative_slope:
        x[below] = negative_slope * (x[below] - np.float32(threshold))
    else:
        x[below] = 0
    if max_value is not None:
        np.minimum(x, np.float32(max_value), out=x)


def sigmoid(x: np.ndarray, axis: int) -> None:
    """`1 / (1 + exp(-x))`, by a tanh, which does not overflow."""
    x *= np.float32(0.5)
    np.tanh(x, out=x)
    x += 1
    x *= np.float32(0.5)


def softmax(x: np.ndarray, axis: int) -> None:
    """Exponentials that sum to one over the units."""
    x -= x.max(axis=axis, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(axis=axis, keepdims=True)


def log_softmax(x: np.ndarray, axis: int) -> None:
    """The logarithm of `softmax`."""
    x -= x.max(axis=axis, keepdims=True)
    x -= np.log(np.exp(x).sum(axis=axis, keepdims=True))


def softplus(x: np.ndarray, axis: int) -> None:
    """`log(1 + exp(x))`."""
    np.logaddexp(x, np.float32(0), out=x)


def softsign(x: np.ndarray, axis: int) -> None:
    """`x / (1 + |x|)`."""
    x /= 1 + np.abs(x)


def elu(x: np.ndarray, axis: int, alpha: float = 1.0) -> None:
    """`alpha * (exp(x) - 1)` of negative values."""
    below = x < 0
    x[below] = np.float32(alpha) * np.expm1(x[below])


def selu(x: np.ndarray, axis: int) -> None:
    """As `keras.activations.selu`, with the constants of its paper."""
    elu(x, axis, 1.6732632423543772)
    x *= np.float32(1.0507009873554805)


def silu(x: np.ndarray, axis: int) -> None:
    """`x * sigmoid(x)`."""
    factor = x.copy()
    sigmoid(factor, axis)
    x *= factor


def gelu(x: np.ndarray, axis: int, approximate: bool = False) -> None:
    """`x` times the normal distribution's function of `x`."""
    if approximate:
        factor = x**3
        factor *= np.float32(0.044715)
        factor += x
        factor *= np.float32(math.sqrt(2 / math.pi))
        np.tanh(factor, out=factor)
    else:
        factor = _erf()(x * np.float32(math.sqrt(0.5)))
    factor += 1
    factor *= np.float32(0.5)
    x *= factor


@functools.cache
def _erf() -> Callable[[np.ndarray], np.ndarray]:
    """NumPy has none: numba's, over flat arrays."""
    from keras_freetickets.kernels.compiled import compiled

    @compiled
    def erf(x, y):
        for i in range(len(x)):
            y[i] = math.erf(x[i])

    def of_array(x: np.ndarray) -> np.ndarray:
        y = np.empty_like(x)
        erf(x.reshape(-1), y.reshape(-1))
        return y

    return of_array


def leaky_relu(x: np.ndarray, axis: int, negative_slope: float = 0.2) -> None:
    """Negative values times a slope."""
    relu(x, axis, negative_slope=negative_slope)


def exponential(x: np.ndarray, axis: int) -> None:
    """`exp(x)`."""
    np.exp(x, out=x)


def hard_sigmoid(x: np.ndarray, axis: int) -> None:
    """`x / 6 + 0.5`, within 0 and 1."""
    x /= 6
    x += np.float32(0.5)
    np.clip(x, 0, 1, out=x)


def hard_silu(x: np.ndarray, axis: int) -> None:
    """`x * hard_sigmoid(x)`."""
    factor = x.copy()
    hard_sigmoid(factor, axis)
    x *= factor


def mish(x: np.ndarray, axis: int) -> None:
    """`x * tanh(softplus(x))`."""
    factor = x.copy()
    softplus(factor, axis)
    np.tanh(factor, out=factor)
    x *= factor


def tanh(x: np.ndarray, axis: int) -> None:
    """The hyperbolic tangent."""
    np.tanh(x, out=x)


def relu6(x: np.ndarray, axis: int) -> None:
    """`relu`, at most 6."""
    relu(x, axis, max_value=6.0)


_BY_NAME: dict[str, Activation] = {
    "elu": elu,
    "exponential": exponential,
    "gelu": gelu,
    "hard_sigmoid": hard_sigmoid,
    "hard_silu": hard_silu,
    "hard_swish": hard_silu,
    "leaky_relu": leaky_relu,
    "log_softmax": log_softmax,
    "mish": mish,
    "relu": relu,
    "relu6": relu6,
    "selu": selu,
    "sigmoid": sigmoid,
    "silu": silu,
    "softmax": softmax,
    "softplus": softplus,
    "softsign": softsign,
    "swish": silu,
    "tanh": tanh,
}
