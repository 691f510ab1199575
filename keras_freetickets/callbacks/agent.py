"""AGENT: the snapshots by which gradients are corrected."""

import keras
import numpy as np
from keras import ops
from keras import tree

from keras_freetickets.callbacks.drop_and_grow import DropAndGrow
from keras_freetickets.models.trainers import get_backend
from keras_freetickets.models.trainers import step
from keras_freetickets.topology import methods


def _check_data(data):
    """Refuses what cannot be passed over in batches for every epoch."""
    arrays = isinstance(data, tuple) and all(
        one is None or hasattr(one, "shape") for one in data
    )
    if arrays or hasattr(data, "shape"):
        raise ValueError(
            "`data` must be in batches: a tf.data.Dataset, a PyDataset or a "
            "list of tuples (x, y). Of arrays make one by "
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
            "`data` must allow a pass for every epoch: a tf.data.Dataset, "
            "a PyDataset or a list of batches. "
            f"Received: data of type {type(data).__name__}"
        )


def _unpacked(batch):
    """`(x, y, sample_weight)` of a batch of arrays."""
    if not isinstance(batch, (tuple, list)) or not 2 <= len(batch) <= 3:
        raise ValueError(
            "`data` must hold batches (x, y) or (x, y, sample_weight). "
            f"Received: a batch of type {type(batch).__name__}"
        )
    batch = tree.map_structure(ops.convert_to_tensor, tuple(batch))
    return keras.utils.unpack_x_y_sample_weight(batch)


class AGENT(DropAndGrow):
    """`DropAndGrow` with AGENT: gradients corrected by a snapshot's.

    Before each epoch it passes over the data without training: it takes the
    mean gradient there, and from the losses of the batches, now and at the
    last snapshot, how far to trust it. The pass leaves batch-normalization
    statistics and dropout as they are. In the first epoch nothing is
    corrected. An epoch costs about 3.3 times a plain one: 2 gradients and 1
    loss of each batch more.

    In a loop of your own call `set_model(model)` once and
    `on_epoch_begin(epoch)` before each epoch.

    Known limits: all batches of a pass are under one dropout mask, and the
    gradient of a batch at the snapshot is under another than its own, which
    adds noise to the correction. Under mixed float16 both are computed
    without the loss scale, so that small gradients vanish; bfloat16 has no
    such limit.

    Args:
        data: The training data in batches, to be passed over again and again:
            a `tf.data.Dataset`, a `keras.utils.PyDataset` or a list of
            tuples `(x, y)` or `(x, y, sample_weight)`. A part of the data
            costs less.
        method: A `keras_freetickets.topology.AGENT`. `None` for one made
            from the arguments that follow.
        track_ever_active: As for `DropAndGrow`.
        **kwargs: As for `keras_freetickets.topology.AGENT`.

    Raises:
        ValueError: If the data is used up by one pass, empty or not in
            batches.

    Example:

    ```python
    agent = keras_freetickets.callbacks.AGENT(data=train, scale=0.1)
    model.fit(train, epochs=250, callbacks=[agent])
    ```

    Reference:
        Lei et al., 2023, arXiv:2301.03573; StevenBoys/AGENT.
    """

    companion_of = ("AGENT",)
    forwards_to = methods.AGENT

    def __init__(self, data, method=None, track_ever_active=False, **kwargs):
        if method is not None and kwargs:
            raise ValueError(
                "Give either `method` or its arguments. "
                f"Received: method={method} and {sorted(kwargs)}"
            )
        method = methods.AGENT(**kwargs) if method is None else method
        if not isinstance(method, methods.AGENT):
            raise ValueError(
                "`method` must be a keras_freetickets.topology.AGENT. "
                f"Received: method={method}"
            )
        _check_data(data)
        super().__init__(method, track_ever_active=track_ever_active)
        self.data = data

    def set_model(self, model):
        super().set_model(model)
        self._evaluate = get_backend().function(self._losses_and_gradients)

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        now, before, mean = self._pass()
        state = self.model.update_state.state
        if float(ops.convert_to_numpy(state["snapshots"].value)):
            tau = float(ops.convert_to_numpy(state["tau"].value))
            tau = self.method.next_tau(tau, now, before)
            state["tau"].assign(tau)
            state["correction"].assign(self.method.scale * tau)
        state["snapshots"].assign(1.0)
        for held, variable in zip(
            state["snapshot"], self.model.trainable_variables
        ):
            # A copy: JAX gives away each array of its state once.
            held.assign(ops.copy(variable.value))
        for held, gradient in zip(state["mean_gradient"], mean):
            held.assign(gradient)

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if logs is not None:
            tau = self.model.update_state.state["tau"]
            logs["tau"] = float(ops.convert_to_numpy(tau.value))

    def _pass(self):
        """Losses now and at the snapshot, and the mean gradient now."""
        model = self.model
        state = model.update_state.state
        now, before, total = [], [], None
        for batch in self._batches():
            loss, gradients, old = self._evaluate(
                [v.value for v in model.trainable_variables],
                [v.value for v in state["snapshot"]],
                step.other_values(model),
                batch,
            )
            now.append(float(loss))
            before.append(float(old))
            total = gradients if total is None else _sum(total, gradients)
        if not now:
            raise ValueError("`data` must hold a batch. Received: none")
        return np.array(now), np.array(before), [g / len(now) for g in total]

    def _batches(self):
        data = self.data
        length = len(data) if isinstance(data, keras.utils.PyDataset) else None
        batches = data if length is None else (data[i] for i in range(length))
        for batch in batches:
            batch = _unpacked(batch)
            # What a step would train on: MIMO mixes images.
            yield self.model.run.transformed_batch(*batch)

    def _losses_and_gradients(self, values, snapshot, others, batch):
        loss, gradients = get_backend().value_and_gradients(
            lambda values: step.loss_at(self.model, values, batch, others),
            values,
        )
        gradients = [
            ops.zeros_like(value) if gradient is None else gradient
            for value, gradient in zip(values, gradients)
        ]
        old = step.loss_at(self.model, snapshot, batch, others)
        return loss, gradients, old


def _sum(one, other):
    return [a + b for a, b in zip(one, other)]
