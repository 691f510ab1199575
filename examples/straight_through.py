"""Ternary layers trained by gradients: what CoNNTrA is compared with."""

from typing import Any

import keras
import numpy as np
from keras import ops

import keras_freetickets as kft


def ternary(kernel: Any) -> tuple[Any, Any]:
    """Signs of the large weights, and one scale (Li and Liu, 2016)."""
    size = ops.abs(kernel)
    active = ops.cast(size > 0, kernel.dtype)
    mean = ops.sum(size) / ops.maximum(ops.sum(active), 1.0)
    large = ops.cast(size > 0.7 * mean, kernel.dtype)
    scale = ops.sum(size * large) / ops.maximum(ops.sum(large), 1.0)
    return ops.sign(kernel) * large, scale


@keras.saving.register_keras_serializable(package="examples")
class StraightThroughDense(keras.layers.Dense):
    """Predicts with ternary weights, trains the real ones behind them."""

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        self.mask = self.add_weight(
            shape=self.kernel.shape,
            initializer="ones",
            trainable=False,
            name="mask",
        )

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        del training
        kernel = self.kernel * self.mask
        codes, scale = ternary(ops.stop_gradient(kernel))
        kernel = kernel + ops.stop_gradient(codes * scale - kernel)
        return self.activation(ops.matmul(inputs, kernel) + self.bias)


def network(plain: keras.Model) -> keras.Sequential:
    """A ternary copy of a chain; weights that are zero stay zero."""
    model = keras.Sequential([keras.Input(plain.input_shape[1:])])
    for layer in plain.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        config = layer.get_config()
        if not isinstance(layer, keras.layers.Dense):
            model.add(type(layer).from_config(config))
            continue
        model.add(StraightThroughDense.from_config(config))
        kernel = ops.convert_to_numpy(layer.kernel)
        mask = (kernel != 0).astype("float32")
        model.layers[-1].set_weights([kernel, layer.bias, mask])
    return model


def discrete(model: keras.Model) -> keras.Sequential:
    """The trained network with layers that store 2 bits a weight."""
    stored = keras.Sequential([keras.Input(model.input_shape[1:])])
    for layer in model.layers:
        config = layer.get_config()
        if not isinstance(layer, StraightThroughDense):
            stored.add(type(layer).from_config(config))
            continue
        codes, scale = ternary(layer.kernel * layer.mask)
        made = kft.discrete.DiscreteDense(
            layer.units,
            scale=float(scale),
            bias="float",
            activation=layer.activation,
        )
        stored.add(made)
        made.set_codes(
            np.asarray(ops.convert_to_numpy(codes)),
            ops.convert_to_numpy(layer.bias),
        )
    return stored
