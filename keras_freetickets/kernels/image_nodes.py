"""What a convolutional network computes: nodes, each of which reads others.

A node of shape `(height, width, channels)` is an image, one of shape
`(units,)` a vector. Nodes are compared by identity and never changed.
"""

import dataclasses
import typing
from collections.abc import Callable
from collections.abc import Iterable

import numpy as np

from keras_freetickets.kernels.geometry import Geometry
from keras_freetickets.kernels.structure import CompressedStructure


@typing.dataclass_transform(
    eq_default=False, kw_only_default=True, frozen_default=True
)
def node_class(kind: type) -> typing.Any:
    """Makes a dataclass that is compared by identity and never changed."""
    make = dataclasses.dataclass(
        frozen=True, eq=False, kw_only=True, repr=False
    )
    return make(kind)


@node_class
class Node:
    """The base class.

    Attributes:
        shape: Tuple of integers, without the batch.
        sources: Tuple of the nodes that it reads.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        raise NotImplementedError  # abstract

    @property
    def sources(self) -> "tuple[Node, ...]":
        raise NotImplementedError  # abstract


@node_class
class Input(Node):
    """The images, of which each channel is scaled.

    Attributes:
        size: Height, width and channels.
        factor: Array `(channels,)`.
        offset: Array `(channels,)`.
    """

    size: tuple[int, int, int]
    factor: np.ndarray
    offset: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.size

    @property
    def sources(self) -> tuple[Node, ...]:
        return ()


@node_class
class _Reader(Node):
    """A node that reads one other, and has its shape."""

    source: Node

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def sources(self) -> tuple[Node, ...]:
        return (self.source,)


@node_class
class Product(_Reader):
    """A dense layer of active weights, on a vector.

    Attributes:
        values: Array `(active,)`.
        structure: `CompressedStructure`.
        bias: Array `(outputs,)`.
        relu: Whether negative outputs become 0.
    """

    values: np.ndarray
    structure: CompressedStructure
    bias: np.ndarray
    relu: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.structure.num_outputs,)


@node_class
class Convolution(Product):
    """A convolution of active weights, on an image.

    Attributes:
        geometry: `Geometry`.
        residual: Node of the same shape that is added before negative outputs
            become 0, or `None`.
    """

    geometry: Geometry
    residual: Node | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        made = self.geometry.out_height, self.geometry.out_width
        return (*made, self.structure.num_outputs)

    @property
    def sources(self) -> tuple[Node, ...]:
        if self.residual is None:
            return (self.source,)
        return self.source, self.residual


@node_class
class Affine(_Reader):
    """A factor and an offset for each channel or unit.

    Attributes:
        factor: Array `(channels,)`.
        offset: Array `(channels,)`.
        relu: Whether negative outputs become 0.
    """

    factor: np.ndarray
    offset: np.ndarray
    relu: bool = False


@node_class
class Activation(_Reader):
    """A function that changes an array in place, given the axis of units.

    Attributes:
        function: Callable of an array and an axis.
    """

    function: Callable[[np.ndarray, int], None]


@node_class
class Relu(_Reader):
    """Zero where a node is negative."""


@node_class
class Sum(_Reader):
    """The sum of two nodes of one shape.

    Attributes:
        other: Node.
        relu: Whether negative sums become 0.
    """

    other: Node
    relu: bool = False

    @property
    def sources(self) -> tuple[Node, ...]:
        return self.source, self.other


@node_class
class Pool(_Reader):
    """The greatest or the mean pixel of windows.

    Attributes:
        geometry: `Geometry` of the windows.
        is_max: Whether it is the greatest; pixels beyond the image count for
            neither.
    """

    geometry: Geometry
    is_max: bool

    @property
    def shape(self) -> tuple[int, ...]:
        made = self.geometry.out_height, self.geometry.out_width
        return (*made, self.geometry.channels)


@node_class
class GlobalPool(_Reader):
    """The greatest or the mean pixel of each channel, a vector."""

    is_max: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape[-1:]


@node_class
class Flatten(_Reader):
    """All pixels of an image as a vector, the channels innermost."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (int(np.prod(self.source.shape)),)


def in_order(
    outputs: Iterable[Node],
    sources: Callable[[Node], tuple[Node, ...]] = lambda node: node.sources,
) -> list[Node]:
    """All nodes that outputs need, each after those that it reads.

    Args:
        outputs: Iterable of nodes.
        sources: Function from a node to those that it reads.
    """
    found: dict[Node, None] = {}
    waiting = list(outputs)[::-1]
    while waiting:
        node = waiting[-1]
        missing = [one for one in sources(node) if one not in found]
        if missing:
            waiting += missing[::-1]
        else:
            found.setdefault(waiting.pop())
    return list(found)
