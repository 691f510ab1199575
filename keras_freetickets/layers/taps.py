"""What compressed layers note in a step that may grow by the gradient.

The gradient of an absent weight is needed once in an update interval, and of
one kernel at a time. So a step notes the input and the gradient of each
product, which are small, and an update multiplies them.
"""

import contextlib
import contextvars
import functools
import typing
from collections.abc import Iterator

from keras import ops

from keras_freetickets.types import Tensor

_current: contextvars.ContextVar[typing.Any] = contextvars.ContextVar(
    "taps", default=None
)


class Taps:
    """The products of compressed kernels in one step.

    Args:
        sinks: Dict from the id of `values` to a list of pairs of arrays, one
            for each product, whose gradients are what is noted: for JAX,
            where nothing may leave a function but what it returns. `None` if
            products note it themselves.
    """

    def __init__(self, sinks: dict | None = None) -> None:
        self.noted: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self.shapes: dict[int, list[tuple[tuple, tuple]]] = {}
        self._sinks = sinks

    def of(self, values: typing.Any) -> "_Tap":
        """The tap of the kernel whose variable is `values`."""
        return _Tap(self, id(values), self._sinks)

    def empty_sinks(self) -> dict[int, list[tuple[Tensor, Tensor]]]:
        """Sinks for the products whose shapes were asked for."""
        return {
            key: [(ops.zeros(x), ops.zeros(dy)) for x, dy in shapes]
            for key, shapes in self.shapes.items()
        }


def dense_gradient(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The dense gradient of a kernel, from what its products noted.

    Args:
        pairs: List of pairs of tensors, one for each product: the input
            `(batch, inputs)` and the gradient `(batch, outputs)`.

    Returns:
        Tensor of shape `(inputs, outputs)`.
    """
    parts = [ops.matmul(ops.transpose(x), dy) for x, dy in pairs]
    return functools.reduce(ops.add, parts)


class _Tap:
    """What one product is given; see `Taps`."""

    def __init__(self, taps: Taps, key: int, sinks: dict | None) -> None:
        self._taps = taps
        self._key = key
        self._given = sinks

    def note(self, x: Tensor, dy: Tensor) -> None:
        self._taps.noted.setdefault(self._key, []).append((x, dy))

    def sinks(self, x: Tensor, shape: tuple) -> tuple[Tensor, Tensor]:
        """Arrays whose gradients are `x` and the product's, of a shape."""
        shapes = self._taps.shapes.setdefault(self._key, [])
        shapes.append((tuple(x.shape), shape))
        if self._given is None:  # only the shapes are asked for
            first, second = shapes[-1]
            return ops.zeros(first), ops.zeros(second)
        return self._given[self._key][len(shapes) - 1]


@contextlib.contextmanager
def collecting(taps: Taps | None) -> Iterator[Taps | None]:
    """Context in which products note to `taps`; `None` for nothing."""
    token = _current.set(taps)
    try:
        yield taps
    finally:
        _current.reset(token)


def current() -> Taps | None:
    """The `Taps` of the step that runs in this thread."""
    return _current.get()
