"""Training that takes turns between full and reduced resolution."""

import typing

import keras

from keras_freetickets import keras_adapter
from keras_freetickets.arguments import check_count
from keras_freetickets.callbacks.claims import claim
from keras_freetickets.callbacks.claims import end_claims
from keras_freetickets.models.sparse_model import SparseModel
from keras_freetickets.resolution.layers import ReducibleConv2D
from keras_freetickets.resolution.layers import reduced
from keras_freetickets.resolution.pooling import downsample
from keras_freetickets.resolution.schedules import Periodic
from keras_freetickets.resolution.schedules import Schedule
from keras_freetickets.trainers.step_variant import StepVariant
from keras_freetickets.types import Batch
from keras_freetickets.types import Logs
from keras_freetickets.types import Model
from keras_freetickets.types import Tensor


def _half_size(
    x: Tensor, y: Tensor, sample_weight: Tensor, step: Tensor
) -> Batch:
    return downsample(x), y, sample_weight


REDUCED = StepVariant(
    "reduced resolution", reduced, _half_size, updates_topology=False
)


class InterleavedResolution(keras.callbacks.Callback):
    """Trains on images of half the size in some steps, which are cheaper.

    The model is one that `reducible` has made. In a reduced step images are
    halved by `downsample`, after all batch transforms; convolutions compute
    with pooled kernels, so that the gradient reaches the kernels themselves;
    and batch normalization updates its second set of statistics. Weights, loss
    and optimizer are the same, with the same learning rate.

    Masks change in full steps only: methods read the gradients of full
    batches, and an update that is due in a reduced step takes place in the
    next full one. A mask is applied before a kernel is pooled, so that absent
    weights stay zero.

    The epoch logs get `reduced_share`, the share of the epoch's steps that
    were reduced. Validation is at full resolution.

    Args:
        schedule: A `Schedule`. Defaults to `Periodic()`, every second step of
            the first 80%.
        stop_epoch: Positive integer, the number of epochs that the schedule is
            spread over; all later steps are full. With `EDST` take the end of
            the exploration, `edst.phases[0].stop_epoch`, so that tickets are
            refined at full resolution. It may be more than the epochs of one
            `fit`, for a training in several parts. `None` (default) for all
            epochs of `fit`.

    Raises:
        ValueError: If an argument is out of range; when training begins, if
            the model is not a reducible one, if the number of steps of an
            epoch is unknown, if several steps run at once
            (`steps_per_execution`) or if gradients are accumulated.

    Example:

    ```python
    model = kft.resolution.reducible(model)
    model.compile("adam", "sparse_categorical_crossentropy")
    interleaved = kft.resolution.InterleavedResolution(
        kft.resolution.Periodic(reduced=1, period=3)
    )
    model.fit(x, y, epochs=10, callbacks=[interleaved])
    ```

    Reference:
        Poulos et al., 2019, arXiv:1910.06548. Its abstract alone was read;
        pooling, schedules and defaults are ours.
    """

    def __init__(
        self,
        schedule: Schedule | None = None,
        stop_epoch: int | None = None,
    ) -> None:
        super().__init__()
        schedule = Periodic() if schedule is None else schedule
        if not isinstance(schedule, Schedule):
            raise ValueError(
                "`schedule` must be a kft.resolution.Schedule, such as "
                f"Periodic(). Received: schedule={schedule!r}"
            )
        if stop_epoch is not None:
            check_count("stop_epoch", stop_epoch)
        self.schedule = schedule
        self.stop_epoch = stop_epoch
        self._epoch = 0
        self._num_reduced = self._num_steps = 0

    def set_model(self, model: Model) -> None:
        super().set_model(model)
        _check_model(model)
        claim(self, "chooses the resolution")
        model.run.defer(lambda: model.run.use_variant(None))

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        if self.params.get("steps") is None:
            raise ValueError(
                "The number of steps of an epoch must be known: pass "
                "`steps_per_epoch` to `fit`. Received: data of unknown length"
            )

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._epoch = epoch
        self._num_reduced = self._num_steps = 0

    def on_train_batch_begin(
        self, batch: int, logs: Logs | None = None
    ) -> None:
        super().on_train_batch_begin(batch, logs)
        is_reduced = self.is_reduced(self._epoch, batch)
        self.model.run.use_variant(REDUCED if is_reduced else None)
        self._num_steps += 1
        self._num_reduced += is_reduced

    def is_reduced(self, epoch: int, batch: int) -> bool:
        """Whether a step of this training is reduced; only during `fit`.

        Args:
            epoch: Integer, counted from 0.
            batch: Integer, counted from 0.
        """
        steps = self.params["steps"]
        total = steps * (self.stop_epoch or self.params["epochs"])
        step = epoch * steps + batch
        return step < total and bool(self.schedule.is_reduced(step, total))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_end(epoch, logs)
        if logs is not None:
            logs["reduced_share"] = self._num_reduced / max(self._num_steps, 1)

    def on_train_end(self, logs: Logs | None = None) -> None:
        super().on_train_end(logs)
        end_claims(self)


def _check_model(model: typing.Any) -> None:
    parts = keras_adapter.sublayers(model)
    pooled = any(isinstance(part, ReducibleConv2D) for part in parts)
    if not isinstance(model, SparseModel) or not pooled:
        raise ValueError(
            "The model must be one of kft.resolution.reducible(model). "
            f"Received: model={model.name!r} of type {type(model).__name__}"
        )
    accumulated = keras_adapter.accumulation_steps(model.optimizer)
    for name, value, right in (
        ("steps_per_execution", model.steps_per_execution, 1),
        ("gradient_accumulation_steps", accumulated, None),
    ):
        if value != right:
            raise ValueError(
                f"`{name}` must be {right} with InterleavedResolution, which "
                f"decides about each step. Received: {name}={value}"
            )
