"""Chase: whole channels go while a sparse network trains."""

import typing

import numpy as np
from keras import ops

from keras_freetickets.arguments import check_number
from keras_freetickets.arguments import is_integer
from keras_freetickets.topology.kernel_view import KernelView
from keras_freetickets.topology.kernel_view import best
from keras_freetickets.topology.methods.method import GROW
from keras_freetickets.topology.methods.method import as_counts
from keras_freetickets.topology.methods.registry import register
from keras_freetickets.topology.methods.rigl import RigL
from keras_freetickets.topology.randomness import typed
from keras_freetickets.types import Config
from keras_freetickets.types import Tensor
from keras_freetickets.types import Tensors

_HIGHEST = float(np.finfo("float32").max)


@register("chase", package="keras_freetickets")
class Chase(RigL):
    """RigL that removes whole channels, in steps, and keeps all connections.

    Each update removes the channels with the smallest mean magnitude of their
    weights (absent ones count as 0), so many that the share of removed ones
    follows a cubic curve from 0 to `channel_sparsity`. What they lose grows
    elsewhere by the gradient, along with what RigL drops: the number of
    connections stays that of the first masks, up to what the remaining
    channels can hold. Removed channels do not return, and
    `keras_freetickets.compact` makes a smaller network without them.

    This follows the paper's code, with these differences: weights are dropped
    and grown at the same updates; the number of connections is not exceeded
    in between; and channels that several layers make, because their outputs
    are added, go together, by their mean.

    Args:
        channel_sparsity: Float in (0, 1), the share of all channels of
            `groups` to remove.
        groups: List of dicts, from `keras_freetickets.channel_groups`.
        end_step: Positive integer, the optimizer update of the last removal.
        start_step: Integer, the optimizer update after which removals begin.
            Defaults to 0.
        least: Float in [0, 1], the part of `1 - channel_sparsity` of each
            layer's channels that stays in any case. Defaults to 0.2 (the
            code's `minumum_ratio` for VGG-19 and ImageNet).
        update_interval: Defaults to 100 (as in `RigL`).
        drop_fraction: Defaults to 0.3 (as in `RigL`).
        **kwargs: As in `RigL`, except for the defaults `scope="global"` (the
            paper's code; channels compete across layers too, and with
            `"layer"` neither they nor connections do) and
            `stop_step=end_step`.

    Raises:
        ValueError: If an argument is out of range, or there are no groups.

    Example:

    ```python
    groups = keras_freetickets.channel_groups(model)
    model.attach(Chase(0.5, groups, end_step=20_000))
    ```

    Reference:
        Yin et al., 2023, arXiv:2305.19454; luuyin/chase 6190eb8.
    """

    defaults = {"scope": "global"}

    def __init__(
        self,
        channel_sparsity: float,
        groups: list[dict[str, list[int]]],
        end_step: int,
        start_step: int = 0,
        least: float = 0.2,
        update_interval: int = 100,
        drop_fraction: typing.Any = 0.3,
        **kwargs: typing.Any,
    ) -> None:
        check_number("channel_sparsity", channel_sparsity, "(0, 1)")
        check_number("least", least, "[0, 1]")
        kwargs.setdefault("stop_step", end_step)
        kwargs = {**RigL.defaults, **self.defaults, **kwargs}
        super().__init__(
            update_interval, drop_fraction, start_step=start_step, **kwargs
        )
        if not is_integer(end_step) or end_step - start_step < update_interval:
            raise ValueError(
                "`end_step` must be an optimizer update at least one "
                f"`update_interval` ({update_interval}) after `start_step` "
                f"({start_step}). Received: end_step={end_step}"
            )
        if not groups:
            raise ValueError(
                "`groups` must name one group of channels or more, as "
                "`keras_freetickets.channel_groups(model)` finds them. "
                f"Received: groups={groups}"
            )
        self.channel_sparsity = float(channel_sparsity)
        self.groups = [dict(group) for group in groups]
        self.end_step = int(end_step)
        self.least = float(least)
        self._sizes: list[int] = []
        self._least: list[int] = []
        self._kept: typing.Any = None
        self._budgets: list[int] = []

    @property
    def rounds(self) -> int:
        """The number of updates that remove channels."""
        return self.end_step // self.update_interval - self._first

    @property
    def _first(self) -> int:
        return self.start_step // self.update_interval

    def takes_part(self, active: int, size: int) -> bool:
        return True

    def begin(self, masked_kernels: list[typing.Any]) -> None:
        """Works out the numbers of channels of every update."""
        count = len(masked_kernels)
        named = [
            i for group in self.groups for one in group.values() for i in one
        ]
        if not all(0 <= i < count for i in named):
            raise ValueError(
                f"`groups` must name kernels of this model, which has {count}. "
                f"Received: groups={self.groups}"
            )
        self._budgets = [masked.initial for masked in masked_kernels]
        self._sizes = [
            int(masked_kernels[group["producers"][0]].kernel.shape[-1])
            for group in self.groups
        ]
        left = 1.0 - self.channel_sparsity
        self._least = [max(1, int(n * left * self.least)) for n in self._sizes]
        numbers = np.arange(self.rounds + 1)
        share = 1.0 - self.channel_sparsity * (
            1.0 - (1.0 - numbers / self.rounds) ** 3
        )
        sizes = np.array(self._sizes)
        if self.scope == "global":
            sizes = sizes.sum(keepdims=True)
        kept = np.rint(np.outer(share, sizes))
        self._kept = np.maximum(kept, 1).astype("int32")

    def update(
        self, views: list[KernelView], fraction: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        if self._kept is None:
            raise RuntimeError(
                "Chase must be attached to a model before it updates one: "
                "`model.attach(method)`."
            )
        room = self._room(views)
        masks = [
            ops.logical_and(view.mask, r)
            for view, r in zip(views, room, strict=True)
        ]
        left = [_sum(mask) for mask in masks]
        dropped, _ = self.counts(views, fraction)
        if self.scope == "global":
            left, dropped = (as_counts(sum(n), len(n)) for n in (left, dropped))
            wanted = as_counts(
                ops.minimum(sum(self._budgets), sum(_sum(r) for r in room)),
                len(room),
            )
        else:
            wanted = [
                ops.minimum(budget, _sum(r))
                for budget, r in zip(self._budgets, room, strict=True)
            ]
        # What went with its channel counts as dropped.
        kept_counts = [
            ops.minimum(n, ops.maximum(w - d, 0))
            for n, w, d in zip(left, wanted, dropped, strict=True)
        ]
        scores = [self.drop_score(view) for view in views]
        kept = self.strongest(views, scores, masks, kept_counts, 0)
        absent = [
            ops.logical_and(r, ops.logical_not(k))
            for r, k in zip(room, kept, strict=True)
        ]
        grown_counts = [
            ops.maximum(w - n, 0)
            for w, n in zip(wanted, kept_counts, strict=True)
        ]
        scores = [self.grow_score(view) for view in views]
        grown = best(views, scores, absent, grown_counts, GROW, self.scope)
        return list(zip(kept, grown, strict=True))

    def _room(self, views: list[KernelView]) -> Tensors:
        """Boolean tensors: the positions that no removed channel has."""
        alive, scores = [], []
        for group in self.groups:
            made = [_columns(views[i].mask) for i in group["producers"]]
            size = made[0].shape[-1]
            read = [_rows(views[i].mask, size) for i in group["readers"]]
            parts = [ops.any(one, axis=0) for one in made]
            parts += [ops.any(one, axis=(0, 2)) for one in read]
            alive.append(ops.any(ops.stack(parts), axis=0))
            means = [
                ops.mean(ops.abs(_columns(views[i].kernel)), axis=0)
                for i in group["producers"]
            ]
            scores.append(sum(means) / len(means))
        number = ops.cast(views[0].step, "int32") // self.update_interval
        number = ops.clip(number - self._first, 0, self.rounds)
        counts = ops.take(typed(self._kept), number, axis=0)
        stay = self._stay(scores, alive, counts)
        room: Tensors = [ops.ones_like(view.mask) for view in views]
        for group, staying in zip(self.groups, stay, strict=True):
            size = staying.shape[0]
            for i in group["producers"]:
                room[i] = ops.logical_and(room[i], staying)
            for i in group["readers"]:
                times = views[i].kernel.shape[-2] // size
                rows = ops.tile(staying, [times])[:, None]
                room[i] = ops.logical_and(room[i], rows)
        return room

    def _stay(
        self, scores: list[Tensor], alive: list[Tensor], counts: Tensor
    ) -> list[Tensor]:
        """Which channels of each group stay: those with the best scores."""
        keys = []
        for score, there, least in zip(scores, alive, self._least, strict=True):
            # Those that are gone last, and the best of each group first.
            key = ops.where(there, score, -1.0)
            first = ops.logical_and(_rank(key) < least, there)
            keys.append(ops.where(first, _HIGHEST, key))
        if self.scope == "global":
            places = _rank(ops.concatenate(keys)) < counts[0]
            ends = np.cumsum(self._sizes)
            chosen = [
                places[end - n : end]
                for end, n in zip(ends, self._sizes, strict=True)
            ]
        else:
            chosen = [_rank(key) < counts[i] for i, key in enumerate(keys)]
        return [
            ops.logical_and(*both) for both in zip(chosen, alive, strict=True)
        ]

    def get_config(self) -> Config:
        return {
            "channel_sparsity": self.channel_sparsity,
            "groups": [dict(group) for group in self.groups],
            "end_step": self.end_step,
            "least": self.least,
            **super().get_config(),
        }


def _columns(array: Tensor) -> Tensor:
    """A producer's kernel as (its inputs, channels)."""
    return ops.reshape(array, (-1, array.shape[-1]))


def _rows(array: Tensor, size: int) -> Tensor:
    """A reader's kernel as (positions, channels, its own units)."""
    return ops.reshape(array, (-1, size, array.shape[-1]))


def _sum(mask: Tensor) -> Tensor:
    return ops.cast(ops.sum(ops.cast(mask, "int32")), "int32")


def _rank(keys: Tensor) -> Tensor:
    """How many keys are better than each; of equal ones the first is."""
    place = ops.arange(keys.shape[0])
    better = keys[None, :] > keys[:, None]
    equal = ops.logical_and(
        ops.equal(keys[None, :], keys[:, None]), place[None, :] < place[:, None]
    )
    found = ops.cast(ops.logical_or(better, equal), "int32")
    return ops.cast(ops.sum(found, axis=1), "int32")
