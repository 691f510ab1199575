"""Fewer nodes for the same convolutional network."""

import dataclasses
import functools
import typing

from keras_freetickets.kernels.image_nodes import Affine
from keras_freetickets.kernels.image_nodes import Convolution
from keras_freetickets.kernels.image_nodes import Input
from keras_freetickets.kernels.image_nodes import Node
from keras_freetickets.kernels.image_nodes import Product
from keras_freetickets.kernels.image_nodes import Relu
from keras_freetickets.kernels.image_nodes import Sum
from keras_freetickets.kernels.image_nodes import in_order


def fused(output: Node) -> Node:
    """The same network of fewer nodes.

    Factors and offsets after weights become part of them, in float64; those of
    the images part of the input. ReLU and the addition of a shortcut become
    part of what computes before them, if nothing else reads that.

    Args:
        output: Node.
    """
    order = in_order([output])
    readers = dict.fromkeys(order, 0)
    readers[output] += 1
    for node in order:
        for source in node.sources:
            readers[source] += 1
    made: dict[Node, Node] = {}
    for node in order:
        alone = [readers[source] == 1 for source in node.sources]
        sources = [made[source] for source in node.sources]
        made[node] = _fused_node(_reading(node, sources), alone)
    return made[output]


def _reading(node: Node, sources: list[Node]) -> Node:
    """A node with other sources."""
    names = ("source", "other")
    given: dict[str, typing.Any] = dict(zip(names, sources, strict=False))
    return dataclasses.replace(node, **given) if sources else node


@functools.singledispatch
def _fused_node(node: Node, alone: list[bool]) -> Node:
    """One node, which may take the place of a source that it reads alone."""
    return node


@_fused_node.register
def _(node: Affine, alone: list[bool]) -> Node:
    source = node.source
    if not alone[0]:
        return node
    if isinstance(source, Input):
        return dataclasses.replace(
            source,
            factor=source.factor * node.factor,
            offset=source.offset * node.factor + node.offset,
        )
    if isinstance(source, Product) and _is_plain(source):
        return dataclasses.replace(
            source,
            values=source.values * node.factor[source.structure.row_indices],
            bias=source.bias * node.factor + node.offset,
        )
    return node


def _is_plain(node: Node) -> bool:
    """Whether it has weights and a bias, and nothing comes after them."""
    return (
        isinstance(node, Product)
        and not node.relu
        and getattr(node, "residual", None) is None
    )


@_fused_node.register
def _(node: Sum, alone: list[bool]) -> Node:
    pairs = (node.source, node.other), (node.other, node.source)
    for (one, other), is_alone in zip(pairs, alone, strict=True):
        if is_alone and isinstance(one, Convolution) and _is_plain(one):
            return dataclasses.replace(one, residual=other)
    return node


@_fused_node.register
def _(node: Relu, alone: list[bool]) -> Node:
    source = node.source
    if not alone[0] or not isinstance(source, (Product, Affine, Sum)):
        return node
    return dataclasses.replace(source, relu=True)
