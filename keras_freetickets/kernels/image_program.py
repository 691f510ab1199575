"""The steps that compute a convolutional network, and the memory they use."""

import dataclasses
import typing
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from keras_freetickets.kernels import image_layout as layout
from keras_freetickets.kernels import image_nodes as nodes
from keras_freetickets.kernels import operations
from keras_freetickets.kernels.image_layout import Grid
from keras_freetickets.kernels.image_layout import Phases
from keras_freetickets.kernels.image_nodes import Node
from keras_freetickets.kernels.image_steps import Split
from keras_freetickets.kernels.image_steps import add_step
from keras_freetickets.kernels.image_steps import fill_of
from keras_freetickets.kernels.image_steps import reads_directly

Size = tuple[int, int]
_WINDOWS = (nodes.Convolution, nodes.Pool)
# A function and its arguments, of which some are memory.
Step = tuple[Callable[..., None], tuple[typing.Any, ...]]


class Floats(typing.NamedTuple):
    """An argument of a step: an array of the program's memory.

    Attributes:
        number: Integer, which one.
        grid: `Grid` to see its pixels `(channels, height, width)`; `None` for
            the flat array.
        channels: Integer, of these pixels.
    """

    number: int
    grid: Grid | None = None
    channels: int = 0

    def of(self, memory: Sequence[np.ndarray]) -> np.ndarray:
        """The array, or a view of it."""
        if self.grid is None:
            return memory[self.number]
        return self.grid.view(memory[self.number], self.channels)


class _Storage:
    """Numbers of arrays; one that is given back is taken again.

    Only for the same purpose: zeros between rows stay where they are.
    """

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self._free: dict[typing.Hashable, list[int]] = {}

    def take(self, purpose: typing.Hashable, size: int) -> int:
        free = self._free.setdefault((purpose, size), [])
        if free:
            return free.pop()
        self.sizes.append(size)
        return len(self.sizes) - 1

    def give(self, purpose: typing.Hashable, number: int) -> None:
        self._free[purpose, self.sizes[number]].append(number)


class Program(typing.NamedTuple):
    """The steps that compute several networks for an image.

    Attributes:
        sizes: List of integers, the floats of each array of its memory.
        steps: List of functions and their arguments.
        input: `Floats`, a flat array of the image.
        outputs: List of `Floats`, a vector for each network.
    """

    sizes: list[int]
    steps: list[Step]
    input: Floats
    outputs: list[Floats]

    @classmethod
    def of(cls, members: Sequence[Node], longest: int) -> "Program":
        """The program of networks, one after the other.

        Args:
            members: Sequence of nodes, the vectors to compute.
            longest: Integer, vectors of a strip at most.
        """
        return _Planner(members, longest).program

    def bound(self) -> tuple[list[np.ndarray], list[Step]]:
        """New memory, and the steps that work in it."""
        memory = [operations.empty(size) for size in self.sizes]
        for array in memory:
            array[:] = 0.0
        steps = [
            (
                function,
                tuple(
                    one.of(memory) if isinstance(one, Floats) else one
                    for one in arguments
                ),
            )
            for function, arguments in self.steps
        ]
        return memory, steps


class _Planner:
    """Makes a `Program`, node by node."""

    def __init__(self, members: Sequence[Node], longest: int) -> None:
        self._longest = longest
        self._storage = _Storage()
        self._steps: list[Step] = []
        self._places: dict[Node, int] = {}
        order = nodes.in_order(members)
        self._inputs = _equal_inputs(order)
        self._grids = self._grids_of(order)
        self._splits = self._splits_of(order)
        order = nodes.in_order(members, self.sources)
        self._uses = dict.fromkeys(order, 0)
        for node in [*members, *(s for n in order for s in self.sources(n))]:
            self._uses[node] += 1
        self._scaled = _scaled_outputs(order)
        (size,) = {n.shape for n in order if isinstance(n, nodes.Input)}
        self.input = Floats(self._storage.take("input", int(np.prod(size))))
        for node in order:
            self._add(node)
        outputs = [Floats(self._places[node]) for node in members]
        sizes = self._storage.sizes
        self.program = Program(sizes, self._steps, self.input, outputs)

    def _grids_of(self, order):
        """The grid of each height and width, for all windows on it."""
        needs: dict[Size, list[tuple[int, int, int]]] = {}
        for node in order:
            if len(node.shape) == 3:
                found = needs.setdefault(node.shape[:2], [(0, 0, 0)])
            if isinstance(node, _WINDOWS):
                directly = reads_directly(node)
                found.append(layout.grid_needs(node.geometry, directly))
        grids = {}
        for (height, width), found in needs.items():
            gap = max(gap for gap, _, _ in found)
            reach = max(
                down * (width + gap) + right for _, down, right in found
            )
            grids[height, width] = Grid(
                height, width, gap, reach, self._longest
            )
        return grids

    def _splits_of(self, order):
        """The phases that nodes read; those of one stride are the same."""
        readers = [
            node
            for node in order
            if isinstance(node, _WINDOWS) and not reads_directly(node)
        ]
        largest: dict[typing.Any, Size] = {}
        for node in readers:
            key, kernel = self._phases_key(node), node.geometry.kernel
            before = largest.get(key, kernel)
            largest[key] = max(before[0], kernel[0]), max(before[1], kernel[1])
        made = {}
        for key, kernel in largest.items():
            source, placed, fill = key
            geometry = dataclasses.replace(placed, kernel=kernel)
            grid = self._grids[geometry.out_height, geometry.out_width]
            phases = Phases(geometry, grid)
            made[key] = Split(source=source, phases=phases, fill=fill)
        return {node: made[self._phases_key(node)] for node in readers}

    def _phases_key(self, node):
        """What nodes have in common that read the same phases."""
        placed = dataclasses.replace(
            node.geometry, kernel=(1, 1), rows=0, columns=0
        )
        return self._same(node.source), placed, fill_of(node)

    def sources(self, node: Node) -> tuple[Node, ...]:
        """What a node reads: phases instead of images, and equal inputs."""
        if not node.sources:
            return ()
        first, *others = (self._same(one) for one in node.sources)
        return (self._splits.get(node, first), *others)

    def _same(self, node):
        return self._inputs.get(node, node)

    def scaled(self, node: Node) -> "nodes.Affine | None":
        """What scales a convolution's output in the same step."""
        return self._scaled.get(node)

    def is_read(self, node: Node) -> bool:
        """Whether more reads a convolution than what scales it."""
        return self._uses[node] > (node in self._scaled)

    def grid(self, node: Node) -> Grid:
        """The grid of an image."""
        return self._grids[node.shape[:2]]

    def _purpose(self, node):
        if len(node.shape) == 3:
            return self.grid(node)
        return node.phases if isinstance(node, Split) else "vector"

    def make(self, node: Node) -> Floats:
        """Memory for a node, flat."""
        size = node.shape[-1]
        if len(node.shape) == 3:
            size = self.grid(node).floats(size)
        self._places[node] = self._storage.take(self._purpose(node), size)
        return self.flat(node)

    def flat(self, node: Node) -> Floats:
        """The memory of a node that was made, flat."""
        return Floats(self._places[node])

    def view(self, node: Node) -> Floats:
        """The same, as NumPy sees it: `(channels, height, width)` or flat."""
        grid = self.grid(node) if len(node.shape) == 3 else None
        return Floats(self._places[node], grid, node.shape[-1])

    def step(self, function: Callable, *arguments: typing.Any) -> None:
        """Adds a step."""
        self._steps.append((function, arguments))

    def _add(self, node):
        if node not in self._places:
            add_step(node, self)
        for source in self.sources(node):
            self._uses[source] -= 1
            if not self._uses[source] and source in self._places:
                purpose = self._purpose(source)
                self._storage.give(purpose, self._places[source])


def _scaled_outputs(order):
    """For convolutions what scales their output, in the same step."""
    found: dict[Node, Node] = {}
    for node in order:
        is_affine = isinstance(node, nodes.Affine)
        if is_affine and isinstance(node.source, nodes.Convolution):
            found.setdefault(node.source, node)
    return found


def _equal_inputs(order):
    """For each input the first that scales its images as it does."""
    first: dict[typing.Hashable, Node] = {}
    found = {}
    for node in order:
        if isinstance(node, nodes.Input):
            key = node.factor.tobytes(), node.offset.tobytes()
            found[node] = first.setdefault(key, node)
    return found
