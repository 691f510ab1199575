"""Convolutional networks, of a model as Keras serialized it."""

import math
import typing

import numpy as np

from keras_freetickets.kernels import CompressedStructure
from keras_freetickets.kernels import compress
from keras_freetickets.kernels import image_nodes as nodes
from keras_freetickets.kernels.geometry import Geometry
from keras_freetickets.serving import activations
from keras_freetickets.serving.activations import Activation
from keras_freetickets.serving.architecture import input_shape_of
from keras_freetickets.serving.architecture import layers_of
from keras_freetickets.serving.architecture import only_end
from keras_freetickets.serving.architecture import sources_of
from keras_freetickets.serving.layer_reader import Arrays
from keras_freetickets.serving.layer_reader import LayerReader
from keras_freetickets.serving.layer_reader import Record
from keras_freetickets.serving.layer_reader import UnsupportedError
from keras_freetickets.serving.layer_reader import described
from keras_freetickets.serving.layer_reader import name_of
from keras_freetickets.serving.layer_reader import unsupported


def is_of_images(template: Record) -> bool:
    """Whether a model has layers that compute on images.

    Args:
        template: Dict, a model as Keras serializes it.
    """
    layers = layers_of(template)
    classes = {layer["class_name"] for layer in layers}
    classes |= {
        layer["config"]["layer"]["class_name"]
        for layer in layers
        if layer["class_name"] == "Sparse"
    }
    return bool(classes & set(ImageMember.of_images))


class ImageMember(LayerReader):
    """Makes the nodes of one member that computes on images.

    Args:
        shape: Tuple of three integers, height, width and channels.
        arrays: Dict of the member's arrays by the path of their variable.
    """

    def __init__(self, shape: tuple[int, int, int], arrays: Arrays) -> None:
        super().__init__(shape, arrays)
        ones = np.ones(shape[-1])
        self._input = nodes.Input(size=shape, factor=ones, offset=0 * ones)
        self._by_name: dict[str, nodes.Node] = {}
        # What the next layer reads, in the end what the last returned.
        self._at: nodes.Node = self._input
        self._others: list[nodes.Node] = []

    def read(self, layer: Record, sources: list[str] | None) -> None:
        """Adds a layer of a graph.

        Args:
            layer: Dict, a serialized layer.
            sources: List of the names of the layers that it reads; `None` for
                the one before it.

        Raises:
            ValueError: If it is of another kind than this can compute.
        """
        if layer["class_name"] == "InputLayer":
            self._by_name[name_of(layer)] = self._input
            return
        if sources is not None:
            self._at, *self._others = (self._by_name[one] for one in sources)
        if self._others and layer["class_name"] != "Add":
            raise unsupported(
                f"layer '{name_of(layer)}' has {len(self._others) + 1} inputs",
                described(layer),
            )
        self._shape = self._at.shape
        self.add(layer)
        self._by_name[name_of(layer)] = self._at

    def output(self, name: str | None) -> nodes.Node:
        """What a layer returns, a vector.

        Args:
            name: The layer's name; `None` for the last.

        Raises:
            ValueError: If it returns images.
        """
        node = self._at if name is None else self._by_name[name]
        if len(node.shape) != 1:
            raise unsupported(
                "the last layer must return a vector",
                f"a model of output shape {node.shape}",
            )
        return node

    def _multiply(
        self,
        values: np.ndarray,
        structure: CompressedStructure,
        bias: np.ndarray | None,
    ) -> None:
        self._at = nodes.Product(
            source=self._at,
            values=np.asarray(values, "float64"),
            structure=structure,
            bias=_bias(bias, structure),
        )

    def _step(self, function: Activation) -> None:
        if function is activations.relu:
            self._at = nodes.Relu(source=self._at)
        else:
            self._at = nodes.Activation(source=self._at, function=function)

    def _scale(self, factor: typing.Any, offset: typing.Any) -> None:
        size = self._at.shape[-1:]
        self._at = nodes.Affine(
            source=self._at,
            factor=np.broadcast_to(np.ravel(np.float64(factor)), size),
            offset=np.broadcast_to(np.ravel(np.float64(offset)), size),
        )

    def _convolution(self, name: str, config: Record) -> None:
        if config.get("groups", 1) != 1:
            raise UnsupportedError("it must have one group")
        kernel = self._kernel(name, config)
        kernel = kernel.reshape(-1, kernel.shape[-1])
        self._convolve(name, config, *compress(kernel, kernel != 0))

    def _compressed_convolution(self, name: str, config: Record) -> None:
        inputs = math.prod(config["kernel_size"]) * self._image()[-1]
        kernel = self._compressed_kernel(name, inputs)
        self._convolve(name, config, *kernel)

    def _convolve(self, name, config, values, structure):
        self._at = nodes.Convolution(
            source=self._at,
            values=np.asarray(values, "float64"),
            structure=structure,
            bias=_bias(self._bias(name, config), structure),
            geometry=self._geometry(config, "kernel_size"),
        )
        self._activate(config.get("activation"))

    def _image(self):
        if len(self._at.shape) != 3:
            raise UnsupportedError(f"it gets inputs of shape {self._at.shape}")
        return self._at.shape

    def _geometry(self, config, size):
        if config.get("data_format") == "channels_first":
            raise UnsupportedError("it must have data_format='channels_last'")
        if any(rate != 1 for rate in _pair(config.get("dilation_rate", 1))):
            raise UnsupportedError("it must have a dilation_rate of 1")
        geometry = Geometry.of(
            self._image(),
            _pair(config[size]),
            _pair(config["strides"]),
            config["padding"],
        )
        if not (geometry.out_height and geometry.out_width):
            raise UnsupportedError("it returns images without a pixel")
        return geometry

    def _pooling(self, config, is_max):
        self._at = nodes.Pool(
            source=self._at,
            geometry=self._geometry(config, "pool_size"),
            is_max=is_max,
        )

    def _max_pooling(self, name: str, config: Record) -> None:
        self._pooling(config, True)

    def _average_pooling(self, name: str, config: Record) -> None:
        self._pooling(config, False)

    def _global_pooling(self, config, is_max):
        self._image()
        if config.get("data_format") == "channels_first":
            raise UnsupportedError("it must have data_format='channels_last'")
        if config.get("keepdims"):
            raise UnsupportedError("it must have keepdims=False")
        self._at = nodes.GlobalPool(source=self._at, is_max=is_max)

    def _global_max(self, name: str, config: Record) -> None:
        self._global_pooling(config, True)

    def _global_average(self, name: str, config: Record) -> None:
        self._global_pooling(config, False)

    def _flatten(self, name: str, config: Record) -> None:
        if len(self._at.shape) == 1:
            return
        if config.get("data_format") == "channels_first":
            raise UnsupportedError("it must have data_format='channels_last'")
        self._at = nodes.Flatten(source=self._at)

    def _sum(self, name: str, config: Record) -> None:
        for other in self._others:
            if other.shape != self._at.shape:
                raise UnsupportedError("its inputs must have one shape")
            self._at = nodes.Sum(source=self._at, other=other)
        self._others = []

    of_images: typing.ClassVar = {
        "AveragePooling2D": _average_pooling,
        "CompressedConv2D": _compressed_convolution,
        "Conv2D": _convolution,
        "GlobalAveragePooling2D": _global_average,
        "GlobalMaxPooling2D": _global_max,
        "MaxPooling2D": _max_pooling,
    }
    readers: typing.ClassVar = {
        **LayerReader.readers,
        **of_images,
        "Add": _sum,
        "Flatten": _flatten,
    }


def _bias(bias, structure):
    if bias is None:
        return np.zeros(structure.num_outputs)
    return bias.astype("float64")


def _pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def images_of(
    template: Record, arrays: Arrays, num_members: int
) -> tuple[tuple[int, ...], list[nodes.Node]]:
    """The networks of all members of an ensemble.

    Args:
        template: Dict, a member as Keras serializes it.
        arrays: Dict of arrays `(members, ...)` by the path of their variable.
        num_members: Positive integer.

    Returns:
        Tuple of the shape of an example and a list of `Node`, the outputs.

    Raises:
        ValueError: If a layer cannot be computed.
    """
    layers = layers_of(template)
    shape = input_shape_of(template, layers)
    if len(shape) != 3:
        raise unsupported(
            "a convolutional network must get images",
            f"a model of input shape {shape}",
        )
    is_graph = any("inbound_nodes" in layer for layer in layers)
    end = None
    if is_graph:
        end = only_end(template["config"]["output_layers"], "several outputs")
        only_end(template["config"]["input_layers"], "several inputs")
        layers = _in_order(layers, end)
    outputs = []
    for i in range(num_members):
        own = {path: array[i] for path, array in arrays.items()}
        member = ImageMember(shape, own)
        for layer in layers:
            is_input = layer["class_name"] == "InputLayer"
            named = is_graph and not is_input
            member.read(layer, sources_of(layer) if named else None)
        outputs.append(member.output(end))
    return shape, outputs


def _in_order(layers, end):
    """The layers that an output needs, each after those that it reads."""
    by_name = {name_of(layer): layer for layer in layers}
    found: dict[str, Record] = {}
    waiting = [end]
    while waiting:
        layer = by_name[waiting[-1]]
        needed = (
            [] if layer["class_name"] == "InputLayer" else sources_of(layer)
        )
        missing = [name for name in needed if name not in found]
        waiting += missing
        if not missing:
            found[waiting.pop()] = layer
    return list(found.values())
