"""Layers of chains of dense layers, of a model as Keras serialized it."""

import functools
import math
import typing
from collections.abc import Sequence

import numpy as np

from keras_freetickets.kernels import CompressedLayer
from keras_freetickets.kernels import CompressedStructure
from keras_freetickets.serving import activations
from keras_freetickets.serving.activations import Activation
from keras_freetickets.serving.layer_reader import Arrays
from keras_freetickets.serving.layer_reader import LayerReader
from keras_freetickets.serving.layer_reader import Record
from keras_freetickets.serving.layer_reader import UnsupportedError
from keras_freetickets.serving.layer_reader import described
from keras_freetickets.serving.layer_reader import name_of
from keras_freetickets.serving.layer_reader import unsupported


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
    layers = layers_of(template)
    if any("inbound_nodes" in layer for layer in layers):
        layers = _in_order(template["config"], layers)
    rest = [one for one in layers if one["class_name"] != "InputLayer"]
    return input_shape_of(template, layers), rest


def layers_of(template: Record) -> list[Record]:
    """The serialized layers of a model, in Keras' order.

    Raises:
        ValueError: If there is no graph of layers.
    """
    config = template["config"]
    layers = config.get("layers") if isinstance(config, dict) else None
    if not layers:
        raise unsupported(
            "this model has no graph of layers",
            f"a model of class {template.get('class_name')}",
        )
    return layers


def input_shape_of(
    template: Record, layers: Sequence[Record]
) -> tuple[int, ...]:
    """The shape of an example, without the batch.

    Raises:
        ValueError: If it is not known.
    """
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
    return tuple(shape[1:])


def _in_order(config: Record, layers: Sequence[Record]) -> list[Record]:
    by_name = {name_of(layer): layer for layer in layers}
    last = only_end(config["output_layers"], "several outputs")
    found = [by_name[last]]
    while found[-1]["class_name"] != "InputLayer":
        layer = found[-1]
        sources = sources_of(layer)
        if len(sources) != 1:
            raise unsupported(
                f"layer '{name_of(layer)}' has {len(sources)} inputs",
                described(layer),
            )
        found.append(by_name[sources[0]])
    others = [one for one in layers if one not in found]
    if others:
        raise unsupported(
            f"layer '{name_of(others[0])}' is beside the chain",
            described(others[0]),
        )
    return found[::-1]


def sources_of(layer: Record) -> list[str]:
    """The names of the layers that a layer of a graph reads.

    Raises:
        ValueError: If it is called several times.
    """
    if len(layer["inbound_nodes"]) != 1:
        raise unsupported(
            f"layer '{name_of(layer)}' is called several times",
            described(layer),
        )
    return list(_tensors(layer["inbound_nodes"]))


def only_end(ends: typing.Any, many: str) -> str:
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


class Member(LayerReader):
    """Makes the layers of one member that is a chain of dense layers.

    Factors and offsets of normalization become part of the weights beside
    them, in float64 before they are rounded.

    Args:
        shape: Tuple of integers, the shape of an example.
        arrays: Dict of the member's arrays by the path of their variable.

    Attributes:
        layers: List of `CompressedLayer`.
    """

    def __init__(self, shape: tuple[int, ...], arrays: Arrays) -> None:
        super().__init__(shape, arrays)
        self.layers: list[CompressedLayer] = []
        # Factor and offset of what the next layer reads.
        self._affine: tuple[np.ndarray, np.ndarray] | None = None
        self._steps: list[list[Activation]] = []

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

    def _multiply(
        self,
        values: np.ndarray,
        structure: CompressedStructure,
        bias: np.ndarray | None,
    ) -> None:
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

    def _step(self, function: Activation) -> None:
        """An activation after what there is."""
        if not self.layers:
            raise UnsupportedError("no dense layer comes before it")
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

    def _flatten(self, name: str, config: Record) -> None:
        many = len(self._shape) > 1
        if many and config.get("data_format") == "channels_first":
            raise UnsupportedError("it must have data_format='channels_last'")
        self._shape = (self._size(),)

    def _reshape(self, name: str, config: Record) -> None:
        shape = list(config["target_shape"])
        if -1 in shape:
            known = math.prod(size for size in shape if size != -1)
            shape[shape.index(-1)] = self._size() // known
        self._shape = tuple(shape)

    readers: typing.ClassVar = {
        **LayerReader.readers,
        "Flatten": _flatten,
        "Reshape": _reshape,
    }


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
