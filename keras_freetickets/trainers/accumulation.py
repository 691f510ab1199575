"""Gradient accumulation: several micro-batches for one optimizer update."""

from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.trainers import update as updates
from keras_freetickets.types import Gradients
from keras_freetickets.types import Optimizer
from keras_freetickets.types import Tensor
from keras_freetickets.types import Variable


class AccumulationWindow:
    """The micro-batches that make one update of the optimizer.

    Without gradient accumulation there is one, and nothing to do here.

    Args:
        optimizer: The model's optimizer.
        kernels: List of variables whose sums are wanted.
        gradients: List of the gradients of this micro-batch, all of them: an
            optimizer that scales losses passes over one that overflowed.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        kernels: list[Variable],
        gradients: Gradients,
    ) -> None:
        self.steps, self.count, self.sums = keras_adapter.accumulators(
            optimizer, kernels
        )
        if self.steps:
            self._closes = ops.equal((self.count.value + 1) % self.steps, 0)
            if keras_adapter.loss_scale(optimizer) is not None:
                finite = updates.all_finite(gradients)
                self._closes = ops.logical_and(self._closes, finite)

    def closes(self) -> Tensor | None:
        """Whether this micro-batch is the last; `None` if it always is."""
        return self._closes if self.steps else None

    def mean(self, gradients: list[Tensor]) -> list[Tensor]:
        """Means over the micro-batches of a window so far."""
        if not self.steps:
            return gradients
        return [
            (g + ops.cast(s.value, g.dtype)) / self.steps
            for g, s in zip(gradients, self.sums, strict=True)
        ]

    def mask(self, masks: list[Tensor | None]) -> None:
        """Masks the sums that the optimizer is about to use.

        Args:
            masks: List of boolean tensors; `None` where nothing is masked.
        """
        if not self.steps:
            return
        waits = ops.logical_not(self.closes())
        for total, mask in zip(self.sums, masks, strict=True):
            if mask is None:
                continue
            kept = ops.logical_or(mask, waits)
            total.assign(ops.where(kept, total.value, 0))

    def restart(self, skipped: Tensor) -> None:
        """Starts the window again where its update was skipped."""
        if not self.steps:
            return
        for total in self.sums:
            total.assign(ops.where(skipped, 0, total.value))
        back = ops.cast(skipped, self.count.dtype) * (self.steps - 1)
        self.count.assign(self.count.value - back)
