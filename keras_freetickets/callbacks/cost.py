"""The cost of a training: theoretical FLOPs and measured seconds."""

import math
import time
import typing
import warnings
from collections.abc import Callable

import keras

from keras_freetickets.arguments import check_count
from keras_freetickets.callbacks.claims import claim
from keras_freetickets.callbacks.ticket_checkpoint import ticket_of
from keras_freetickets.inspection.units import density_of
from keras_freetickets.metrics import flops
from keras_freetickets.types import Logs
from keras_freetickets.types import Model


class TrainingCost(keras.callbacks.Callback):
    """Logs the cost of each epoch, also of killed and resumed runs.

    Adds two entries to the logs: `training_flops`, the theoretical FLOPs of
    training once on one example with the masks at the end of the epoch, and
    `seconds`, the duration of the epoch. Put it before `Backup` and other
    callbacks that read the logs. If FLOPs are unknown, `training_flops` is
    NaN, and a warning says why.

    Args:
        method: As for `keras_freetickets.metrics.flops.
            training_flops_per_sample`, or a callable of the FLOPs of the
            dense and the sparse forward pass.
        update_interval: Integer, steps between topology updates; for
            `"rigl"`.
        repetitions: Positive integer, how often a step uses each example
            (`MIMO`).
        input_shape: Shape of one example, or a structure of shapes, for a
            model with unknown sizes, as for `keras_freetickets.metrics.
            flops.kernel_macs`. `None` for the model's own.

    Raises:
        ValueError: If the method is unknown or an argument is missing; when
            training begins, if `input_shape` does not fit the model.

    Example:

    ```python
    cost = keras_freetickets.callbacks.TrainingCost("rigl", 100)
    history = model.fit(x, y, epochs=10, callbacks=[rigl, cost]).history
    sum(history["training_flops"]) * len(x)
    ```
    """

    def __init__(
        self,
        method: typing.Any = "dense",
        update_interval: int | None = None,
        repetitions: int = 1,
        input_shape: typing.Any = None,
    ) -> None:
        super().__init__()
        check_count("repetitions", repetitions)
        self._cost = _cost_of(method, update_interval)
        self._cost(1.0, 1.0)  # raises errors now, not after an epoch
        self.repetitions = repetitions
        self.input_shape = input_shape

    def set_model(self, model: Model) -> None:
        super().set_model(model)
        claim(self, "logs what a training costs")
        self._counted = ticket_of(model)
        self._macs = self._costs_of(self._counted)

    def _costs_of(self, model: Model) -> list[typing.Any] | None:
        """The costs of a model's kernels, `None` if they are unknown."""
        open_inputs = flops.open_inputs(model)
        if open_inputs and self.input_shape is None:
            reason = f"{open_inputs} have unknown sizes: pass `input_shape`"
        else:
            costs = flops.kernel_macs(model, self.input_shape)
            if not any(math.isnan(cost.macs) for cost in costs.values()):
                return list(costs.values())
            reason = "; ".join(costs.notes)
        warnings.warn(
            f"`training_flops` of model '{model.name}' will be NaN: {reason}",
            stacklevel=2,
        )
        return None

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_end(epoch, logs)
        if logs is None:
            return
        logs["training_flops"] = self._flops() * self.repetitions
        logs["seconds"] = time.perf_counter() - self._start

    def _flops(self) -> float:
        """FLOPs of training once on one example."""
        if self._macs is None:
            return math.nan
        density = density_of(self._counted)
        dense = 2.0 * sum(part.macs for part in self._macs)
        used = 2.0 * sum(p.macs * density(p.kernel) for p in self._macs)
        return self._cost(dense, used)


def _cost_of(
    method: typing.Any, update_interval: int | None
) -> Callable[[float, float], float]:
    if callable(method):
        return method

    def cost(dense: float, used: float) -> float:
        return flops.training_flops_per_sample(
            dense, used, method, update_interval
        )

    return cost
