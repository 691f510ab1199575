"""Prediction by convolutional networks of active weights, image by image."""

import contextlib
import typing
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np

from keras_freetickets.kernels import operations
from keras_freetickets.kernels import threads
from keras_freetickets.kernels.image_fusion import fused
from keras_freetickets.kernels.image_nodes import Convolution
from keras_freetickets.kernels.image_nodes import Node
from keras_freetickets.kernels.image_nodes import Product
from keras_freetickets.kernels.image_nodes import in_order
from keras_freetickets.types import Array


class ImageNetwork:
    """Predicts with several convolutional networks that get the same image.

    Images stay in planes from layer to layer (`image_layout`), in memory that
    is taken once for all calls, or for each of those that run at the same
    time. Members are computed one after the other for an image, which is
    packed once for all. It may be called from several threads.

    Args:
        members: Sequence of `Node`, the output of each member, a vector.

    Attributes:
        num_inputs: Integer, the numbers of an image.
        num_outputs: Integer.
        active: Integer, the weights of all members.

    Raises:
        ImportError: If numba is not installed.

    Example:

    ```python
    image = Input(size=(8, 8, 3), factor=np.ones(3), offset=np.zeros(3))
    network = ImageNetwork([GlobalPool(source=image, is_max=False)])
    network.predict_members(x)  # (1, batch, 3)
    ```
    """

    def __init__(self, members: Sequence[Node]) -> None:
        from keras_freetickets.kernels import strips
        from keras_freetickets.kernels.image_program import Program

        members = [fused(member) for member in members]
        order = in_order(members)
        weights = [node for node in order if isinstance(node, Product)]
        self.num_inputs = int(np.prod(order[0].shape))
        self.num_outputs = members[0].shape[0]
        self.active = sum(len(node.values) for node in weights)
        self._work = sum(map(_work, weights))  # of one image
        self._program = Program.of(members, strips.longest())
        self._idle: list[_Call] = []

    def predict_members(self, x: Array) -> np.ndarray:
        """Outputs of all members.

        Args:
            x: float32 array of shape `(batch, inputs)`, images flattened with
                the channels innermost.

        Returns:
            float32 array of shape `(members, batch, outputs)`.

        Raises:
            ValueError: If the shape or dtype of `x` is wrong.
        """
        x = operations.checked_batch("x", x, self.num_inputs)
        members = len(self._program.outputs)
        found = operations.empty(members, len(x), self.num_outputs)

        def run(begin: int, end: int) -> None:
            with self._lent() as call:
                for i in range(begin, end):
                    call.predict(x[i], found[:, i])

        if len(x):
            threads.run_parts(run, len(x), self._work * len(x))
        return found

    @contextlib.contextmanager
    def _lent(self) -> Iterator["_Call"]:
        """Memory for the time of a call, which later calls take again."""
        try:
            call = self._idle.pop()
        except IndexError:
            call = _Call(self._program)
        try:
            yield call
        finally:
            self._idle.append(call)


def _work(node: Product) -> int:
    """Products of weights and pixels."""
    if not isinstance(node, Convolution):
        return len(node.values)
    return len(node.values) * node.geometry.out_height * node.geometry.out_width


class _Call:
    """The steps of a program with memory of their own."""

    def __init__(self, program: typing.Any) -> None:
        memory, self._steps = program.bound()
        self._image = program.input.of(memory)
        self._outputs = [one.of(memory) for one in program.outputs]

    def predict(self, image: np.ndarray, found: np.ndarray) -> None:
        """Writes `(members, outputs)` of a flat image."""
        self._image[:] = image
        for function, arguments in self._steps:
            function(*arguments)
        for y, units in zip(found, self._outputs, strict=True):
            y[:] = units
