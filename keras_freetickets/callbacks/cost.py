"""What a training costs: theoretical FLOPs and measured seconds."""

import time

import keras

from keras_freetickets.arguments import check_count
from keras_freetickets.callbacks.collecting import ticket_of
from keras_freetickets.metrics import flops
from keras_freetickets.models.quality import density_of


class TrainingCost(keras.callbacks.Callback):
    """Logs what each epoch costs, killed and resumed runs included.

    Adds to the logs `training_flops`, the theoretical FLOPs of training on
    one example once with the masks of the epoch's end, and `seconds`. Put it
    before `Backup` and other readers of the logs.

    Args:
        method: As for `keras_freetickets.metrics.flops.
            training_flops_per_sample`, or a callable of the FLOPs of the
            dense and the sparse forward pass.
        update_interval: Integer, steps between topology updates; for
            `"rigl"`.
        repetitions: Positive integer, how often a step shows the network an
            example (`MIMO`).

    Raises:
        ValueError: If the method is unknown or an argument missing.

    Example:

    ```python
    cost = keras_freetickets.callbacks.TrainingCost("rigl", 100)
    history = model.fit(x, y, epochs=10, callbacks=[rigl, cost]).history
    sum(history["training_flops"]) * len(x)
    ```
    """

    def __init__(self, method="dense", update_interval=None, repetitions=1):
        super().__init__()
        check_count("repetitions", repetitions)
        self._cost = _cost_of(method, update_interval)
        self._cost(1.0, 1.0)  # errors now, not after an epoch
        self.repetitions = repetitions

    def set_model(self, model):
        super().set_model(model)
        self._counted = ticket_of(model)
        self._macs = list(flops.kernel_macs(self._counted).values())

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        if logs is None:
            return
        density = density_of(self._counted)
        dense = 2.0 * sum(part.macs for part in self._macs)
        used = 2.0 * sum(p.macs * density(p.kernel) for p in self._macs)
        logs["training_flops"] = self._cost(dense, used) * self.repetitions
        logs["seconds"] = time.perf_counter() - self._start


def _cost_of(method, update_interval):
    if callable(method):
        return method

    def cost(dense, used):
        return flops.training_flops_per_sample(
            dense, used, method, update_interval
        )

    return cost
