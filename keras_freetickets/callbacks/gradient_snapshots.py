"""The callback that takes the snapshots for AGENT's correction."""

import typing
from collections.abc import Iterator

import keras
import numpy as np
from keras import ops
from keras import tree

from keras_freetickets.topology import methods
from keras_freetickets.trainers import get_backend
from keras_freetickets.trainers import step
from keras_freetickets.types import Batch
from keras_freetickets.types import Logs
from keras_freetickets.types import Tensor


def _check_data(data: typing.Any) -> None:
    """Raises unless it can be iterated in batches, once for each epoch."""
    arrays = isinstance(data, tuple) and all(
        one is None or hasattr(one, "shape") for one in data
    )
    if arrays or hasattr(data, "shape"):
        raise ValueError(
            "`data` must be in batches: a tf.data.Dataset, a PyDataset or a "
            "list of tuples (x, y). From arrays make a list: "
            "[(x[i : i + 128], y[i : i + 128]) "
            "for i in range(0, len(x), 128)]. "
            f"Received: data of type {type(data).__name__}"
            + (" of arrays" if arrays else "")
        )
    if not hasattr(data, "__iter__") and not hasattr(data, "__getitem__"):
        iterates = False
    else:
        iterates = iter(data) is not data
    if not iterates:
        raise ValueError(
            "`data` must allow one iteration for every epoch: pass a "
            "tf.data.Dataset, a PyDataset or a list of batches. "
            f"Received: data of type {type(data).__name__}"
        )


def _unpacked(batch: typing.Any) -> Batch:
    """`(x, y, sample_weight)` of a batch of arrays."""
    if not isinstance(batch, (tuple, list)) or not 2 <= len(batch) <= 3:
        raise ValueError(
            "`data` must have batches (x, y) or (x, y, sample_weight). "
            f"Received: a batch of type {type(batch).__name__}"
        )
    batch = tree.map_structure(ops.convert_to_tensor, tuple(batch))
    return keras.utils.unpack_x_y_sample_weight(batch)


class GradientSnapshots(keras.callbacks.Callback):
    """Takes the snapshots that the method `topology.AGENT` needs.

    Before each epoch it iterates over the data without training. It computes
    the mean gradient and, from the losses of the batches now and at the last
    snapshot, how much to correct. Batch-normalization statistics and dropout
    seeds do not change. The first epoch has no correction. `DropAndGrow`,
    `EDST` and `DST` add this callback to the method themselves; after
    `model.attach(topology.AGENT())` pass it to `fit`.

    In a custom training loop call `set_model(model)` once and
    `on_epoch_begin(epoch)` before each epoch.

    Known limits: all batches of an iteration share one dropout mask, and the
    snapshot's gradient of a batch has a different dropout mask from the
    batch's own gradient, which adds noise to the correction. With mixed
    float16 both are computed without the loss scale, so small gradients
    underflow; bfloat16 does not have this limit.

    Args:
        data: The training data in batches, iterated once per epoch: a
            `tf.data.Dataset`, a `keras.utils.PyDataset` or a list of tuples
            `(x, y)` or `(x, y, sample_weight)`. A part of the training data
            is cheaper.

    Raises:
        ValueError: If the data can be iterated only once, is empty or is not
            in batches, or the model's method is not `topology.AGENT`.

    Example:

    ```python
    model.attach(keras_freetickets.topology.AGENT(scale=0.1))
    snapshots = keras_freetickets.callbacks.GradientSnapshots(train)
    model.fit(train, epochs=250, callbacks=[snapshots])
    ```

    Reference:
        Lei et al., 2023, arXiv:2301.03573; StevenBoys/AGENT.
    """

    def __init__(self, data: typing.Any) -> None:
        super().__init__()
        _check_data(data)
        self.data = data

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        method = getattr(model, "method", None)
        if not isinstance(method, methods.AGENT):
            raise ValueError(
                "GradientSnapshots needs a model with the method "
                "keras_freetickets.topology.AGENT attached. Received: a "
                f"{type(model).__name__} with method={method}"
            )
        self._evaluate = get_backend().function(self._losses_and_gradients)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        now, before, mean = self._pass()
        method = self.model.method
        state = self.model.update_state.state
        if float(ops.convert_to_numpy(state["snapshots"].value)):
            tau = float(ops.convert_to_numpy(state["tau"].value))
            tau = method.next_tau(tau, now, before)
            state["tau"].assign(tau)
            state["correction"].assign(method.scale * tau)
        state["snapshots"].assign(1.0)
        for held, variable in zip(
            state["snapshot"], self.model.trainable_variables, strict=True
        ):
            # A copy, because JAX donates each array of its state once.
            held.assign(ops.copy(variable.value))
        for held, gradient in zip(state["mean_gradient"], mean, strict=True):
            held.assign(gradient)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_end(epoch, logs)
        if logs is not None:
            tau = self.model.update_state.state["tau"]
            logs["tau"] = float(ops.convert_to_numpy(tau.value))

    def _pass(self) -> tuple[np.ndarray, np.ndarray, list[Tensor]]:
        """Losses of the batches now and at the snapshot; the mean gradient."""
        model = self.model
        state = model.update_state.state
        now: list[float] = []
        before: list[float] = []
        total: list[Tensor] = []
        for batch in self._batches():
            loss, gradients, old = self._evaluate(
                [v.value for v in model.trainable_variables],
                [v.value for v in state["snapshot"]],
                step.other_values(model),
                batch,
            )
            now.append(float(loss))
            before.append(float(old))
            total = _sum(total, gradients) if total else list(gradients)
        if not now:
            raise ValueError("`data` must have a batch. Received: no batches")
        return np.array(now), np.array(before), [g / len(now) for g in total]

    def _batches(self) -> Iterator[Batch]:
        data = self.data
        length = len(data) if isinstance(data, keras.utils.PyDataset) else None
        batches = data if length is None else (data[i] for i in range(length))
        for batch in batches:
            batch = _unpacked(batch)
            # The batch that a step would train on: MIMO mixes images.
            yield self.model.run.transformed_batch(*batch)

    def _losses_and_gradients(
        self,
        values: list[Tensor],
        snapshot: list[Tensor],
        others: typing.Any,
        batch: Batch,
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        loss, gradients = get_backend().value_and_gradients(
            lambda values: step.loss_at(self.model, values, batch, others),
            values,
        )
        gradients = [
            ops.zeros_like(value) if gradient is None else gradient
            for value, gradient in zip(values, gradients, strict=True)
        ]
        old = step.loss_at(self.model, snapshot, batch, others)
        return loss, gradients, old


def _sum(one: list[Tensor], other: list[Tensor]) -> list[Tensor]:
    return [a + b for a, b in zip(one, other, strict=True)]
