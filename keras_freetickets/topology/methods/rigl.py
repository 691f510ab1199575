"""RigL, which grows where the gradient is large, and the settings of ITOP."""

import typing

from keras_freetickets.arguments import is_integer
from keras_freetickets.topology import schedules
from keras_freetickets.topology.methods.method import Method
from keras_freetickets.topology.methods.registry import register
from keras_freetickets.types import Config


@register("rigl", package="keras_freetickets")
class RigL(Method):
    """Drop by magnitude, grow by the dense gradient.

    In the paper the drop fraction decays along a cosine, and updates stop
    after 75 % of the optimizer updates. Both need the length of the run, so the
    defaults here are those of RigL's code: a constant and no end. The example
    shows the paper's settings for a run of 100,000 updates.

    Args:
        update_interval: Defaults to 100 (RigL's flag).
        drop_fraction: Float in [0, 1] or a schedule. Defaults to 0.3 (RigL's
            flag, also constant).
        **kwargs: As in `Method`, except for the defaults `rounding="floor"`
            and `apply_on_update=False` (RigL's code).

    Raises:
        ValueError: As for `Method`.

    Example:

    ```python
    steps = 100_000 * 3 // 4
    cosine = schedules.Cosine(0.3, decay_steps=steps)
    method = RigL(update_interval=100, drop_fraction=cosine, stop_step=steps)
    model.attach(method)
    ```

    Reference:
        Evci et al., 2020, arXiv:1911.11134; google-research/rigl.
    """

    defaults = {"rounding": "floor", "apply_on_update": False}
    settings_from_views = True

    def __init__(
        self,
        update_interval: int = 100,
        drop_fraction: typing.Any = 0.3,
        **kwargs: typing.Any,
    ) -> None:
        kwargs = {**self.defaults, **kwargs}
        super().__init__(update_interval, drop_fraction, **kwargs)


@register("itop", package="keras_freetickets")
class ITOP(Method):
    """In-time over-parameterization: rare updates until the end.

    The goal is a large share of weights that were active at least once (R_s).
    The interval is long, so that new connections can train, and updates never
    stop.

    Args:
        total_steps: Positive integer, optimizer updates of the training, over
            which the drop fraction decays.
        growth: `"random"` (SET-ITOP, default) or `"gradient"` (RigL-ITOP).
        update_interval: `None` for ITOP's 1500 with random and 4000 with
            gradient growth, at batches of 128.
        drop_fraction: `None` for a cosine from 0.5 to 0.005 (defaults of
            ITOP's code); as in `Method` otherwise.
        **kwargs: As in `Method`.

    Raises:
        ValueError: If `total_steps` is not a positive integer; as for `Method`.

    Example:

    ```python
    method = ITOP(total_steps=88_000, growth="gradient")
    ```

    Reference:
        Liu et al., 2021, arXiv:2102.02887;
        Shiweiliuiiiiiii/In-Time-Over-Parameterization.
    """

    settings_from_views = True

    def __init__(
        self,
        total_steps: int,
        growth: typing.Any = "random",
        update_interval: int | None = None,
        drop_fraction: typing.Any = None,
        **kwargs: typing.Any,
    ) -> None:
        if not is_integer(total_steps) or total_steps < 1:
            raise ValueError(
                "`total_steps` must be a positive number of optimizer "
                f"updates. Received: total_steps={total_steps}"
            )
        self.total_steps = int(total_steps)
        if update_interval is None:
            update_interval = 1500 if growth == "random" else 4000
        if drop_fraction is None:
            drop_fraction = schedules.Cosine(0.5, total_steps, minimum=0.005)
        super().__init__(
            update_interval, drop_fraction, growth=growth, **kwargs
        )

    def get_config(self) -> Config:
        return {"total_steps": self.total_steps, **super().get_config()}
