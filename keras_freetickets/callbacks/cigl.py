"""CigL: a random second mask, and averaging of late weights."""

import typing

from keras_freetickets.callbacks.drop_and_grow import DropAndGrow
from keras_freetickets.callbacks.drop_and_grow import method_of_kind
from keras_freetickets.callbacks.weight_averaging import WeightAveraging
from keras_freetickets.topology import methods


class CigL(DropAndGrow):
    """Calibrated sparse training: a random second mask, and averaging.

    Every step masks a few active weights at random. From `start_epoch` on,
    the masked weights are averaged, and at the end of training the model
    receives the average. Validation during training uses the current weights,
    not the average.

    Args:
        start_epoch: Non-negative integer, the first epoch to be averaged,
            counted from 0. The topology should no longer change then. The
            released code starts with the 200th of 250 epochs, which is 199.
        data: Training data for the statistics of batch normalization, as for
            `keras_freetickets.reestimate_batch_normalization`.
        votes_per_epoch: Positive integer, how often per epoch the weights are
            added to the average. Defaults to 1 (paper).
        track_ever_active: As for `DropAndGrow`.
        method: A `keras_freetickets.topology.CigL`. `None` to make one from
            `**kwargs`.
        **kwargs: As for `keras_freetickets.topology.CigL`: `random_drop`,
            `update_interval`, `drop_fraction`, `stop_step` ...

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    # The topology rests from update 66,000 on, before the average begins.
    cigl = CigL(start_epoch=199, data=train, random_drop=0.1, stop_step=66_000)
    cigl.averaging  # the WeightAveraging
    model.fit(train, epochs=250, callbacks=[cigl])
    ```

    Reference:
        Lei et al., 2023, arXiv:2302.09369.
    """

    forwards_to = methods.CigL

    def __init__(
        self,
        start_epoch: int,
        data: typing.Any = None,
        votes_per_epoch: int = 1,
        track_ever_active: bool = False,
        method: methods.CigL | None = None,
        **kwargs: typing.Any,
    ) -> None:
        found = method_of_kind(methods.CigL, method, kwargs)
        self.averaging = WeightAveraging(start_epoch, data, votes_per_epoch)
        super().__init__(found, track_ever_active, companions=[self.averaging])
