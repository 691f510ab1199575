"""Removes units that nothing feeds or nothing reads, with equal outputs."""

import dataclasses
import typing

import keras
import numpy as np
from keras import layers
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.arguments import check_model
from keras_freetickets.ensembles.members import revived
from keras_freetickets.models.conversion import strip
from keras_freetickets.models.sparse_model import SparseModel
from keras_freetickets.types import Array
from keras_freetickets.types import Layer
from keras_freetickets.types import Tensor

_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
# Layers that treat each channel by itself and keep a constant one constant.
_PASSING = (
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
)
# What padding does to their mean depends on the backend.
_AVERAGING = (
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
)
_ACTIVATIONS = (layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU)
# Activations of which an output depends on the same input alone.
_ELEMENTWISE = {
    *("linear", "relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu"),
    *("swish", "sigmoid", "hard_sigmoid", "tanh", "softplus", "softsign"),
    *("mish", "exponential", "celu", "hard_silu", "hard_swish", "log_sigmoid"),
}


@dataclasses.dataclass
class _Chain:
    """A layer whose units one other layer reads, and what is between them."""

    producer: Layer
    path: list[Layer]
    reader: Layer


def compact(model: keras.Model) -> keras.Model:
    """Makes a smaller model of equal outputs: without units that do nothing.

    Units (of `Dense`) and channels (of `Conv1D`, `Conv2D`, `Conv3D`) go if no
    connection reads them, or if none feeds them; what the latter add is a
    constant, which the bias of the next layer takes over. This is done again
    until no such unit is left. Kernels of the remaining units stay sparse.

    It gives little below a sparsity of about 0.98: units hardly ever lose
    all of their connections (`count_units` counts those that did). Layers
    whose output several layers read, as in residual networks, keep all units.

    Args:
        model: A `SparseModel`, what `strip` returned, or another model with a
            graph of layers.

    Returns:
        A Functional `keras.Model`, not compiled, whose outputs are equal up to
        rounding; its layers have the names of the given ones. `model` does not
        change.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it has no graph of layers.

    Example:

    ```python
    small = keras_freetickets.compact(model)
    print(model.count_params(), small.count_params())
    ```
    """
    check_model("model", model)
    if not getattr(model, "inputs", None):
        raise ValueError(
            "`model` must have a graph of layers; compact the members of an "
            "ensemble one by one. "
            f"Received: model={model.name!r} of type {type(model).__name__}"
        )
    plain = strip(model) if isinstance(model, SparseModel) else model
    weights = {
        id(layer): [ops.convert_to_numpy(w.value) for w in layer.weights]
        for layer in plain.layers
    }
    chains = _chains(plain)
    while any(_shrink(chain, weights) for chain in chains):
        pass
    return _rebuilt(plain, weights)


def _chains(model: keras.Model) -> list[_Chain]:
    """The places of a model in which units can be removed."""
    readers = _readers(model)
    found = []
    for layer in model.layers:
        if not _has_units(layer) or not _is_elementwise(layer):
            continue
        path: list[Layer] = []
        step = _only_reader(layer, readers)
        while step is not None and _passes(step, path):
            path.append(step)
            step = _only_reader(step, readers)
        if step is not None and _has_units(step) and _reads(step, path):
            found.append(_Chain(layer, path, step))
    return found


def _readers(model: keras.Model) -> dict[int, list[typing.Any]]:
    """By the ids of layers, what reads their outputs; `None` for the end."""
    readers: dict[int, list[typing.Any]] = {}
    seen: set[int] = set()

    def visit(tensor: Tensor, reader: typing.Any) -> None:
        layer, given = keras_adapter.origin(tensor)
        readers.setdefault(id(layer), []).append(reader)
        if id(tensor) not in seen:
            seen.add(id(tensor))
            for one in given:
                visit(one, layer)

    for output in model.outputs:
        visit(output, None)
    return readers


def _only_reader(
    layer: Layer, readers: dict[int, list[typing.Any]]
) -> Layer | None:
    """The one layer that reads another, which is used once."""
    found = readers.get(id(layer), [])
    one = found[0] if len(found) == 1 else None
    # One that is used twice, or reads two layers, is in the way.
    if one is None or not isinstance(
        getattr(one, "input", []), keras.KerasTensor
    ):
        return None
    return one


def _has_units(layer: Layer) -> bool:
    """Whether a layer's units can be told from its kernel."""
    if type(layer) is layers.Dense:
        return layer.quantization_mode is None and not layer.lora_enabled
    return (
        type(layer) in _CONVOLUTIONS
        and layer.groups == 1
        and layer.data_format == "channels_last"
        and not getattr(layer, "lora_enabled", False)
        and getattr(layer, "quantization_mode", None) is None
    )


def _is_elementwise(layer: Layer) -> bool:
    activation = getattr(layer, "activation", keras.activations.linear)
    return getattr(activation, "__name__", None) in _ELEMENTWISE


def _passes(layer: Layer, path: list[Layer]) -> bool:
    """Whether a layer treats each channel by itself."""
    if any(isinstance(one, layers.Flatten) for one in path):
        # Behind it channels are spread over the units.
        return isinstance(layer, layers.Dropout)
    if isinstance(layer, layers.Flatten):
        return True
    if isinstance(layer, layers.BatchNormalization):
        return layer.axis in (-1, len(layer.input.shape) - 1)
    if isinstance(layer, _AVERAGING):
        return layer.padding == "valid" and _is_last(layer)
    if isinstance(layer, layers.Activation):
        return _is_elementwise(layer)
    return isinstance(layer, _ACTIVATIONS + _PASSING) and _is_last(layer)


def _is_last(layer: Layer) -> bool:
    return getattr(layer, "data_format", "channels_last") == "channels_last"


def _reads(reader: Layer, path: list[Layer]) -> bool:
    """Whether it is known which inputs of a layer are those of a channel."""
    if isinstance(reader, layers.Dense):
        return len(reader.input.shape) == 2 or not any(
            isinstance(one, layers.Flatten) for one in path
        )
    return True


def _shrink(chain: _Chain, weights: dict[int, list[Array]]) -> bool:
    """Removes the units that do nothing; whether there were any."""
    own, theirs = weights[id(chain.producer)], weights[id(chain.reader)]
    units = own[0].shape[-1]
    # (positions, units of the producer, units of the reader)
    read = theirs[0].reshape(-1, units, theirs[0].shape[-1])
    unread = ~read.any(axis=(0, 2))
    constant = ~own[0].reshape(-1, units).any(axis=0)
    values = _constants(chain, weights)
    if getattr(chain.reader, "padding", "valid") != "valid":
        # At the borders it reads zeros instead.
        constant &= values == 0
    removed = unread | constant
    if removed.all():
        removed[0] = False  # a layer has one unit at least
    if not removed.any():
        return False
    moved = np.where(removed & constant & ~unread, values, 0.0)
    shift = np.einsum("pur,u->r", read.astype("float64"), moved)
    bias = theirs[1] if len(theirs) > 1 else np.zeros(shift.shape, "float32")
    kept = ~removed
    weights[id(chain.producer)] = [one[..., kept] for one in own]
    for layer in chain.path:
        weights[id(layer)] = [
            one[kept] if one.shape == (units,) else one
            for one in weights[id(layer)]
        ]
    shape = theirs[0].shape
    kernel = read[:, kept].reshape(*shape[:-2], -1, shape[-1])
    weights[id(chain.reader)] = [kernel, *theirs[1:]]
    if shift.any():
        moved_bias = (bias + shift).astype(theirs[0].dtype)
        weights[id(chain.reader)] = [kernel, moved_bias]
    return True


def _constants(chain: _Chain, weights: dict[int, list[Array]]) -> Array:
    """What the reader gets from units that nothing feeds."""
    own = weights[id(chain.producer)]
    bias = own[1] if len(own) > 1 else np.zeros(own[0].shape[-1], "float32")
    values = _activated(chain.producer, bias)
    for layer in chain.path:
        if isinstance(layer, layers.BatchNormalization):
            values = _normalized(layer, values, weights[id(layer)])
        elif isinstance(layer, layers.Activation):
            values = _activated(layer, values)
        elif isinstance(layer, _ACTIVATIONS):
            values = np.asarray(ops.convert_to_numpy(layer(values[None])))[0]
    return np.asarray(values, "float64")


def _activated(layer: Layer, values: Array) -> Array:
    tensor = ops.convert_to_tensor(values)
    return np.asarray(ops.convert_to_numpy(layer.activation(tensor)))


def _normalized(layer: Layer, values: Array, arrays: list[Array]) -> Array:
    """What batch normalization makes of values in inference."""
    rest = list(arrays)
    scale = rest.pop(0) if layer.scale else 1.0
    center = rest.pop(0) if layer.center else 0.0
    mean, variance = rest
    return scale * (values - mean) / np.sqrt(variance + layer.epsilon) + center


def _rebuilt(
    model: keras.Model, weights: dict[int, list[Array]]
) -> keras.Model:
    """The graph again, with layers of the sizes of these weights."""
    made: dict[int, tuple[Layer, list[Array]]] = {}

    def convert(operation: typing.Any) -> typing.Any:
        if not isinstance(operation, keras.layers.Layer):
            return operation
        if id(operation) not in made:
            arrays = weights.get(id(operation), [])
            made[id(operation)] = _resized(operation, arrays), arrays
        return made[id(operation)][0]

    inputs, outputs = keras_adapter.rerun(model, convert)
    for layer, arrays in made.values():
        if arrays:
            layer.set_weights(arrays)
    small = keras.Model(inputs, outputs, name=model.name)
    keras_adapter.copy_adapted_state(model, small)
    return small


def _resized(layer: Layer, arrays: list[Array]) -> Layer:
    config = keras.saving.serialize_keras_object(layer)
    if isinstance(layer, keras.Model):
        config.pop("compile_config", None)
    else:
        config.pop("build_config", None)  # the shapes of before
    if _has_units(layer):
        size = "units" if isinstance(layer, layers.Dense) else "filters"
        config["config"][size] = arrays[0].shape[-1]
        config["config"]["use_bias"] = len(arrays) > 1
    return revived(config)
