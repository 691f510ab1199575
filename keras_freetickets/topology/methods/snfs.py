"""SNFS, sparse momentum: growth and redistribution by a dense momentum."""

import typing

from keras import ops

from keras_freetickets.arguments import check_number
from keras_freetickets.topology.kernel_view import PARTS
from keras_freetickets.topology.kernel_view import KernelView
from keras_freetickets.topology.kernel_view import fraction_of
from keras_freetickets.topology.methods.method import Method
from keras_freetickets.topology.methods.registry import register
from keras_freetickets.types import Config
from keras_freetickets.types import Tensor

# Layers less sparse than this do not use their full drop fraction. At first a
# layer is filled to this percentage of its room (both: sparse_learning).
_NEARLY_DENSE = 0.2
_FILL = 99


@register("snfs", package="keras_freetickets")
class SNFS(Method):
    """Sparse momentum: growth by a dense momentum, across layers.

    The connections that all layers drop are redistributed in proportion to the
    mean momentum of the layers' active weights. Within a layer the absent
    connections with the largest momentum grow. The total does not change.

    Args:
        momentum: Float in [0, 1), the decay of the average of the dense
            gradients. Defaults to 0.9 (that of the optimizer in SNFS's code;
            here the method keeps its own average, because the optimizer's is
            sparse).
        redistribution: Whether layers exchange connections. Defaults to
            `True`; `False` is RigL's variant of momentum growth.
        update_interval: Defaults to 1000, as in `Method`. SNFS's code updates
            once per epoch.
        drop_fraction: Defaults to 0.5 (SNFS's code, with a cosine over the
            training: `schedules.Cosine(0.5, total_steps)`).
        **kwargs: As in `Method`. The method keeps a float for each maskable
            weight.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    schedule = schedules.Cosine(0.5, decay_steps=88_000)
    model.attach(SNFS(update_interval=352, drop_fraction=schedule))
    ```

    Reference:
        Dettmers & Zettlemoyer, 2019, arXiv:1907.04840;
        TimDettmers/sparse_learning.
    """

    settings_from_views = True
    connection_state = {"momentum": "float32"}
    kernelwise = True  # unless layers exchange connections

    def __init__(
        self,
        momentum: float = 0.9,
        redistribution: bool = True,
        update_interval: int = 1000,
        drop_fraction: typing.Any = 0.5,
        **kwargs: typing.Any,
    ) -> None:
        check_number("momentum", momentum, "[0, 1)")
        super().__init__(update_interval, drop_fraction, **kwargs)
        self.momentum = float(momentum)
        self.redistribution = bool(redistribution)
        self.kernelwise = not self.redistribution

    def observe(self, views: list[KernelView]) -> list[dict[str, Tensor]]:
        decay = self.momentum
        return [
            {
                "momentum": decay * view.state["momentum"]
                + (1 - decay) * view.gradient
            }
            for view in views
        ]

    def grow_score(self, view: KernelView) -> Tensor:
        return ops.abs(view.state["momentum"])

    def budget(
        self, views: list[KernelView], fraction: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        if not self.redistribution:
            return super().budget(views, fraction)
        active = ops.stack([view.count() for view in views])
        size = ops.stack(
            [ops.cast(ops.size(view.mask), "int32") for view in views]
        )
        shares = self._shares(views, active)
        sparsity = 1.0 - ops.cast(active, "float32") / ops.cast(size, "float32")
        gains = shares * len(views) > 1.0
        slow = ops.logical_and(gains, sparsity < _NEARLY_DENSE)
        fraction = ops.where(slow, ops.minimum(sparsity, fraction), fraction)
        dropped = fraction_of(active, fraction, self.rounding)
        # At least one connection is left.
        dropped = ops.minimum(dropped, active - 1)
        grown = allocate(ops.sum(dropped), shares, size - active + dropped)
        return ops.unstack(dropped), ops.unstack(grown)

    def _shares(self, views: list[KernelView], active: typing.Any) -> Tensor:
        """Each layer's share of the mean momenta of active weights."""
        sums = [
            ops.sum(ops.where(view.mask, self.grow_score(view), 0.0))
            for view in views
        ]
        means = ops.stack(sums) / ops.cast(active, "float32")
        total = ops.sum(means)
        even = ops.ones_like(means) / len(views)
        return ops.where(total > 0, means / ops.maximum(total, 1e-38), even)

    def get_config(self) -> Config:
        return {
            "momentum": self.momentum,
            "redistribution": self.redistribution,
            **super().get_config(),
        }


def allocate(total: Tensor, shares: Tensor, room: Tensor) -> Tensor:
    """Splits an integer in proportion to shares, with a limit for each part.

    Parts are limited to 99 % of their room. The rest is given evenly to the
    other parts, and to the last percent only if these are full. The sum is
    exact.

    Args:
        total: `int32` scalar, at most the sum of `room`.
        shares: Float tensor of shape `(n,)`, non-negative, with sum 1.
        room: `int32` tensor of shape `(n,)`.

    Returns:
        `int32` tensor of shape `(n,)`.
    """
    parts = ops.cast(ops.floor(shares * PARTS), "int32")
    wanted = (total // PARTS) * parts + (total % PARTS) * parts // PARTS
    almost = room // 100 * _FILL + room % 100 * _FILL // 100
    given = ops.minimum(wanted, almost)
    for limit in (almost, room):
        given = _spread(total, given, limit)
    return given


def _spread(total: Tensor, given: Tensor, limit: Tensor) -> Tensor:
    """Gives the rest evenly to parts below their limit."""

    def is_open(given: Tensor) -> Tensor:
        return ops.logical_and(total > ops.sum(given), ops.any(given < limit))

    def give(given: Tensor) -> Tensor:
        left = total - ops.sum(given)
        below = given < limit
        each = left // ops.sum(ops.cast(below, "int32"))
        # The first parts receive the last few.
        rank = ops.cumsum(ops.cast(below, "int32"))
        one = ops.cast(ops.logical_and(below, rank <= left), "int32")
        more = ops.where(each > 0, ops.cast(below, "int32") * each, one)
        return ops.minimum(given + more, limit)

    return ops.while_loop(is_open, give, given)
