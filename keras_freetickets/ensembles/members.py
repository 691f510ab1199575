"""Checks that models can be members of one ensemble."""

import copy
import re
import typing

import keras
import numpy as np

from keras_freetickets import keras_adapter
from keras_freetickets.arguments import check_model
from keras_freetickets.types import Tensor


def check_members(members: typing.Any) -> None:
    """Raises unless models can be the members of one ensemble."""
    if not isinstance(members, (list, tuple)):
        raise ValueError(
            "`members` must be a list of Keras models. "
            f"Received: members={members}"
        )
    if not members:
        raise ValueError(
            "`members` must hold at least one model. Received: members=[]"
        )
    for i, member in enumerate(members):
        check_model(f"members[{i}]", member)
        if not getattr(member, "outputs", None):
            found = type(member).__name__
            if hasattr(member, "predictor"):
                found += "; its `predictor()` is such a model"
            raise ValueError(
                "`members` must be models with a graph, Functional or "
                f"Sequential. Received: member {i} is a {found}"
            )
        if not member.built:
            raise ValueError(f"`members` must be built. Received: member {i}")
        if len(member.outputs) != 1:
            raise ValueError(
                "`members` must have one output each. Make an ensemble for "
                "each output, of the members "
                "`keras.Model(model.inputs, model.outputs[k])`. "
                f"Received: member {i} with {len(member.outputs)} outputs"
            )
        _check_own_kernels(member, i)
        _check_no_dict(member, i)
        check_copied_by_config(member)
        shape = tuple(member.outputs[0].shape)
        if len(shape) < 2 or shape[-1] in (None, 0):
            raise ValueError(
                "`members` must return a score for each of two or more "
                "classes, (batch, ..., classes), for class 1 of a binary "
                "classifier, (batch, ..., 1), or the numbers of a regression, "
                f"(batch, ..., outputs). Received: member {i} that returns "
                f"{shape}"
            )
        _check_alike(members[0], member, i)


def _check_own_kernels(member: keras.Model, i: int) -> None:
    run = getattr(member, "run", None)
    method = getattr(run, "effective_method", None)
    if method is not None:
        raise ValueError(
            "`members` must compute with their own kernels. Give what "
            "`keras_freetickets.strip(member)` returns: its kernels are those "
            f"that the method predicts with. Received: member {i}, which "
            f"predicts with the kernels of {type(method).__name__}"
        )


def _check_no_dict(member: keras.Model, i: int) -> None:
    _, outputs = keras_adapter.ends_of_graph(member)
    if isinstance(outputs, dict):
        raise ValueError(
            "`members` must return an array, not a dict: give the members "
            "`keras.Model(model.inputs, model.outputs[0])`. "
            f"Received: member {i} that returns a dict of {list(outputs)}"
        )


def check_copied_by_config(layer: keras.layers.Layer) -> None:
    """Raises for layers whose state is neither in config nor in weights.

    Those are layers quantized by calibration (GPTQ, AWQ).

    Args:
        layer: A layer or model.
    """
    for part in keras_adapter.sublayers(layer):
        mode = getattr(part, "quantization_mode", None)
        if mode in ("gptq", "awq"):
            raise ValueError(
                f"Layer '{part.path}' is quantized by calibration and cannot "
                "be copied: convert the model first, or make the ensemble, "
                "of layers that are not quantized or quantized to int8 or "
                f"int4. Received: quantization_mode={mode!r}"
            )


def _check_alike(first: keras.Model, member: keras.Model, i: int) -> None:
    for end in ("inputs", "outputs"):
        mine = [tuple(tensor.shape) for tensor in getattr(first, end)]
        other = [tuple(tensor.shape) for tensor in getattr(member, end)]
        if mine != other:
            raise ValueError(
                f"`members` must agree in the shapes of their {end}. "
                f"Received: {mine} for member 0 and {other} for member {i}"
            )
    _check_adapted(first, member, i)
    if architecture(first) != architecture(member):
        raise ValueError(
            "`members` must have the same architecture. Received: member "
            f"{i} ('{member.name}') with other layers, or layers with other "
            "settings, than member 0"
        )


def _check_adapted(first: keras.Model, member: keras.Model, i: int) -> None:
    layers = keras_adapter.adapted_layers(first)
    others = keras_adapter.adapted_layers(member)
    if len(layers) != len(others):
        return  # another architecture, which `_check_alike` refuses
    for a, b in zip(layers, others, strict=True):
        if hasattr(a, "save_assets"):
            raise ValueError(
                "`members` must not contain layers with a vocabulary; put "
                f"them before the ensemble. Received: member {i} with layer "
                f"'{b.name}'"
            )
        if not _equal(a.weights, b.weights):
            raise ValueError(
                "`members` must be adapted to the same data. Received: "
                f"member {i}, whose layer '{b.name}' holds other values "
                "than that of member 0"
            )


def _equal(weights: list[keras.Variable], others: list[keras.Variable]) -> bool:
    return len(weights) == len(others) and all(
        np.array_equal(one, other)
        for one, other in zip(weights, others, strict=True)
    )


# Keys that may differ between members: they do not change what a member
# computes.
_OWN = re.compile(
    r"name|seed|sparsity|state|rate|trainable|frozen|compile_config|build_config"
    r"|mask_initializer|.*_(initializer|regularizer|constraint)|initializer"
)


def architecture(
    model: keras.Model, own: re.Pattern[str] = _OWN
) -> tuple[typing.Any, list[tuple[int, ...]]]:
    """What must be equal in all members: layers, their settings and shapes.

    Args:
        model: A Keras model.
        own: Compiled regular expression, the keys of the config to leave out.

    Returns:
        Tuple of a config to compare, and the shapes of all variables.
    """
    config = uncompiled(model)
    names: dict[str, str] = {}
    _number_layers(config, names)
    shapes = [tuple(v.shape) for v in state_of(model)]
    return _compared(config, names, own), shapes


def _number_layers(config: typing.Any, names: dict[str, str]) -> None:
    """Gives the layers in a config numbers in place of names."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return
        inner = config.get("config")
        if isinstance(inner, dict) and "name" in inner:
            names.setdefault(inner["name"], f"layer {len(names)}")
        config = config.values()
    if not isinstance(config, str) and hasattr(config, "__iter__"):
        for value in config:
            _number_layers(value, names)


def _compared(
    config: typing.Any, names: dict[str, str], own: re.Pattern[str]
) -> typing.Any:
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return config["config"]["name"]
        return {
            key: _compared(value, names, own)
            for key, value in config.items()
            if not own.fullmatch(str(key))
        }
    if isinstance(config, (list, tuple)):
        return [_compared(value, names, own) for value in config]
    return names.get(config, config) if isinstance(config, str) else config


def state_of(model: keras.Model) -> list[keras.Variable]:
    """All variables, in an order that is the same for equal models."""
    return list(model.trainable_variables) + list(model.non_trainable_variables)


# Layers that return probabilities for probabilities and logits for logits (a
# mean of probabilities is one).
_PASSING = (
    keras.layers.Cropping1D,
    keras.layers.Cropping2D,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.Identity,
    keras.layers.Reshape,
    keras.layers.UpSampling1D,
    keras.layers.UpSampling2D,
)
# Other interpolations overshoot.
_CONVEX = ("nearest", "bilinear")


def _passes(
    layer: keras.layers.Layer, passing: tuple[type[keras.layers.Layer], ...]
) -> bool:
    if isinstance(layer, keras.layers.Activation):
        return layer.activation is keras.activations.linear
    if getattr(layer, "interpolation", "nearest") not in _CONVEX:
        return False
    return isinstance(layer, passing)


def last_layer(
    model: keras.Model,
    passing: tuple[type[keras.layers.Layer], ...] = _PASSING,
) -> keras.layers.Layer:
    """The last layer that computes something new.

    Args:
        model: A Keras model with a graph and one output.
        passing: Tuple of layer classes to skip, such as `Reshape`.

    Returns:
        A layer.
    """
    return _end(model, passing)[0]


def _end(
    model: keras.Model,
    passing: tuple[type[keras.layers.Layer], ...] = _PASSING,
) -> tuple[keras.layers.Layer, Tensor]:
    """The layer that `last_layer` finds, and its output."""
    tensor = model.outputs[0]
    while True:
        layer, inputs = keras_adapter.origin(tensor)
        layer = getattr(layer, "layer", layer)
        if isinstance(layer, keras.Model):
            tensor = layer.outputs[0]
            continue
        if not _passes(layer, passing):
            return layer, tensor
        tensor = inputs[0]


def gives_logits(model: keras.Model) -> bool:
    """Whether the activation of the last layer returns logits.

    Args:
        model: A Keras model with one output, `(batch, ..., classes)` or
            `(batch, ..., 1)`.

    Raises:
        ValueError: If the activation returns neither logits nor
            probabilities.
    """
    layer, given = _end(model)
    classes = model.outputs[0].shape[-1]
    activation = getattr(layer, "activation", None)
    name = getattr(activation, "__name__", None)
    if isinstance(layer, keras.layers.Softmax):
        name = "softmax"
    # After a reshape the softmax may have been over another axis.
    if name == "softmax" and given.shape[-1] == classes:
        return False
    if name == "sigmoid" and classes == 1:
        return False
    if name == "linear":
        return True
    if name == "sigmoid":
        raise ValueError(several_labels(classes))
    raise ValueError(
        "`from_logits` must be given: the activation of the last layer is "
        "neither softmax nor linear, nor the sigmoid of one column. "
        f"Received: from_logits=None, last layer {layer.name!r} with "
        f"activation {name}"
    )


def several_labels(count: int) -> str:
    """The error for models that predict several binary labels at once."""
    return (
        "`members` must choose one class of several, or return one column. "
        "Give a model of several labels at once a position for each label: end "
        f"it with keras.layers.Reshape(({count}, 1)), and pass labels of shape "
        f"(examples, {count}). Received: a model with a sigmoid or a binary "
        f"loss for each of {count} columns"
    )


def revived(config: dict[str, typing.Any]) -> keras.Model:
    """A model from its config, of a copy: Keras empties what it reads."""
    return keras.saving.deserialize_keras_object(copy.deepcopy(config))


def uncompiled(model: keras.Model) -> dict[str, typing.Any]:
    """The serialized model, without its optimizer and loss."""
    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    return config
