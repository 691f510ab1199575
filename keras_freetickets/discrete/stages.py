"""One layer with weights as tables that a search reads."""

import dataclasses
import typing
from typing import Any

import numpy as np


@dataclasses.dataclass
class Stage:
    """One layer with weights, its activation and the pooling after it.

    Attributes:
        layer: The Keras layer.
        channels_in: Integer, channels of the inputs.
        positions_in: Integer, positions of each channel: height x width.
        taps: Array `(taps, positions)`, the position of the inputs that each
            weight of a kernel sees at each position of the sums; -1 for
            padding.
        weights: Array `(taps, channels_in, units)` of float64.
        biases: Array `(units,)` of float64, which is scaled too.
        allowed: Boolean array of the shape of `weights`, the mask.
        scale: Float, the factor of all weights of the layer.
        rectified: Whether the activation is ReLU; else it is linear.
        pools: Array `(positions, pool size)` of positions of the sums, -1 for
            padding, or `None`.
        pool_mean: Whether pooling takes the mean; else the maximum.
    """

    layer: Any
    channels_in: int
    positions_in: int
    taps: np.ndarray
    weights: np.ndarray
    biases: np.ndarray
    allowed: np.ndarray
    scale: float = 1.0
    rectified: bool = False
    pools: np.ndarray | None = None
    pool_mean: bool = False

    @property
    def units(self) -> int:
        return self.weights.shape[2]

    @property
    def positions_out(self) -> int:
        if self.pools is None:
            return self.taps.shape[1]
        return self.pools.shape[0]

    @property
    def fan_in(self) -> float:
        """Mean number of allowed weights of a unit."""
        return max(float(self.allowed.sum()) / self.units, 1.0)

    @property
    def is_dense(self) -> bool:
        """Whether each input has weights of its own, in its order."""
        seen = np.arange(self.positions_in)[:, None]
        return np.array_equal(self.taps, seen)

    def sums(self, inputs: np.ndarray) -> np.ndarray:
        """`(units, positions, examples)`, before the activation."""
        examples = inputs.shape[-1]
        if self.is_dense:  # one product instead of one for each tap
            rows = inputs.reshape(-1, examples)
            sums = self._matrix().T @ rows
        else:
            sums = np.zeros((self.units, self.taps.shape[1] * examples))
            padded = _padded(inputs, 0.0)
            for tap, weights in zip(self.taps, self.weights, strict=True):
                seen = padded[:, tap].reshape(self.channels_in, -1)
                sums += weights.T @ seen
        sums = sums.reshape(self.units, -1, examples)
        return self.scale * (sums + self.biases[:, None, None])

    def _matrix(self):
        """Weights as rows of inputs, in the order of the inputs."""
        return self.weights.transpose(1, 0, 2).reshape(-1, self.units)

    def gradients(
        self, inputs: np.ndarray, gradient: np.ndarray, below: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Gradients by weights, biases and, if wanted, by the inputs.

        Args:
            inputs: Array `(channels_in, positions_in, examples)`.
            gradient: Array, the gradient by the sums.
            below: Whether the gradient by the inputs is wanted.
        """
        gradient = self.scale * gradient
        by_biases = gradient.sum(axis=(1, 2))
        rows = gradient.reshape(self.units, -1)
        if self.is_dense:
            flat = inputs.reshape(-1, inputs.shape[-1])
            shape = (self.channels_in, self.positions_in, self.units)
            by_weights = (flat @ rows.T).reshape(shape).transpose(1, 0, 2)
            moved = self._matrix() @ rows if below else None
            if moved is not None:
                moved = moved.reshape(inputs.shape)
            return np.ascontiguousarray(by_weights), by_biases, moved
        padded = _padded(inputs, 0.0)
        by_weights = np.empty(self.weights.shape)
        spread = np.zeros(padded.shape) if below else None
        for one, tap in enumerate(self.taps):
            seen = padded[:, tap].reshape(self.channels_in, -1)
            by_weights[one] = seen @ rows.T
            if spread is not None:
                moved = self.weights[one] @ rows
                shape = (self.channels_in, len(tap), inputs.shape[-1])
                _add_at(spread, tap, moved.reshape(shape))
        by_inputs = None if spread is None else spread[:, :-1]
        return by_weights, by_biases, by_inputs

    def activate(self, sums: np.ndarray) -> np.ndarray:
        """Activation and pooling of `(units, positions, examples)`."""
        outputs = np.maximum(sums, 0) if self.rectified else sums
        if self.pools is None:
            return outputs
        padding = 0.0 if self.pool_mean else -np.inf
        outputs = _padded(outputs, padding)[:, self.pools]
        if not self.pool_mean:
            return outputs.max(axis=2)
        seen = (self.pools >= 0).sum(axis=1)
        return outputs.sum(axis=2) / seen[:, None]

    def activation_gradient(
        self, sums: np.ndarray, gradient: np.ndarray
    ) -> np.ndarray:
        """The gradient by the sums from that by `activate(sums)`."""
        if self.pools is not None:
            rectified = np.maximum(sums, 0) if self.rectified else sums
            spread = np.zeros((self.units, sums.shape[1] + 1, sums.shape[2]))
            if self.pool_mean:
                seen = (self.pools >= 0).sum(axis=1)[None, :, None]
                for one in range(self.pools.shape[1]):
                    _add_at(spread, self.pools[:, one], gradient / seen)
            else:
                outputs = _padded(rectified, -np.inf)[:, self.pools]
                best = outputs.argmax(axis=2)
                for one in range(self.pools.shape[1]):
                    won = gradient * (best == one)
                    _add_at(spread, self.pools[:, one], won)
            gradient = spread[:, :-1]
        return gradient * (sums > 0) if self.rectified else gradient


def _padded(values, padding):
    """With one more position, which an index of -1 finds."""
    widths = [(0, 0), (0, 1), (0, 0)]
    return np.pad(values, widths, constant_values=padding)


def _add_at(target, positions, values):
    places: typing.Any = (slice(None), positions)
    np.add.at(target, places, values)
