"""Methods whose networks become sparser while they train."""

import dataclasses
import math
import typing

import numpy as np
from keras import ops

from keras_freetickets.arguments import check_number
from keras_freetickets.arguments import is_integer
from keras_freetickets.arguments import is_real
from keras_freetickets.topology import criteria
from keras_freetickets.topology import distributions
from keras_freetickets.topology.kernel_view import KernelView
from keras_freetickets.topology.kernel_view import best
from keras_freetickets.topology.kernel_view import fraction_of
from keras_freetickets.topology.methods.method import PRUNE
from keras_freetickets.topology.methods.method import Method
from keras_freetickets.topology.methods.method import as_counts
from keras_freetickets.topology.methods.method import first_wins
from keras_freetickets.topology.methods.registry import register
from keras_freetickets.topology.randomness import typed
from keras_freetickets.types import Config
from keras_freetickets.types import Tensor


class Ramp(Method):
    """A number of connections that falls to a final one along a cubic.

    At the q-th of R updates each layer is to have the sparsity
    `final - (final - initial) * (1 - q / R) ** power` of its entries. The
    counts are worked out once, in integers.

    Args:
        final_sparsity: Float in [0, 1), over all maskable weights.
        end_step: Positive integer, the optimizer update with the last step of
            the ramp.
        start_step: Integer, the optimizer update after which the ramp begins.
            Defaults to 0.
        distribution: `"erk"`, `"er"`, `"uniform"` or a callable `(shapes,
            sparsity) -> densities`: how the final sparsity is spread.
        power: Positive float. Defaults to 3 (Zhu & Gupta, arXiv:1710.01878).
        update_interval: Optimizer updates from one step to the next.
        **kwargs: As in `Method`.

    Raises:
        ValueError: If the ramp has no update, or the model is sparser than
            `final_sparsity` when training begins.
    """

    def __init__(
        self,
        final_sparsity: float,
        end_step: int,
        start_step: int = 0,
        distribution: typing.Any = "erk",
        power: float = 3.0,
        update_interval: int = 1000,
        **kwargs: typing.Any,
    ) -> None:
        check_number(
            "final_sparsity",
            final_sparsity,
            "[0, 1)",
            "the fraction of weights to remove",
        )
        if not is_integer(start_step) or start_step < 0:
            raise ValueError(
                "`start_step` must be a number of optimizer updates. "
                f"Received: start_step={start_step}"
            )
        super().__init__(update_interval, start_step=start_step, **kwargs)
        if not is_integer(end_step) or end_step - start_step < update_interval:
            raise ValueError(
                "`end_step` must be an optimizer update at least one "
                f"`update_interval` ({update_interval}) after `start_step` "
                f"({start_step}). Received: end_step={end_step}"
            )
        check_number("power", power, "(0, inf)")
        self.final_sparsity = float(final_sparsity)
        self.end_step = int(end_step)
        self.distribution = distribution
        self.power = float(power)
        self._distribution = distributions.get(distribution)
        self._targets = None

    @property
    def rounds(self) -> int:
        """The number of updates in the ramp."""
        return self.end_step // self.update_interval - self._first

    @property
    def _first(self) -> int:
        return self.start_step // self.update_interval

    def begin(self, masked_kernels: list[typing.Any]) -> None:
        """Works out the counts of every update and layer."""
        sizes = np.array([r.size for r in masked_kernels], np.int64)
        initial = np.array([r.initial for r in masked_kernels]) / sizes
        final = self.final_densities([r.shape for r in masked_kernels])
        self._check(masked_kernels, initial, final)
        densities = [
            self.densities(number, initial, final)
            for number in range(self.rounds + 1)
        ]
        counts = np.clip(np.rint(sizes * np.array(densities)), 1, sizes)
        self._targets = counts.astype("int32")

    def final_densities(self, shapes: list[tuple[int, ...]]) -> np.ndarray:
        """An array, the density of each kernel when the ramp ends."""
        return np.array(self._distribution(shapes, self.final_sparsity))

    def densities(
        self, number: int, initial: np.ndarray, final: np.ndarray
    ) -> np.ndarray:
        """An array, the density of each kernel after `number` updates."""
        left = (1.0 - number / self.rounds) ** self.power
        return final + left * (initial - final)

    def _check(
        self,
        masked_kernels: list[typing.Any],
        initial: np.ndarray,
        final: np.ndarray,
    ) -> None:
        for masked, have, want in zip(
            masked_kernels, initial, final, strict=True
        ):
            if have < want - 0.5 / masked.size:
                raise ValueError(
                    f"Kernel '{masked.name}' has a density of {have:.4g}, "
                    f"less than the {want:.4g} that the ramp ends with: give "
                    "`sparsify` a lower sparsity than `final_sparsity`, or "
                    "the same `distribution`. Received: "
                    f"final_sparsity={self.final_sparsity}"
                )

    def takes_part(self, active: int, size: int) -> bool:
        return True

    def number(self, step: Tensor) -> Tensor:
        """Which update of the ramp a step belongs to, 0 to `rounds`."""
        number = ops.cast(step, "int32") // self.update_interval - self._first
        return ops.clip(number, 0, self.rounds)

    def targets(self, views: list[KernelView]) -> list[Tensor]:
        """`int32` scalars: how many connections each layer is to have."""
        if self._targets is None:
            raise RuntimeError(
                f"{type(self).__name__} must be attached to a model before it "
                "updates one: `model.attach(method)`."
            )
        number = self.number(views[0].step)
        row = ops.take(typed(self._targets), number, axis=0)
        return [
            ops.take(row, ops.cast(view.kernel_index, "int32"))
            for view in views
        ]

    def surplus(self, views: list[KernelView]) -> list[Tensor]:
        """`int32` scalars: how many connections each layer has too many.

        With `scope="global"` only their sum counts: connections move between
        layers, so that one has more than its part of the total, one fewer.
        """
        targets = self.targets(views)
        surplus = [
            view.count() - t for view, t in zip(views, targets, strict=True)
        ]
        if self.scope == "global":
            return as_counts(sum(surplus), len(surplus))
        return surplus

    def get_config(self) -> Config:
        config = super().get_config()
        return {
            "final_sparsity": self.final_sparsity,
            "end_step": self.end_step,
            "start_step": self.start_step,
            "distribution": self.distribution,
            "power": self.power,
            **config,
        }


@register("gmp", package="keras_freetickets")
class GMP(Ramp):
    """Gradual magnitude pruning: a dense network becomes sparse.

    Sparsify the model with a sparsity of 0 first. Weights that are pruned
    never return.

    Args:
        final_sparsity: Float in [0, 1).
        end_step: Positive integer, the optimizer update of the last pruning.
        start_step: Integer, the optimizer update after which pruning begins.
            Defaults to 0.
        distribution: How the final sparsity is spread: `"uniform"` (default,
            as in Zhu & Gupta and tfmot), `"erk"`, `"er"` or a callable.
        update_interval: Defaults to 100 (tfmot's `frequency`).
        sparsities: List of floats, the sparsity of every layer from
            `start_step` on at each multiple of `update_interval`, in place of
            the cubic. They must not fall.
        **kwargs: As in `Method`, and `power`, by default 3 (Zhu & Gupta). With
            `scope="global"` the smallest weights of all layers go.

    Raises:
        ValueError: If an argument is out of range, or the model is sparser
            than `final_sparsity` when training begins.

    Example:

    ```python
    model = keras_freetickets.sparsify(dense_model, sparsity=0.0)
    model.attach(GMP(final_sparsity=0.9, end_step=20_000))
    ```

    Reference:
        Zhu & Gupta, 2017, arXiv:1710.01878.
    """

    kernelwise = True
    counts_never_rise = True
    reads_criteria_alone = True

    def __init__(
        self,
        final_sparsity: float,
        end_step: int,
        start_step: int = 0,
        distribution: typing.Any = "uniform",
        update_interval: int = 100,
        sparsities: list[float] | None = None,
        **kwargs: typing.Any,
    ) -> None:
        kwargs.setdefault("stop_step", end_step)
        super().__init__(
            final_sparsity,
            end_step,
            start_step,
            distribution,
            update_interval=update_interval,
            **kwargs,
        )
        self.sparsities = None if sparsities is None else list(sparsities)
        if sparsities is not None and len(sparsities) != self.rounds + 1:
            raise ValueError(
                f"`sparsities` must have {self.rounds + 1} values, one for "
                "each update from `start_step` to `end_step`. Received: "
                f"{len(sparsities)} values"
            )
        _check_sparsities(self.sparsities or [])

    @classmethod
    def from_schedule(cls, schedule: typing.Any, **kwargs: typing.Any) -> "GMP":
        """Takes over a `PruningSchedule` of tensorflow-model-optimization.

        Args:
            schedule: A schedule with `begin_step`, `end_step` and
                `frequency`; called with a step, it returns whether to prune
                and the sparsity of each layer. Pruning falls on multiples of
                `frequency`; the last one, at `end_step` or the multiple that
                follows, reaches the final sparsity.
            **kwargs: As in `Method`.

        Returns:
            A `Method`.

        Example:

        ```python
        GMP.from_schedule(tfmot.sparsity.keras.PolynomialDecay(
            initial_sparsity=0.0, final_sparsity=0.9,
            begin_step=0, end_step=20_000,
        ))
        ```
        """
        interval = schedule.frequency
        first = -(-schedule.begin_step // interval)
        # A schedule without an end has one value from its first step on.
        has_end = schedule.end_step >= 0
        end = schedule.end_step if has_end else (first + 1) * interval
        last = max(-(-end // interval), first + 1)
        sparsities = [
            float(schedule(np.int64(min(number * interval, end)))[1])
            for number in range(first, last + 1)
        ]
        return cls(
            sparsities[-1],
            end_step=last * interval,
            start_step=first * interval,
            update_interval=interval,
            sparsities=sparsities,
            **kwargs,
        )

    def densities(
        self, number: int, initial: np.ndarray, final: np.ndarray
    ) -> np.ndarray:
        if self.sparsities is None:
            return super().densities(number, initial, final)
        return np.full_like(initial, 1.0 - self.sparsities[number])

    def reads_gradients(self) -> bool:
        # Nothing grows.
        return not {criteria.magnitude, criteria.random} & {self._drop_score}

    def get_config(self) -> Config:
        return {"sparsities": self.sparsities, **super().get_config()}

    def budget(
        self, views: list[KernelView], fraction: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        dropped = [ops.maximum(s, 0) for s in self.surplus(views)]
        return dropped, [ops.zeros_like(count) for count in dropped]


def _check_sparsities(sparsities: list[float]) -> None:
    in_range = all(is_real(s) and 0.0 <= s < 1.0 for s in sparsities)
    if not in_range or sorted(sparsities) != sparsities:
        raise ValueError(
            "`sparsities` must be in [0, 1) and must not fall, as what is "
            f"pruned never returns. Received: sparsities={sparsities}"
        )


@register("granet", package="keras_freetickets")
class GraNet(Ramp):
    """Gradual pruning in which every step also regrows connections.

    Each update prunes the smallest weights of all layers together, down to
    the ramp's total, then drops and regrows a fraction of what is left in each
    layer. Begin sparse (0.5) or dense (0).

    GraNet's code ends its ramp a round early, so that the last pruning is that
    of the round before, and keeps what is larger than the smallest weight that
    may stay, one weight fewer. Here the last round reaches `final_sparsity`
    and all counts are exact.

    Args:
        final_sparsity: Float in [0, 1), over all maskable weights together.
        end_step, start_step: As for `GMP`.
        update_interval: Defaults to 1000 (GraNet's README, CIFAR).
        drop_fraction: Defaults to 0.5; GraNet's code lets it fall along
            `schedules.Cosine(0.5, total_steps, minimum=0.005)`.
        **kwargs: As in `Method`, and `power`, by default 3.

    Raises:
        ValueError: As for `GMP`.

    Example:

    ```python
    model = keras_freetickets.sparsify(dense_model, sparsity=0.5)
    model.attach(GraNet(final_sparsity=0.9, end_step=40_000))
    ```

    Reference:
        Liu et al., 2021, arXiv:2106.10404; VITA-Group/GraNet.
    """

    counts_never_rise = True
    defaults = {"distribution": "uniform"}

    def __init__(
        self,
        final_sparsity: float,
        end_step: int,
        start_step: int = 0,
        update_interval: int = 1000,
        drop_fraction: typing.Any = 0.5,
        **kwargs: typing.Any,
    ) -> None:
        # How the total is spread does not matter.
        kwargs = {**self.defaults, **kwargs}
        super().__init__(
            final_sparsity,
            end_step,
            start_step,
            update_interval=update_interval,
            drop_fraction=drop_fraction,
            **kwargs,
        )

    def final_densities(self, shapes: list[tuple[int, ...]]) -> np.ndarray:
        return np.full(len(shapes), 1.0 - self.final_sparsity)

    def _check(
        self,
        masked_kernels: list[typing.Any],
        initial: np.ndarray,
        final: np.ndarray,
    ) -> None:
        sizes = np.array([masked.size for masked in masked_kernels])
        total = np.sum(initial * sizes) / np.sum(sizes)
        if total < 1.0 - self.final_sparsity:
            raise ValueError(
                "`final_sparsity` must be at least the model's when training "
                f"begins, {1.0 - total:.4g}. Received: "
                f"final_sparsity={self.final_sparsity}"
            )

    def update(
        self, views: list[KernelView], fraction: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        # A layer may hold fewer than its part of the total: the sum counts.
        masks = [view.mask for view in views]
        scores = [
            first_wins(self.drop_score(view), view.mask) for view in views
        ]
        active = sum(view.count() for view in views)
        total = ops.minimum(sum(self.targets(views)), active)
        counts = as_counts(total, len(views))
        kept = best(views, scores, masks, counts, PRUNE, "global")
        pruned = [
            dataclasses.replace(view, mask=mask)
            for view, mask in zip(views, kept, strict=True)
        ]
        return super().update(pruned, fraction)


@register("ndsnn", package="keras_freetickets")
class NDSNN(Ramp):
    """Sparse to sparser: grow fewer connections than are dropped.

    The sparsity rises along a cubic from the model's to a final one while the
    share that is dropped falls along a cosine. Made for spiking networks, but
    it knows nothing of spikes. With the model's own sparsity as the final one
    it is RigL. Layers that are to stay dense rest.

    Args:
        final_sparsity: Float in [0, 1), over all maskable weights.
        end_step: Positive integer, the optimizer update with the last step of
            the ramp (75 % of the training is a fair choice; the paper's could
            not be verified). The masks stay after it.
        start_step: Integer, the optimizer update after which the ramp begins.
            Defaults to 0. The first update comes with the next multiple of
            `update_interval`.
        distribution: How the final sparsity is spread. Defaults to `"erk"`.
        update_interval: Defaults to 1000 (GraNet's README; NDSNN's own could
            not be verified).
        drop_fraction: The share dropped at first. Defaults to 0.5 (could not
            be verified).
        minimum_drop_fraction: The share dropped at the end. Defaults to 0.05
            (could not be verified).
        **kwargs: As in `Method`, and `power`, by default 3.

    Raises:
        ValueError: As for `GMP`.

    Example:

    ```python
    model = keras_freetickets.sparsify(spiking_vgg16(...), sparsity=0.8)
    model.attach(NDSNN(final_sparsity=0.98, end_step=75_000))
    ```

    Reference:
        Huang et al., 2023, arXiv:2304.12214.
    """

    kernelwise = True
    counts_never_rise = True
    defaults = {"rounding": "nearest"}

    def __init__(
        self,
        final_sparsity: float,
        end_step: int,
        start_step: int = 0,
        distribution: typing.Any = "erk",
        update_interval: int = 1000,
        drop_fraction: typing.Any = 0.5,
        minimum_drop_fraction: float = 0.05,
        **kwargs: typing.Any,
    ) -> None:
        kwargs = {"stop_step": end_step, **self.defaults, **kwargs}
        for name, value in (
            ("drop_fraction", drop_fraction),
            ("minimum_drop_fraction", minimum_drop_fraction),
        ):
            check_number(name, value)
        super().__init__(
            final_sparsity,
            end_step,
            start_step,
            distribution,
            update_interval=update_interval,
            drop_fraction=drop_fraction,
            **kwargs,
        )
        self.first_drop_fraction = float(drop_fraction)
        self.minimum_drop_fraction = float(minimum_drop_fraction)

    @property
    def earliest_step(self) -> int:
        # The first of the R updates, not one before it at `start_step`.
        return (self._first + 1) * self.update_interval

    def drop_fraction_at(self, step: Tensor) -> Tensor:
        low, high = self.minimum_drop_fraction, self.first_drop_fraction
        progress = np.arange(self.rounds + 1) / self.rounds
        cosine = 1.0 + np.cos(np.pi * progress)
        table = low + (high - low) / 2.0 * cosine
        table = ops.convert_to_tensor(table.astype("float32"))
        return ops.take(table, self.number(step))

    def budget(
        self, views: list[KernelView], fraction: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        changing = [
            ops.where(t < math.prod(view.kernel.shape), view.count(), 0)
            for view, t in zip(views, self.targets(views), strict=True)
        ]
        shares = [fraction_of(n, fraction, self.rounding) for n in changing]
        if self.scope == "global":
            shares = as_counts(sum(shares), len(shares))
        surplus = self.surplus(views)
        dropped = [
            ops.maximum(*both) for both in zip(shares, surplus, strict=True)
        ]
        return dropped, [d - s for d, s in zip(dropped, surplus, strict=True)]

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "drop_fraction": self.first_drop_fraction,
            "minimum_drop_fraction": self.minimum_drop_fraction,
        }
