"""AGENT: drop-and-grow whose gradients are corrected by snapshots."""

import typing

from keras_freetickets.callbacks.drop_and_grow import DropAndGrow
from keras_freetickets.callbacks.drop_and_grow import method_of_kind
from keras_freetickets.topology import methods


class AGENT(DropAndGrow):
    """`DropAndGrow` with AGENT: gradients corrected by a snapshot's.

    The snapshots are taken by `GradientSnapshots`, whose docstring says how.
    An epoch costs about 3.3 times a plain one: 2 gradients and 1 loss of each
    batch more.

    In a loop of your own call `set_model(model)` once and
    `on_epoch_begin(epoch)` before each epoch.

    Args:
        data: As for `GradientSnapshots`.
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

    forwards_to = methods.AGENT

    def __init__(
        self,
        data: typing.Any,
        method: methods.AGENT | None = None,
        track_ever_active: bool = False,
        **kwargs: typing.Any,
    ) -> None:
        found = method_of_kind(methods.AGENT, method, kwargs)
        super().__init__(found, track_ever_active, data=data)
