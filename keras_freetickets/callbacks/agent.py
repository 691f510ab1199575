"""AGENT: drop-and-grow with gradients corrected by snapshots."""

import typing

from keras_freetickets.callbacks.drop_and_grow import DropAndGrow
from keras_freetickets.callbacks.drop_and_grow import method_of_kind
from keras_freetickets.topology import methods


class AGENT(DropAndGrow):
    """`DropAndGrow` with AGENT: gradients corrected by snapshots.

    `GradientSnapshots` takes the snapshots; its docstring says how. An epoch
    costs about 3.3 times a plain one, because each batch needs 2 additional
    gradients and 1 additional loss.

    In a custom training loop call `set_model(model)` once and
    `on_epoch_begin(epoch)` before each epoch.

    Args:
        data: As for `GradientSnapshots`.
        method: A `keras_freetickets.topology.AGENT`. `None` to make one from
            `**kwargs`.
        track_ever_active: As for `DropAndGrow`.
        **kwargs: As for `keras_freetickets.topology.AGENT`.

    Raises:
        ValueError: If the data can be iterated only once, is empty or is not
            in batches.

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
