"""What computes each node of a convolutional network."""

import functools
import typing

import numpy as np

from keras_freetickets.kernels import compiled
from keras_freetickets.kernels import image_kernels
from keras_freetickets.kernels import image_layout as layout
from keras_freetickets.kernels import image_nodes as nodes
from keras_freetickets.kernels.image_layout import Phases
from keras_freetickets.kernels.image_nodes import Node

# What stands for memory that a step does not use.
_NOTHING = np.zeros(1, "float32")


@nodes.node_class
class Split(Node):
    """Phases of an image, which windows of one stride share.

    Attributes:
        source: Node.
        phases: `Phases`.
        fill: Float, what stands beyond the image.
    """

    source: Node
    phases: Phases
    fill: float

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.phases.floats(),)

    @property
    def sources(self) -> tuple[Node, ...]:
        return (self.source,)


def reads_directly(node: Node) -> bool:
    """Whether a node reads images on the grid of its output, not phases."""
    return isinstance(node, nodes.Convolution) and layout.keeps_size(
        node.geometry
    )


def fill_of(node: Node) -> float:
    """What a window reads beyond the image."""
    is_max = isinstance(node, nodes.Pool) and node.is_max
    return -np.inf if is_max else 0.0


def _integers(*numbers: int) -> np.ndarray:
    return np.array(numbers, "int64")


@functools.singledispatch
def add_step(node: Node, plan: typing.Any) -> None:
    """Adds what computes a node to the program that is planned."""
    raise NotImplementedError(type(node))  # abstract: each kind has its own


@add_step.register
def _(node: nodes.Input, plan: typing.Any) -> None:
    grid = plan.grid(node)
    plan.step(
        image_kernels.pack_image,
        plan.input,
        node.factor.astype("float32"),
        node.offset.astype("float32"),
        *node.shape[:2],
        *(grid.lead, grid.columns, grid.plane),
        plan.make(node),
    )


@add_step.register
def _(node: Split, plan: typing.Any) -> None:
    grid, phases = plan.grid(node.source), node.phases
    geometry = phases.geometry
    plan.step(
        image_kernels.split,
        plan.flat(node.source),
        _integers(
            *(geometry.channels, geometry.height, geometry.width),
            *(grid.lead, grid.columns, grid.plane),
        ),
        _integers(*geometry.strides, geometry.top, geometry.left),
        _integers(
            *(*phases.count, phases.rows, phases.width),
            *(phases.grid.columns, phases.plane),
        ),
        np.float32(node.fill),
        plan.make(node),
    )


@add_step.register
def _(node: nodes.Convolution, plan: typing.Any) -> None:
    grid, scaled = plan.grid(node), plan.scaled(node)
    structure, source = node.structure, plan.sources(node)[0]
    if isinstance(source, Split):
        begins = source.phases.offsets(node.geometry.kernel)
    else:
        begins = layout.direct_offsets(node.geometry, grid)
    units = np.stack([node.bias, np.ones_like(node.bias), 0 * node.bias])
    if scaled is not None:
        units[1:] = scaled.factor, scaled.offset
    strips, count = grid.strips
    adds, keeps = node.residual is not None, plan.is_read(node)
    flags = [adds, node.relu, keeps, scaled is not None]
    flags.append(scaled is not None and scaled.relu)
    plan.step(
        image_kernels.convolution(count),
        node.values.astype("float32"),
        begins[structure.column_indices].astype("int32"),
        structure.positions.row_pointers,
        units.astype("float32"),
        _integers(grid.lead, grid.plane, strips),
        np.array(flags),
        grid.pixels(),
        plan.flat(source),
        plan.flat(plan.sources(node)[1]) if adds else _NOTHING,
        plan.make(node) if keeps else _NOTHING,
        _NOTHING if scaled is None else plan.make(scaled),
    )


@add_step.register
def _(node: nodes.Product, plan: typing.Any) -> None:
    structure = node.structure
    plan.step(
        compiled.predict_one,
        node.values.astype("float32"),
        *structure.positions[:2],
        node.bias.astype("float32"),
        plan.flat(plan.sources(node)[0]),
        plan.make(node),
        *(node.relu, 0, structure.num_outputs),
    )


@add_step.register
def _(node: nodes.Pool, plan: typing.Any) -> None:
    grid, (source,) = plan.grid(node), plan.sources(node)
    strips, count = grid.strips
    begins = source.phases.offsets(node.geometry.kernel)
    plan.step(
        image_kernels.pooling(count, node.is_max),
        begins[:: node.geometry.channels].astype("int64"),
        _integers(
            *(node.shape[-1], grid.lead, grid.plane, strips),
            source.phases.plane,
        ),
        _shares(node.geometry, grid),
        grid.pixels(),
        plan.flat(source),
        plan.make(node),
    )


def _shares(geometry, grid):
    """One divided by the pixels of each window that are in the image."""

    def count(made, stride, before, kernel, size):
        first = np.arange(made) * stride - before
        return np.minimum(first + kernel, size) - np.maximum(first, 0)

    counts = np.outer(
        *map(
            count,
            (geometry.out_height, geometry.out_width),
            geometry.strides,
            (geometry.top, geometry.left),
            geometry.kernel,
            (geometry.height, geometry.width),
        )
    )
    shares = np.ones(grid.covered, "float32")
    shares[grid.pixels() != 0] = 1 / counts.reshape(-1)
    return shares


@add_step.register
def _(node: nodes.GlobalPool, plan: typing.Any) -> None:
    (source,) = plan.sources(node)
    grid, y = plan.grid(source), plan.make(node)
    if node.is_max:
        plan.step(_greatest, plan.view(source), y)
        return
    plan.step(
        image_kernels.average_planes,
        plan.flat(source),
        *(grid.lead, grid.plane, grid.covered, grid.height * grid.width),
        y,
    )


def _greatest(x, y):
    x.max(axis=(1, 2), out=y)


@add_step.register
def _(node: nodes.Flatten, plan: typing.Any) -> None:
    (source,) = plan.sources(node)
    plan.step(_flatten, plan.view(source), plan.make(node))


def _flatten(x, y):
    channels, height, width = x.shape
    y.reshape(height, width, channels)[:] = x.transpose(1, 2, 0)


def _elementwise(function, node, plan, *arguments):
    sources = [plan.view(one) for one in plan.sources(node)]
    plan.make(node)
    plan.step(function, *sources, plan.view(node), *arguments)


@add_step.register
def _(node: nodes.Relu, plan: typing.Any) -> None:
    _elementwise(_rectify, node, plan)


def _rectify(x, y):
    np.maximum(x, 0, out=y)


@add_step.register
def _(node: nodes.Sum, plan: typing.Any) -> None:
    _elementwise(_sum, node, plan, node.relu)


def _sum(x, other, y, relu):
    np.add(x, other, out=y)
    if relu:
        np.maximum(y, 0, out=y)


@add_step.register
def _(node: nodes.Affine, plan: typing.Any) -> None:
    shape = (-1, *[1] * (len(node.shape) - 1))
    factor = node.factor.astype("float32").reshape(shape)
    offset = node.offset.astype("float32").reshape(shape)
    _elementwise(_scale, node, plan, factor, offset, node.relu)


def _scale(x, y, factor, offset, relu):
    np.multiply(x, factor, out=y)
    y += offset
    if relu:
        np.maximum(y, 0, out=y)


@add_step.register
def _(node: nodes.Activation, plan: typing.Any) -> None:
    _elementwise(_activate, node, plan, node.function)


def _activate(x, y, function):
    y[:] = x
    function(y, 0)
