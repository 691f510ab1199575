"""SET: drop the weights closest to zero, grow at random."""

import dataclasses
import typing

from keras import ops

from keras_freetickets.topology.kernel_view import KernelView
from keras_freetickets.topology.methods.method import Method
from keras_freetickets.topology.methods.registry import register
from keras_freetickets.types import Config
from keras_freetickets.types import Tensor


@register("set", package="keras_freetickets")
class SET(Method):
    """Drop the weights of each sign that are closest to zero, grow at random.

    An update drops the same share of the positive and of the negative weights,
    those closest to zero, and grows as many connections at random.

    Args:
        update_interval: Defaults to 1500 (ITOP's setting for SET at batches
            of 128; the original updates once an epoch).
        drop_fraction: Defaults to 0.3 (SET's code).
        drop: Defaults to `"signed_magnitude"`, as described above (SET's
            code). `"magnitude"` ranks both signs together, as RigL's,
            JaxPruner's and FreeTickets' versions of SET do.
        **kwargs: As in `Method`.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    model.attach(SET(update_interval=1500))
    ```

    Reference:
        Mocanu et al., 2018, arXiv:1707.04780;
        dcmocanu/sparse-evolutionary-artificial-neural-networks.
    """

    kernelwise = True
    counts_never_rise = True
    reads_criteria_alone = True
    updates_by_criteria = True
    settings_from_views = True
    defaults = {"growth": "random"}

    def __init__(
        self,
        update_interval: int = 1500,
        drop_fraction: typing.Any = 0.3,
        drop: typing.Any = "signed_magnitude",
        **kwargs: typing.Any,
    ) -> None:
        self.by_sign = drop == "signed_magnitude"
        if self.by_sign and kwargs.get("scope", "layer") != "layer":
            raise ValueError(
                '`drop="signed_magnitude"` ranks within each layer: use '
                '`scope="layer"`, or `drop="magnitude"`. '
                f"Received: scope={kwargs['scope']}"
            )
        kwargs = {**self.defaults, **kwargs}
        drop = "magnitude" if self.by_sign else drop
        super().__init__(update_interval, drop_fraction, drop=drop, **kwargs)

    def update(
        self, views: list[KernelView], fraction: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        if not self.by_sign:
            return super().update(views, fraction)
        halves = [half for view in views for half in _signs(view)]
        counts, _ = self.budget(halves, fraction)
        halves = self.keep(halves, counts)
        kept = [
            ops.logical_or(*both)
            for both in zip(halves[::2], halves[1::2], strict=True)
        ]
        grow_counts = [
            sum(both) for both in zip(counts[::2], counts[1::2], strict=True)
        ]
        grown = self.grow(views, kept, grow_counts)
        return list(zip(kept, grown, strict=True))

    def criteria_by_name(self) -> tuple[str, str] | None:
        names = super().criteria_by_name()
        if names is None or not self.by_sign:
            return names
        return "signed_magnitude", names[1]

    def get_config(self) -> Config:
        config = super().get_config()
        return (
            {**config, "drop": "signed_magnitude"} if self.by_sign else config
        )


def _signs(view: KernelView) -> list[KernelView]:
    """Views of the positive and negative weights; zero counts as positive."""
    negative = view.kernel < 0
    return [
        dataclasses.replace(view, mask=ops.logical_and(view.mask, side))
        for side in (ops.logical_not(negative), negative)
    ]
