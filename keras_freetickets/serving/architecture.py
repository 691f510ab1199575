"""Layers of a network for prediction, of a model as Keras serialized it."""

import functools
import math
import typing
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from keras_freetickets.kernels import CompressedLayer
from keras_freetickets.kernels import CompressedStructure
from keras_freetickets.kernels import compress
from keras_freetickets.serving import activations
from keras_freetickets.serving.activations import Activation

# What Keras has for a layer: class, name, config, how it was built.
Record = dict[str, typing.Any]
Arrays = Mapping[str, np.ndarray]

_IGNORED = (
    "ActivityRegularization",
    "AlphaDropout",
    "Dropout",
    "GaussianDropout",
    "GaussianNoise",
    "Identity",
    "SpatialDropout1D",
    "SpatialDropout2D",
)
# `keras.config.epsilon()` at its default, which Normalization divides by.
_EPSILON = 1e-7


def unsupported(reason: str, received: str) -> ValueError:
    """The error for a model that is not a chain of dense layers."""
    return ValueError(
        "SparsePredictor predicts with chains of dense layers, and "
        f"{reason}. Predict with keras_freetickets.EnsembleModel, which has "
        "every layer of Keras, or use keras_freetickets.export. "
        f"Received: {received}"
    )


def chain_of(template: Record) -> tuple[tuple[int, ...], list[Record]]:
    """The layers of a model, first to last.

    Args:
        template: Dict, a model as Keras serializes it.

    Returns:
        Tuple of the shape of an example and a list of serialized layers,
        without those of inputs.

    Raises:
        ValueError: If the model is no chain of layers, or the shape of an
            example is not known.
    """
    config = template["config"]
    layers = config.get("layers") if isinstance(config, dict) else None
    if not layers:
        raise unsupported(
            "this model has no graph of layers",
            f"a model of class {template.get('class_name')}",
        )
    if any("inbound_nodes" in layer for layer in layers):
        layers = _in_order(config, layers)
    inputs = [one for one in layers if one["class_name"] == "InputLayer"]
    shape = None
    if inputs:
        shape = inputs[0]["config"].get("batch_shape")
    elif template.get("build_config"):
        shape = template["build_config"].get("input_shape")
    if shape is None or None in shape[1:]:
        raise unsupported(
            "the shape of an example must be known",
            f"a model of input shape {shape}",
        )
    rest = [one for one in layers if one["class_name"] != "InputLayer"]
    return tuple(shape[1:]), rest


def name_of(layer: Record) -> str:
    """The name of a serialized layer."""
    return layer.get("name") or layer["config"]["name"]


def _in_order(config: Record, layers: Sequence[Record]) -> list[Record]:
    by_name = {name_of(layer): layer for layer in layers}
    last = _only(config["output_layers"], "several outputs")
    found = [by_name[last]]
    while found[-1]["class_name"] != "InputLayer":
        layer = found[-1]
        if len(layer["inbound_nodes"]) != 1:
            raise unsupported(
                f"layer '{name_of(layer)}' is called several times",
                _described(layer),
            )
        sources = list(_tensors(layer["inbound_nodes"]))
        if len(sources) != 1:
            raise unsupported(
                f"layer '{name_of(layer)}' has {len(sources)} inputs",
                _described(layer),
            )
        found.append(by_name[sources[0]])
    others = [one for one in layers if one not in found]
    if others:
        raise unsupported(
            f"layer '{name_of(others[0])}' is beside the chain",
            _described(others[0]),
        )
    return found[::-1]


def _only(ends: typing.Any, many: str) -> str:
    """The name in `["layer", 0, 0]` or a list of one such list."""
    while isinstance(ends, list) and len(ends) == 1:
        ends = ends[0]
    if isinstance(ends, dict) or not isinstance(ends[0], str):
        raise unsupported(f"this model has {many}", f"{ends}")
    return ends[0]


def _tensors(node: typing.Any) -> typing.Iterator[str]:
    """Names of the layers that a call's arguments come from."""
    if isinstance(node, dict):
        if node.get("class_name") == "__keras_tensor__":
            yield node["config"]["keras_history"][0]
            return
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for one in node:
            yield from _tensors(one)


def _described(layer: Record) -> str:
    return f"layer '{name_of(layer)}' of class {layer['class_name']}"


class Member:
    """Makes the layers of one member, layer by layer.

    Factors and offsets of normalization become part of the weights beside
    them, in float64 before they are rounded.

    Args:
        shape: Tuple of integers, the shape of an example.
        arrays: Dict of the member's arrays by the path of their variable.

    Attributes:
        layers: List of `CompressedLayer`.
    """

    def __init__(self, shape: tuple[int, ...], arrays: Arrays) -> None:
        self.layers: list[CompressedLayer] = []
        self._shape = shape
        self._arrays = arrays
        # Factor and offset of what the next layer reads.
        self._affine: tuple[np.ndarray, np.ndarray] | None = None
        self._steps: list[list[Activation]] = []

    def add(self, layer: Record) -> None:
        """Adds a serialized layer.

        Raises:
            ValueError: If it is of another kind than this can compute.
        """
        kind, config = layer["class_name"], layer["config"]
        registered = layer.get("registered_name")
        own = str(registered).startswith("keras_freetickets>")
        known = own or (
            registered is None and str(layer.get("module")).startswith("keras.")
        )
        if own and kind == "Sparse":
            inner = config["layer"]
            if inner["class_name"] == "Dense":
                self._dense(name_of(layer), inner["config"])
                return
            raise unsupported(
                f"layer '{name_of(layer)}' is of another kind",
                _described(inner),
            )
        read = _READERS.get(kind) if known else None
        if read is None and not (known and kind in _IGNORED):
            raise unsupported(
                f"layer '{name_of(layer)}' is of another kind",
                _described(layer),
            )
        if read is None:
            return
        try:
            read(self, name_of(layer), config)
        except _UnsupportedError as error:
            raise unsupported(
                f"layer '{name_of(layer)}': {error}", _described(layer)
            ) from None

    def finished(self) -> list[CompressedLayer]:
        """The layers, after the last was added.

        Raises:
            ValueError: If there is none.
        """
        if not self.layers:
            raise unsupported("there is none", "a model without one")
        self._flush()
        return [
            CompressedLayer(
                *layer[:-1], functools.partial(_all, steps) if steps else None
            )
            for layer, steps in zip(self.layers, self._steps, strict=True)
        ]

    def _array(self, name: str, variable: str) -> np.ndarray:
        ending = f"{name}/{variable}"
        found = [
            array
            for path, array in self._arrays.items()
            if path == ending or path.endswith(f"/{ending}")
        ]
        if len(found) != 1 or found[0].dtype.kind not in "fiu":
            raise _UnsupportedError(f"its variable '{variable}' is not found")
        return found[0]

    def _dense(self, name: str, config: Record) -> None:
        if config.get("lora_rank") or config.get("quantization_config"):
            raise unsupported(
                f"layer '{name}' has LoRA or is quantized", f"layer '{name}'"
            )
        try:
            kernel = self._array(name, "kernel")
            bias = self._bias(name, config)
        except _UnsupportedError as error:
            raise unsupported(
                f"layer '{name}': {error}", f"layer '{name}'"
            ) from None
        if kernel.dtype.kind != "f":
            raise unsupported(f"layer '{name}' is quantized", f"layer '{name}'")
        self._product(name, *compress(kernel, kernel != 0), bias, config)

    def _compressed(self, name: str, config: Record) -> None:
        pointers = self._array(name, "row_pointers")
        columns = self._array(name, "column_indices")[: pointers[-1]]
        structure = CompressedStructure(pointers, columns, self._size())
        values = self._array(name, "values")[: structure.active]
        bias = self._bias(name, config)
        self._product(name, values, structure, bias, config)

    def _bias(self, name, config):
        return self._array(name, "bias") if config.get("use_bias") else None

    def _size(self):
        return math.prod(self._shape)

    def _product(self, name, values, structure, bias, config):
        if len(self._shape) != 1 or structure.num_inputs != self._size():
            raise unsupported(
                f"layer '{name}' gets examples of shape {self._shape}",
                f"layer '{name}' of {structure.num_inputs} inputs",
            )
        wide = np.asarray(values, "float64")
        sums = np.zeros(structure.num_outputs)
        if bias is not None:
            sums += bias
        if self._affine is not None:
            factor, offset = self._affine
            columns = structure.column_indices
            sums += np.bincount(
                structure.row_indices,
                wide * offset[columns],
                structure.num_outputs,
            )
            wide = wide * factor[columns]
            self._affine = None
        self.layers.append(
            CompressedLayer(
                wide.astype("float32"), structure, sums.astype("float32"), False
            )
        )
        self._steps.append([])
        self._shape = (structure.num_outputs,)
        self._activate(name, config.get("activation"))

    def _activate(self, name: str, activation: typing.Any) -> None:
        try:
            function = activations.activation_of(activation)
        except ValueError as error:
            raise unsupported(
                f"layer '{name}': {error}", f"layer '{name}'"
            ) from None
        if function is not None:
            self._step(function)

    def _step(self, function: Activation) -> None:
        """An activation after what there is."""
        if not self.layers:
            raise _UnsupportedError("no dense layer comes before it")
        self._flush()
        last = self.layers[-1]
        if function is activations.relu and not self._is_changed():
            self.layers[-1] = CompressedLayer(*last[:3], relu=True)
        else:
            self._steps[-1].append(function)

    def _is_changed(self) -> bool:
        """Whether the last layer has an activation."""
        return self.layers[-1].relu or bool(self._steps[-1])

    def _flush(self) -> None:
        """Factors and offsets that no dense layer reads, as a step."""
        if self._affine is not None:
            factor, offset = (a.astype("float32") for a in self._affine)
            self._affine = None
            self._steps[-1].append(functools.partial(_affine, factor, offset))

    def _scale(self, factor: typing.Any, offset: typing.Any) -> None:
        """Multiplies by a factor, and adds an offset, of each unit."""
        factor, offset = (
            np.broadcast_to(np.asarray(a, "float64"), self._shape).reshape(-1)
            for a in (factor, offset)
        )
        if self._affine is not None:
            before, added = self._affine
            self._affine = before * factor, added * factor + offset
        elif self.layers and not self._is_changed():
            values, structure, bias = self.layers[-1][:3]
            wide = values * factor[structure.row_indices]
            sums = bias * factor + offset
            self.layers[-1] = CompressedLayer(
                wide.astype("float32"), structure, sums.astype("float32"), False
            )
        else:
            self._affine = factor, offset

    def _rescaling(self, name: str, config: Record) -> None:
        self._scale(_plain(config["scale"]), _plain(config["offset"]))

    def _batch_normalization(self, name: str, config: Record) -> None:
        self._check_axis(config["axis"])
        variance = self._array(name, "moving_variance").astype("float64")
        factor = 1 / np.sqrt(variance + config["epsilon"])
        if config.get("scale", True):
            factor = factor * self._array(name, "gamma")
        offset = -self._array(name, "moving_mean") * factor
        if config.get("center", True):
            offset = offset + self._array(name, "beta")
        self._scale(factor, offset)

    def _normalization(self, name: str, config: Record) -> None:
        if config.get("invert"):
            raise _UnsupportedError("it inverts")
        if config["mean"] is not None:
            mean, variance = _plain(config["mean"]), _plain(config["variance"])
        else:
            mean = self._array(name, "mean")
            variance = self._array(name, "variance")
        self._check_axis(config["axis"])
        factor = 1 / np.maximum(np.sqrt(np.float64(variance)), _EPSILON)
        self._scale(factor, -np.float64(mean) * factor)

    def _check_axis(self, axis):
        axes = [axis] if isinstance(axis, int) else list(axis or [])
        if axes not in ([-1], [len(self._shape)]):
            raise _UnsupportedError("it must normalize over the last axis")

    def _flatten(self, name: str, config: Record) -> None:
        many = len(self._shape) > 1
        if many and config.get("data_format") == "channels_first":
            raise _UnsupportedError("it must have data_format='channels_last'")
        self._shape = (self._size(),)

    def _reshape(self, name: str, config: Record) -> None:
        shape = list(config["target_shape"])
        if -1 in shape:
            known = math.prod(size for size in shape if size != -1)
            shape[shape.index(-1)] = self._size() // known
        self._shape = tuple(shape)

    def _activation(self, name: str, config: Record) -> None:
        self._activate(name, config["activation"])

    def _relu(self, name: str, config: Record) -> None:
        most = config.get("max_value")
        slope = config.get("negative_slope") or 0.0
        threshold = config.get("threshold") or 0.0
        if most is None and not slope and not threshold:
            self._step(activations.relu)
        else:
            self._step(
                functools.partial(
                    activations.relu,
                    max_value=most,
                    negative_slope=slope,
                    threshold=threshold,
                )
            )

    def _leaky_relu(self, name: str, config: Record) -> None:
        slope = config["negative_slope"]
        self._step(functools.partial(activations.relu, negative_slope=slope))

    def _elu(self, name: str, config: Record) -> None:
        self._step(functools.partial(activations.elu, alpha=config["alpha"]))

    def _softmax(self, name: str, config: Record) -> None:
        self._check_axis(config["axis"])
        self._step(activations.softmax)


class _UnsupportedError(Exception):
    """Why a layer cannot be computed; `add` says which."""


_READERS: dict[str, Callable[[Member, str, Record], None]] = {
    "Activation": Member._activation,
    "BatchNormalization": Member._batch_normalization,
    "CompressedDense": Member._compressed,
    "Dense": Member._dense,
    "ELU": Member._elu,
    "Flatten": Member._flatten,
    "LeakyReLU": Member._leaky_relu,
    "Normalization": Member._normalization,
    "ReLU": Member._relu,
    "Rescaling": Member._rescaling,
    "Reshape": Member._reshape,
    "Softmax": Member._softmax,
}


def _plain(value: typing.Any) -> typing.Any:
    """A number or list of numbers of a config."""
    if isinstance(value, dict):  # an array, as Keras serializes it
        value = value["config"]["value"]
    return np.asarray(value, "float64")


def _affine(
    factor: np.ndarray, offset: np.ndarray, x: np.ndarray, axis: int
) -> None:
    shape = [1] * x.ndim
    shape[axis] = -1
    x *= factor.reshape(shape)
    x += offset.reshape(shape)


def _all(steps: Sequence[Activation], x: np.ndarray, axis: int) -> None:
    for step in steps:
        step(x, axis)


def members_of(
    template: Record, arrays: Arrays, num_members: int
) -> tuple[tuple[int, ...], list[list[CompressedLayer]]]:
    """The layers of all members of an ensemble.

    Args:
        template: Dict, a member as Keras serializes it.
        arrays: Dict of arrays `(members, ...)` by the path of their variable.
        num_members: Positive integer.

    Returns:
        Tuple of the shape of an example and a list of lists of
        `CompressedLayer`.

    Raises:
        ValueError: If the model is not a chain of layers that can be computed.
    """
    shape, chain = chain_of(template)
    members = []
    for i in range(num_members):
        own = {path: array[i] for path, array in arrays.items()}
        member = Member(shape, own)
        for layer in chain:
            member.add(layer)
        members.append(member.finished())
    return shape, members
