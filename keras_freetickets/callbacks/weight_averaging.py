"""Averages the weights of late epochs into one sparse model."""

import typing

import keras
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.arguments import check_count
from keras_freetickets.callbacks.claims import claim
from keras_freetickets.callbacks.claims import end_claims
from keras_freetickets.models.batch_normalization import (
    reestimate_batch_normalization,
)
from keras_freetickets.models.compressed_training import check_masked
from keras_freetickets.models.sparse_model import SparseModel
from keras_freetickets.types import Logs
from keras_freetickets.types import Model


class WeightAveraging(keras.callbacks.Callback):
    """Averages the weights over epochs and gives the model the average.

    From `start_epoch` on, at the end of each epoch or more often, the trainable
    variables are added to a running mean. For masked kernels this uses the
    values of the last step's forward pass (CigL masks random weights there).
    When training ends, the model receives the mean, within its masks, and its
    batch-normalization statistics are estimated again. The topology should not
    change while weights are averaged (set `stop_step` of the method): a
    connection that grows late would be averaged with earlier zeros.

    Args:
        start_epoch: Non-negative integer, the first epoch that is averaged,
            counted from 0.
        data: Training data for the statistics of batch normalization, as for
            `keras_freetickets.reestimate_batch_normalization`. `None` only
            for models without batch normalization.
        votes_per_epoch: Positive integer, how often per epoch the variables
            are added to the mean, at equal distances, the last time at the
            end of the epoch. In the first epoch they are added once, at its
            end. Defaults to 1 (papers of CigL and MOON).

    Raises:
        ValueError: If the model is not a `SparseModel`; it has batch
            normalization and `data` is `None`; training ends before
            `start_epoch`; or an epoch has fewer batches than votes, or an
            unknown number of batches.

    Example:

    ```python
    average = keras_freetickets.callbacks.WeightAveraging(200, data=train)
    model.fit(train, epochs=250, callbacks=[rigl, average])
    ```

    Reference:
        Weight and mask averaging of CigL, arXiv:2302.09369; voting of MOON,
        arXiv:2403.20047.
    """

    def __init__(
        self,
        start_epoch: int,
        data: typing.Any = None,
        votes_per_epoch: int = 1,
    ) -> None:
        super().__init__()
        check_count("votes_per_epoch", votes_per_epoch)
        check_count("start_epoch", start_epoch, least=0)
        self.start_epoch = int(start_epoch)
        self.data = data
        self.votes_per_epoch = votes_per_epoch
        self._epoch = self._parts = 0

    def set_model(self, model: Model) -> None:
        super().set_model(model)
        if not isinstance(model, SparseModel):
            raise ValueError(
                f"{type(self).__name__} needs a SparseModel. "
                f"Received: model of type {type(model).__name__}"
            )
        check_masked("model", model)  # connections of averages would move
        if self.data is None and any(
            isinstance(layer, keras.layers.BatchNormalization)
            for layer in keras_adapter.sublayers(model)
        ):
            raise ValueError(
                "`data` must be the training data, because averaged weights "
                "need new batch-normalization statistics. Received: data=None"
            )
        claim(self, "averages the weights")
        topology = model.update_state
        with model.run.scope():
            topology.add_scalar("averaged", 0.0)
            changed = topology.add_state("average", model.trainable_variables)
        if changed:
            topology.restart_scalars({"averaged": 0.0})

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        epochs = self.params.get("epochs", self.start_epoch + 1)
        if self.start_epoch >= epochs:
            raise ValueError(
                "`start_epoch` must be an epoch of the training, less than "
                f"{epochs}. Received: start_epoch={self.start_epoch}"
            )
        batches = self.params.get("steps")
        if self.votes_per_epoch > 1 and not (
            batches and self.votes_per_epoch <= batches
        ):
            raise ValueError(
                "`votes_per_epoch` must be 1 or at most the number of batches "
                f"of an epoch, which is {batches or 'unknown'}. "
                f"Received: votes_per_epoch={self.votes_per_epoch}"
            )

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._epoch, self._parts = epoch, 0
        if epoch <= self.start_epoch:
            self.model.update_state.state["averaged"].assign(0.0)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        super().on_train_batch_end(batch, logs)
        if self.votes_per_epoch == 1 or self._epoch <= self.start_epoch:
            return
        batches = self.params["steps"]
        parts = (batch + 1) * self.votes_per_epoch // batches
        if parts > self._parts and batch + 1 < batches:
            self._parts = parts
            keras_adapter.synchronize(self.model)
            self._vote()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_end(epoch, logs)
        if epoch >= self.start_epoch:
            self._vote()

    def _vote(self) -> None:
        """Adds the values of the last step's forward pass to the mean."""
        state = self.model.update_state.state
        count = float(ops.convert_to_numpy(state["averaged"].value))
        for mean, value in zip(
            state["average"], self.model.run.forward_values(), strict=True
        ):
            old, value = mean.value, ops.cast(value, mean.dtype)
            # The first is a copy; it ignores values left from an earlier fit.
            moved = old + (value - old) / (count + 1)
            mean.assign(moved if count else ops.copy(value))
        state["averaged"].assign(count + 1.0)

    def on_train_end(self, logs: Logs | None = None) -> None:
        super().on_train_end(logs)
        end_claims(self)
        state = self.model.update_state.state
        if not float(ops.convert_to_numpy(state["averaged"].value)):
            return  # training was stopped before the first averaged epoch
        for variable, mean in zip(
            self.model.trainable_variables, state["average"], strict=True
        ):
            # A copy, because JAX donates each array of its state once.
            variable.assign(ops.copy(mean.value))
        self.model.project()
        if self.data is not None:
            reestimate_batch_normalization(self.model, self.data)
