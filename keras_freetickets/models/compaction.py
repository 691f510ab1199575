"""Removes units that nothing feeds or nothing reads, with equal outputs."""

import typing

import keras
import numpy as np
from keras import layers
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.arguments import check_model
from keras_freetickets.ensembles.members import revived
from keras_freetickets.models.channels import ACTIVATIONS
from keras_freetickets.models.channels import Channels
from keras_freetickets.models.channels import channels_of
from keras_freetickets.models.channels import has_units
from keras_freetickets.models.conversion import strip
from keras_freetickets.models.sparse_model import SparseModel
from keras_freetickets.types import Array
from keras_freetickets.types import Layer


def compact(model: keras.Model) -> keras.Model:
    """Makes a smaller model of equal outputs: without units that do nothing.

    Units (of `Dense`) and channels (of `Conv1D`, `Conv2D`, `Conv3D`) go if no
    connection reads them; between one layer and the only one that reads it,
    also if none feeds them: what they add is a constant, which the bias of the
    next layer takes over. Layers whose outputs are added, as in residual
    networks, lose the same channels; depthwise convolutions go with theirs.
    This is done again until no such unit is left. Kernels of the remaining
    units stay sparse.

    After unstructured training it gives little below a sparsity of about
    0.98: units hardly ever lose all of their connections (`count_units` counts
    those that did). `keras_freetickets.topology.Chase` removes whole channels
    during training.

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
    found = channels_of(plain)
    while any(_shrink(channels, weights) for channels in found):
        pass
    return _rebuilt(plain, weights)


def _shrink(channels: Channels, weights: dict[int, list[Array]]) -> bool:
    """Removes the units that do nothing; whether there were any."""
    units = weights[id(channels.producers[0])][0].shape[-1]
    read = [_by_unit(weights[id(one)][0], units) for one in channels.readers]
    unread = ~np.any([rows.any(axis=(0, 2)) for rows in read], axis=0)
    values = np.zeros(units)
    constant = np.zeros(units, bool)
    if channels.is_chain:
        values, constant = _constants(channels, weights)
    removed = unread | constant
    if removed.all():
        removed[0] = False  # a layer has one unit at least
    if not removed.any():
        return False
    moved = np.where(removed & ~unread, values, 0.0)
    kept = ~removed
    for layer in channels.producers:
        weights[id(layer)] = [one[..., kept] for one in weights[id(layer)]]
    for layer in channels.between:
        weights[id(layer)] = [
            one[..., kept, :] if one.ndim > 1 else one[kept]
            for one in weights[id(layer)]
        ]
    for layer in channels.readers:
        kernel, *rest = weights[id(layer)]
        rows = _by_unit(kernel, units)
        shape = (*kernel.shape[:-2], -1, kernel.shape[-1])
        weights[id(layer)] = [rows[:, kept].reshape(shape), *rest]
        shift = np.einsum("pur,u->r", rows.astype("float64"), moved)
        if shift.any():
            bias = rest[0] if rest else np.zeros(shift.shape)
            bias = (bias + shift).astype(kernel.dtype)
            weights[id(layer)] = [weights[id(layer)][0], bias]
    return True


def _by_unit(kernel: Array, units: int) -> Array:
    """A reader's kernel, reshaped to (positions, units read, own units)."""
    return kernel.reshape(-1, units, kernel.shape[-1])


def _constants(
    chain: Channels, weights: dict[int, list[Array]]
) -> tuple[Array, Array]:
    """What units give that nothing feeds, and which may go for that."""
    (producer,), (reader,) = chain.producers, chain.readers
    kernel, *rest = weights[id(producer)]
    units = kernel.shape[-1]
    values = rest[0] if rest else np.zeros(units, "float32")
    values = _activated(producer, values)
    for layer in chain.between:
        if isinstance(layer, layers.BatchNormalization):
            values = _normalized(layer, values, weights[id(layer)])
        elif isinstance(layer, layers.Activation):
            values = _activated(layer, values)
        elif isinstance(layer, ACTIVATIONS):
            values = np.asarray(ops.convert_to_numpy(layer(values[None])))[0]
    constant = ~kernel.reshape(-1, units).any(axis=0)
    if getattr(reader, "padding", "valid") != "valid":
        # At the borders it reads zeros instead.
        constant &= values == 0
    return np.asarray(values, "float64"), constant


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
    if has_units(layer):
        size = "units" if isinstance(layer, layers.Dense) else "filters"
        config["config"][size] = arrays[0].shape[-1]
        config["config"]["use_bias"] = len(arrays) > 1
    return revived(config)
