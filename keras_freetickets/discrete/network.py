"""A chain of dense and convolutional layers as tables that a search reads."""

import dataclasses
import itertools
import typing
from typing import Any

import keras
import numpy as np

from keras_freetickets.types import Model

_SUPPORTED = (
    "Dense, Conv2D, Flatten, MaxPooling2D, AveragePooling2D, "
    "GlobalMaxPooling2D, GlobalAveragePooling2D, Activation, ReLU, Softmax "
    "and Dropout"
)


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


def unsupported(layer: Any, why: str) -> ValueError:
    """The error about a layer that a search cannot evaluate."""
    return ValueError(
        f"`model` must be a chain of {_SUPPORTED}: {why}. Received: layer "
        f"{layer.name!r} of type {type(layer).__name__}"
    )


class _Reader:
    """Reads the layers of a model one after another."""

    def __init__(self, shape):
        if len(shape) not in (1, 3) or None in shape:
            raise ValueError(
                "`model` must have inputs of shape (features,) or (height, "
                f"width, channels). Received: inputs of shape {tuple(shape)}"
            )
        image = (1, 1, *shape) if len(shape) == 1 else tuple(shape)
        self.height, self.width, self.channels = map(int, image)
        self.flat = len(shape) == 1
        self.stages: list[Stage] = []
        self.has_softmax = False

    def read(self, layer):
        if self.has_softmax:
            raise unsupported(layer, "softmax must be the last layer")
        names = [one.__name__ for one in type(layer).__mro__]
        for name in names:
            method = getattr(self, f"_read_{name.lower()}", None)
            if method is not None and _is_plain(layer, name):
                method(layer)
                return
        raise unsupported(layer, "this layer is not supported")

    def _read_inputlayer(self, layer):
        pass

    def _read_dropout(self, layer):
        pass

    def _read_flatten(self, layer):
        if layer.data_format != "channels_last":
            raise unsupported(layer, "data must be channels_last")
        self.flat = True

    def _add(self, layer, taps, weights):
        if keras.backend.standardize_dtype(layer.kernel.dtype) != "float32":
            raise unsupported(layer, "kernels must be float32")
        units = weights.shape[2]
        biases = np.zeros(units)
        if layer.use_bias:
            bias = keras.ops.convert_to_numpy(layer.bias)
            biases = bias.astype("float64")
        self.stages.append(
            Stage(
                layer,
                channels_in=self.channels,
                positions_in=self.height * self.width,
                taps=taps.astype("int64"),
                weights=weights.astype("float64"),
                biases=biases,
                allowed=np.ones(weights.shape, bool),
            )
        )
        self.channels = units
        self._activate(layer, keras.activations.serialize(layer.activation))

    def _read_dense(self, layer):
        positions = self.height * self.width
        if not self.flat and positions > 1:
            raise unsupported(layer, "Dense needs Flatten before it")
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        weights = kernel.reshape(positions, self.channels, -1)
        self._add(layer, np.arange(positions)[:, None], weights)
        self.height = self.width = 1
        self.flat = True

    def _read_conv2d(self, layer):
        if self.flat or layer.groups != 1:
            raise unsupported(layer, "it must have images and groups=1")
        self._check_channels_last(layer)
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        taps, height, width = _windows(
            (self.height, self.width),
            layer.kernel_size,
            layer.strides,
            layer.dilation_rate,
            layer.padding,
        )
        weights = kernel.reshape(-1, self.channels, kernel.shape[3])
        self._add(layer, taps, weights)
        self.height, self.width = height, width

    def _check_channels_last(self, layer):
        if layer.data_format != "channels_last":
            raise unsupported(layer, "data must be channels_last")

    def _pool(self, layer, pools, mean):
        self._check_channels_last(layer)
        if not self.stages or self.flat:
            raise unsupported(layer, "pooling must follow a convolution")
        if self.stages[-1].pools is not None:
            raise unsupported(layer, "pooling must not follow pooling")
        self.stages[-1].pools = pools
        self.stages[-1].pool_mean = mean

    def _read_windows(self, layer, mean):
        pools, height, width = _windows(
            (self.height, self.width),
            layer.pool_size,
            layer.strides,
            (1, 1),
            layer.padding,
        )
        self._pool(layer, pools.T.copy(), mean)
        self.height, self.width = height, width

    def _read_maxpooling2d(self, layer):
        self._read_windows(layer, mean=False)

    def _read_averagepooling2d(self, layer):
        self._read_windows(layer, mean=True)

    def _read_global(self, layer, mean):
        if layer.keepdims:
            raise unsupported(layer, "keepdims=True is not supported")
        everything = np.arange(self.height * self.width)[None]
        self._pool(layer, everything, mean)
        self.height = self.width = 1
        self.flat = True

    def _read_globalmaxpooling2d(self, layer):
        self._read_global(layer, mean=False)

    def _read_globalaveragepooling2d(self, layer):
        self._read_global(layer, mean=True)

    def _activate(self, layer, name):
        name = name if isinstance(name, str) else "unknown"
        if name == "softmax":
            self.has_softmax = True
        elif name == "relu":
            if not self.stages or self.stages[-1].pool_mean:
                raise unsupported(layer, "ReLU must follow a layer's sums")
            self.stages[-1].rectified = True
        elif name != "linear":
            raise unsupported(layer, "activations must be ReLU or linear")

    def _read_activation(self, layer):
        self._activate(layer, keras.activations.serialize(layer.activation))

    def _read_relu(self, layer):
        if layer.max_value is not None or layer.negative_slope:
            raise unsupported(layer, "activations must be ReLU or linear")
        if layer.threshold:
            raise unsupported(layer, "activations must be ReLU or linear")
        self._activate(layer, "relu")

    def _read_softmax(self, layer):
        self._activate(layer, "softmax")


def _is_plain(layer, name):
    """Whether a class is Keras' own: a subclass may compute otherwise."""
    return type(layer).__name__ == name and type(layer).__module__.startswith(
        "keras."
    )


def _windows(shape, size, strides, dilation, padding):
    """Positions that a window sees: `(size, positions)`, height and width."""
    found, sizes = [], []
    for length, window, stride, step in zip(
        shape, size, strides, dilation, strict=True
    ):
        reach = (window - 1) * step + 1
        before = 0
        if padding == "same":
            count = -(-length // stride)
            before = max((count - 1) * stride + reach - length, 0) // 2
        else:
            count = (length - reach) // stride + 1
        at = np.arange(count) * stride - before
        at = at[None, :] + np.arange(window)[:, None] * step
        found.append(np.where((at >= 0) & (at < length), at, -1))
        sizes.append(count)
    rows, columns = found
    rows = rows[:, None, :, None]
    columns = columns[None, :, None, :]
    positions = np.where(
        (rows >= 0) & (columns >= 0), rows * shape[1] + columns, -1
    )
    return positions.reshape(size[0] * size[1], -1), *sizes


def layers_of(model: Model) -> list[Any]:
    """The layers of a chain, in their order.

    Raises:
        ValueError: If the model is not a chain.
    """
    layers = list(model.layers)
    if isinstance(model, keras.Sequential):
        return layers
    for below, layer in itertools.pairwise(layers):
        try:
            follows = layer.input is below.output
        except (AttributeError, ValueError):
            follows = False
        if not follows:
            raise unsupported(layer, "it must have the layer before as input")
    if len(model.outputs) != 1 or layers[-1].output is not model.outputs[0]:
        raise unsupported(layers[-1], "its output must be the model's only one")
    return layers


class Network:
    """The stages of a model, and what they compute in NumPy.

    Args:
        model: A built Sequential model, or a Functional one that is a chain.

    Raises:
        ValueError: If the search cannot evaluate the model.
    """

    def __init__(self, model: Model) -> None:
        if not getattr(model, "built", False):
            raise ValueError(
                "`model` must be built: give it a keras.Input. Received: "
                f"model={model.name!r}"
            )
        self.layers = layers_of(model)
        shape = model.input_shape[1:]
        self._image = tuple(shape) if len(shape) == 3 else None
        reader = _Reader(shape)
        for layer in self.layers:
            reader.read(layer)
        self.stages = reader.stages
        self.input_shape = tuple(shape)
        if not self.stages:
            raise ValueError(
                "`model` must have a Dense or Conv2D layer. Received: "
                f"model={model.name!r}"
            )
        last = self.stages[-1]
        # A classifier has one sum for each class.
        if (
            last.rectified
            or last.pools is not None
            or last.taps.shape[1] != 1
            or last.units < 2
        ):
            raise unsupported(
                last.layer,
                "the last one must give logits or softmax of two classes or "
                "more",
            )

    def inputs(self, x: np.ndarray) -> np.ndarray:
        """Examples as `(channels, positions, examples)` in float64."""
        x = np.asarray(x)
        if x.shape[1:] != self.input_shape or not len(x):
            raise ValueError(
                f"`x` must be an array of shape (examples, "
                f"{', '.join(map(str, self.input_shape))}). "
                f"Received: x of shape {x.shape}"
            )
        if x.dtype.kind not in "fiub" or not np.isfinite(x).all():
            raise ValueError(
                "`x` must hold finite numbers. Received: x of dtype "
                f"{x.dtype} with NaN or infinite values"
            )
        first = self.stages[0]
        shape = (len(x), first.positions_in, first.channels_in)
        return np.ascontiguousarray(x.reshape(shape).T, "float64")

    def forward(
        self, inputs: np.ndarray
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Inputs and sums of each stage; the last sums are the logits."""
        all_inputs, all_sums = [], []
        for stage in self.stages:
            shape = (stage.channels_in, stage.positions_in, inputs.shape[-1])
            inputs = inputs.reshape(shape)
            all_inputs.append(inputs)
            sums = stage.sums(inputs)
            all_sums.append(sums)
            inputs = stage.activate(sums)
        return all_inputs, all_sums

    def loss(self, inputs: np.ndarray, labels: np.ndarray) -> float:
        """Mean cross-entropy, from nothing but weights and inputs."""
        logits = self.forward(inputs)[1][-1][:, 0]
        top = logits.max(axis=0)
        logs = np.log(np.exp(logits - top).sum(axis=0)) + top
        return float(np.mean(logs - logits[labels, np.arange(len(labels))]))

    def gradients(
        self, inputs: np.ndarray, labels: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Gradient of the loss by the weights and biases of each stage."""
        all_inputs, all_sums = self.forward(inputs)
        logits = all_sums[-1][:, 0]
        exps = np.exp(logits - logits.max(axis=0))
        slope = exps / exps.sum(axis=0)
        slope[labels, np.arange(len(labels))] -= 1.0
        gradient = slope[:, None] / len(labels)
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for i in reversed(range(len(self.stages))):
            stage = self.stages[i]
            if i < len(self.stages) - 1:
                shape = (stage.units, stage.positions_out, len(labels))
                gradient = stage.activation_gradient(
                    all_sums[i], gradient.reshape(shape)
                )
            by_weights, by_biases, gradient = stage.gradients(
                all_inputs[i], gradient, below=i > 0
            )
            found.append((by_weights, by_biases))
        return found[::-1]
