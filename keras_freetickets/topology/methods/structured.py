"""Methods that keep a structure: N:M sparsity, and constant fan-in."""

import typing

import numpy as np
from keras import ops

from keras_freetickets.arguments import check_number
from keras_freetickets.topology.kernel_view import KernelView
from keras_freetickets.topology.kernel_view import best
from keras_freetickets.topology.kernel_view import tie_bits
from keras_freetickets.topology.mask_initializers import check_divisible
from keras_freetickets.topology.mask_initializers import check_pattern
from keras_freetickets.topology.methods.method import DROP
from keras_freetickets.topology.methods.method import GROW
from keras_freetickets.topology.methods.method import PRUNE
from keras_freetickets.topology.methods.method import REGROW
from keras_freetickets.topology.methods.method import Method
from keras_freetickets.topology.methods.method import as_counts
from keras_freetickets.topology.methods.registry import register
from keras_freetickets.topology.methods.rigl import RigL
from keras_freetickets.topology.selection import rank_in_groups
from keras_freetickets.topology.selection import select_rows
from keras_freetickets.topology.selection import sort_keys
from keras_freetickets.types import Config
from keras_freetickets.types import Tensor
from keras_freetickets.types import Tensors


def to_groups(array: Tensor, m: int, axis: int) -> Tensor:
    """Reshapes a kernel to rows of `m` consecutive entries along an axis."""
    moved = ops.moveaxis(array, axis, -1)
    return ops.reshape(moved, (-1, m))


def from_groups(groups: Tensor, shape: tuple[int, ...], axis: int) -> Tensor:
    """Undoes `to_groups`."""
    moved = list(shape)
    moved.append(moved.pop(axis))
    return ops.moveaxis(ops.reshape(groups, moved), -1, axis)


@register("n_m", package="keras_freetickets")
class NM(Method):
    """Drop-and-grow that keeps `n` of every `m` consecutive weights.

    The smallest weights of a layer are dropped, whatever their group. Each
    group then grows as many as it lost.

    Args:
        n: Positive integer, how many weights of a group are active.
        m: Integer greater than `n`, the size of a group.
        axis: Integer, the kernel's axis along which groups lie. Defaults to
            -2, the inputs.
        **kwargs: As in `Method`.

    Raises:
        ValueError: If the size of a kernel's axis is not a multiple of `m`, or
            its mask does not keep `n` of every `m` (see `NMMask`).

    Example:

    ```python
    model.attach(NM(2, 4, update_interval=100))
    ```
    """

    kernelwise = True
    counts_never_rise = True
    reads_criteria_alone = True

    def __init__(
        self, n: int, m: int, axis: int = -2, **kwargs: typing.Any
    ) -> None:
        check_pattern(n, m)
        super().__init__(**kwargs)
        self.n, self.m, self.axis = n, m, axis

    def begin(self, masked_kernels: list[typing.Any]) -> None:
        for masked in masked_kernels:
            if masked.active == masked.size:
                continue
            check_divisible(masked.name, masked.shape, self.m, self.axis)
            mask = masked.mask_array()
            rows = ops.convert_to_numpy(to_groups(mask, self.m, self.axis))
            if not np.all(rows.sum(axis=1) == self.n):
                raise ValueError(
                    f"The mask of kernel '{masked.name}' does not keep "
                    f"{self.n} of every {self.m} weights along axis "
                    f"{self.axis}. Pass mask_initializer=NMMask({self.n}, "
                    f"{self.m}, axis={self.axis}) to `sparsify`."
                )

    def grow(
        self, views: list[KernelView], kept: Tensors, grow_counts: Tensors
    ) -> Tensors:
        return [
            self._grow(view, mask)
            for view, mask in zip(views, kept, strict=True)
        ]

    def _grow(self, view: KernelView, kept: Tensor) -> Tensor:
        shape = tuple(view.kernel.shape)
        (ties,) = tie_bits([view], GROW)
        keys = sort_keys(self.grow_score(view), ops.logical_not(kept))
        rows = [to_groups(a, self.m, self.axis) for a in (keys, ties, kept)]
        lost = self.n - ops.sum(ops.cast(rows[2], "int32"), axis=1)
        grown = rank_in_groups(*rows[:2]) < lost[:, None]
        return from_groups(grown, shape, self.axis)

    def get_config(self) -> Config:
        return {
            "n": self.n,
            "m": self.m,
            "axis": self.axis,
            **super().get_config(),
        }


@register("srigl", package="keras_freetickets")
class SRigL(RigL):
    """RigL with the same number of inputs for every output unit.

    Within a layer the smallest weights are dropped. Each unit then grows the
    connections that it lacks.

    Units can be removed and return. A connection is *salient* if the layer
    keeps it, or if its gradient is among the largest of all positions (as many
    as the layer drops). A unit with fewer than `max(1, int(ablation *
    fan_in))` salient connections is removed, where `fan_in` is that of the
    layer before any removal. The remaining units share its connections: each
    gets the layer's initial number of connections, divided by the number of
    remaining units and rounded down (a remainder is not used), and at most all
    inputs. Enough units remain to hold these connections. A removed unit
    returns when enough of its connections are salient again. Weights of
    exactly zero are dropped first, however many there are.

    This follows SRigL's code, with two differences. If the code's choice
    depends on the order of its sort (among equal weights, and in a unit that
    would keep more than its fan-in), the largest are kept here. If more
    connections should be kept than the remaining units have, the code adds any
    positions of weight 0; here growth adds connections.

    Args:
        ablation: Float in [0, 1), the share of a layer's initial fan-in that
            must be salient for a unit to remain; 0 for no removal. Defaults
            to 0.3 (SRigL's code). Units of the model's last masked kernel are
            never removed.
        update_interval: Defaults to 100 (SRigL, CIFAR).
        drop_fraction: Defaults to 0.3 (SRigL, along `schedules.Cosine`).
        **kwargs: As in `RigL`, except for the default `apply_on_update=True`
            (SRigL's code).

    Raises:
        ValueError: If a mask has units of different fan-in (see
            `ConstantFanInMask`).

    Example:

    ```python
    model.attach(SRigL(ablation=0.3, stop_step=75_000))
    ```

    Reference:
        Lasby et al., 2024, arXiv:2305.02299; calgaryml/condensed-sparsity
        3052bb8.
    """

    counts_never_rise = True
    defaults = {"apply_on_update": True}

    def __init__(
        self,
        ablation: float = 0.3,
        update_interval: int = 100,
        drop_fraction: typing.Any = 0.3,
        **kwargs: typing.Any,
    ) -> None:
        check_number("ablation", ablation, "[0, 1)")
        super().__init__(update_interval, drop_fraction, **kwargs)
        self.ablation = float(ablation)
        self._last: int | None = None
        self._budgets: list[int] = []

    def begin(self, masked_kernels: list[typing.Any]) -> None:
        self._last = len(masked_kernels) - 1
        self._budgets = []
        for masked in masked_kernels:
            mask = masked.mask_array()
            inputs = mask.reshape(-1, mask.shape[-1]).sum(axis=0)
            fan_ins = set(inputs[inputs > 0].tolist())
            if len(fan_ins) > 1:
                raise ValueError(
                    f"The units of kernel '{masked.name}' have between "
                    f"{inputs.min()} and {inputs.max()} inputs. Pass "
                    "mask_initializer=ConstantFanInMask() to `sparsify`."
                )
            # Other masks, such as those of `prune`, define their own budget.
            left = max(np.count_nonzero(inputs), 1)
            grown = min(masked.initial // left, mask.size // mask.shape[-1])
            known = fan_ins == {grown}
            budget = masked.initial if known else inputs.sum()
            self._budgets.append(int(budget))

    def counts(
        self, views: list[KernelView], fraction: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The budget; at least all weights of exactly zero are dropped."""
        dropped, _ = super().counts(views, fraction)
        zeros = [_zeros(view) for view in views]
        if self.scope == "global":
            zeros = as_counts(sum(zeros), len(zeros))
        dropped = [
            ops.maximum(*both) for both in zip(dropped, zeros, strict=True)
        ]
        return dropped, dropped

    def update(
        self, views: list[KernelView], fraction: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        drop_counts, grow_counts = self.counts(views, fraction)
        units = self._units(views, drop_counts, grow_counts)
        return self._with_constant_fan_in(views, units, drop_counts)

    def _units(
        self,
        views: list[KernelView],
        drop_counts: list[Tensor],
        grow_counts: list[Tensor],
    ) -> list[Tensor]:
        """Boolean tensors: the units that remain in each layer."""
        alive = [_count(_by_unit(view.mask)) > 0 for view in views]
        if not self.ablation:
            return alive
        kept = self.keep(views, drop_counts)
        everywhere = [ops.ones_like(view.mask) for view in views]
        scores = [self.grow_score(view) for view in views]
        steep = best(views, scores, everywhere, grow_counts, GROW, self.scope)
        salient = [
            _count(_by_unit(ops.logical_or(*both)))
            for both in zip(kept, steep, strict=True)
        ]
        return [
            before
            if view.kernel_index == self._last
            else self._stay(view, counts)
            for view, counts, before in zip(views, salient, alive, strict=True)
        ]

    def _stay(self, view: KernelView, salient: Tensor) -> Tensor:
        """Which units of a layer have enough salient connections."""
        budget = self._budgets[view.kernel_index]
        units, inputs = _by_unit(view.mask).shape
        least = max(1, int(self.ablation * (budget // units)))
        # This many units, plus one, can hold the layer's connections.
        descending = ops.flip(ops.sort(salient))
        least = ops.minimum(least, descending[budget // inputs])
        return salient >= least

    def _with_constant_fan_in(
        self,
        views: list[KernelView],
        units: typing.Any,
        drop_counts: list[Tensor],
    ) -> list[tuple[Tensor, Tensor]]:
        of_units = [
            ops.logical_and(view.mask, u)
            for view, u in zip(views, units, strict=True)
        ]
        kept = self._kept_of(views, of_units, drop_counts)
        kept = [_by_unit(k) for k in kept]
        fan_ins = [
            self._fan_in(view, u) for view, u in zip(views, units, strict=True)
        ]
        kept_counts = [
            ops.minimum(_count(k), f)
            for k, f in zip(kept, fan_ins, strict=True)
        ]
        scores = [self.drop_score(view) for view in views]
        kept = self._select(views, scores, kept, kept_counts, PRUNE)
        absent = [ops.logical_not(k) for k in kept]
        grow_counts = [
            ops.where(u, f - n, 0)
            for u, f, n in zip(units, fan_ins, kept_counts, strict=True)
        ]
        scores = [self.grow_score(view) for view in views]
        grown = self._select(views, scores, absent, grow_counts, REGROW)
        shapes = [tuple(view.kernel.shape) for view in views]
        return [
            (_by_position(k, shape), _by_position(g, shape))
            for k, g, shape in zip(kept, grown, shapes, strict=True)
        ]

    def _kept_of(
        self,
        views: list[KernelView],
        of_units: list[Tensor],
        drop_counts: list[Tensor],
    ) -> list[Tensor]:
        """The connections of remaining units to keep.

        As many are kept as if all units remained, so that the connections of
        removed units are dropped first.
        """
        counts = [
            view.count() - d for view, d in zip(views, drop_counts, strict=True)
        ]
        sizes = [_sum(mask) for mask in of_units]
        if self.scope == "global":
            counts, sizes = [as_counts(sum(n), len(n)) for n in (counts, sizes)]
        counts = [
            ops.minimum(*both) for both in zip(counts, sizes, strict=True)
        ]
        scores = [self.drop_score(view) for view in views]
        return self.strongest(views, scores, of_units, counts, DROP)

    def _fan_in(self, view: KernelView, units: Tensor) -> Tensor:
        """The fan-in of each unit: its share of the layer's budget."""
        left = ops.sum(ops.cast(units, "int32"))
        inputs = _by_unit(view.mask).shape[1]
        budget = self._budgets[view.kernel_index]
        return ops.minimum(budget // ops.maximum(left, 1), inputs)

    def _select(
        self,
        views: list[KernelView],
        scores: list[Tensor],
        eligible: list[Tensor],
        counts: list[Tensor],
        stage: int,
    ) -> list[Tensor]:
        keys = [
            sort_keys(_by_unit(score), e)
            for score, e in zip(scores, eligible, strict=True)
        ]
        ties = [_by_unit(tie) for tie in tie_bits(views, stage)]
        return select_rows(keys, counts, ties)

    def get_config(self) -> Config:
        return {"ablation": self.ablation, **super().get_config()}


def _sum(mask: Tensor) -> Tensor:
    return ops.cast(ops.sum(ops.cast(mask, "int32")), "int32")


def _zeros(view: KernelView) -> Tensor:
    """The number of active connections with a weight of exactly zero."""
    return _sum(ops.logical_and(view.mask, ops.equal(view.kernel, 0.0)))


def _count(rows: typing.Any) -> Tensor:
    return ops.sum(ops.cast(rows, "int32"), axis=1)


def _by_unit(array: Tensor) -> Tensor:
    """A kernel as rows, one for each output unit."""
    units = array.shape[-1]
    return ops.transpose(ops.reshape(array, (-1, units)))


def _by_position(rows: typing.Any, shape: tuple[int, ...]) -> Tensor:
    return ops.reshape(ops.transpose(rows), shape)
