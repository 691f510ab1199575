"""The Keras model of what a search found."""

from typing import Any

import keras

from keras_freetickets.discrete.layers import DiscreteConv2D
from keras_freetickets.discrete.layers import DiscreteDense
from keras_freetickets.discrete.network import Network
from keras_freetickets.types import Model


def discrete_model(network: Network, settings: Any, name: str) -> Model:
    """A Sequential model with the layers of the search.

    Args:
        network: `Network` with the weights that were found.
        settings: `CoordinateDescent`.
        name: String, the model's name.
    """
    model = keras.Sequential(name=name)
    model.add(keras.Input(network.input_shape))
    stages = {id(stage.layer): stage for stage in network.stages}
    for layer in network.layers:
        stage = stages.get(id(layer))
        if isinstance(layer, keras.layers.InputLayer):
            continue
        if stage is None:
            model.add(type(layer).from_config(layer.get_config()))
        else:
            model.add(_discrete(layer, stage, settings))
            kernel = stage.weights.reshape(layer.kernel.shape)
            bias = {
                "discrete": stage.biases,
                "float": stage.biases * stage.scale,
                "none": None,
            }[model.layers[-1].bias]
            model.layers[-1].set_codes(kernel, bias)
    return model


def _discrete(layer, stage, settings):
    kinds = {"search": "discrete", "zero": "none", "keep": "float"}
    bias = kinds[settings.biases]
    if bias == "float" and not layer.use_bias:
        bias = "none"
    shared = {
        "values": settings.values,
        "scale": stage.scale,
        "bias": bias,
        "activation": layer.activation,
        "name": layer.name,
    }
    if isinstance(layer, keras.layers.Dense):
        return DiscreteDense(layer.units, **shared)
    return DiscreteConv2D(
        layer.filters,
        layer.kernel_size,
        strides=layer.strides,
        padding=layer.padding,
        dilation_rate=layer.dilation_rate,
        **shared,
    )
