"""DST-EE: grow by the gradient and by how rarely a connection was active."""

import typing

import numpy as np
from keras import ops

from keras_freetickets.arguments import check_number
from keras_freetickets.topology.kernel_view import KernelView
from keras_freetickets.topology.methods.registry import register
from keras_freetickets.topology.methods.rigl import RigL
from keras_freetickets.types import Config
from keras_freetickets.types import Tensor


@register("dst_ee", package="keras_freetickets")
class DSTEE(RigL):
    """Growth that balances exploitation and exploration.

    Absent connections are ranked by
    `|gradient| + exploration * ln(t) / (visits + epsilon)`. `t` is the number
    of optimizer updates, and `visits` the number of masks so far in which the
    connection was active. `exploration=0` equals RigL; a large value tries all
    connections in turn.

    Args:
        exploration: Non-negative float, the weight of the bonus. Defaults to
            1e-3 (the paper studies it; its value could not be verified).
        epsilon: Positive float. Defaults to 1 (not verified either).
        score_norm: `None` for the raw gradient (default), or `"layer"` to
            divide it by its mean over the layer, so that one `exploration`
            suits layers of any gradient scale (not in the paper).
        update_interval: Defaults to 100 (RigL's flag; DST-EE's own could not
            be verified).
        drop_fraction: Defaults to 0.3 (RigL's flag; not verified either).
        **kwargs: As in `RigL`. The method keeps an `int32` for each maskable
            weight.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    model.attach(DSTEE(exploration=1e-3, update_interval=100))
    ```

    Reference:
        Huang et al., 2023, arXiv:2211.16667.
    """

    settings_from_views = True
    connection_state = {"visits": "int32"}

    def __init__(
        self,
        exploration: float = 1e-3,
        epsilon: float = 1.0,
        score_norm: str | None = None,
        update_interval: int = 100,
        drop_fraction: typing.Any = 0.3,
        **kwargs: typing.Any,
    ) -> None:
        check_number("exploration", exploration, "[0, inf)")
        check_number("epsilon", epsilon, "(0, inf)")
        if score_norm not in (None, "layer"):
            raise ValueError(
                '`score_norm` must be None or "layer". '
                f"Received: score_norm={score_norm}"
            )
        super().__init__(update_interval, drop_fraction, **kwargs)
        self.exploration = float(exploration)
        self.epsilon = float(epsilon)
        self.score_norm = score_norm

    def grow_score(self, view: KernelView) -> Tensor:
        steepness = super().grow_score(view)
        if self.score_norm == "layer":
            steepness = steepness / ops.maximum(ops.mean(steepness), 1e-30)
        time = ops.log(ops.maximum(ops.cast(view.step, "float32"), 1.0))
        visits = ops.cast(view.state["visits"], "float32")
        return steepness + self.exploration * time / (visits + self.epsilon)

    def initial_state(self, mask: np.ndarray) -> dict[str, np.ndarray]:
        return {"visits": mask.astype("int32")}

    def after_update(
        self, state: dict[str, Tensor], mask: Tensor
    ) -> dict[str, Tensor]:
        visits = state["visits"] + ops.cast(mask, "int32")
        return {**state, "visits": visits}

    def get_config(self) -> Config:
        return {
            "exploration": self.exploration,
            "epsilon": self.epsilon,
            "score_norm": self.score_norm,
            **super().get_config(),
        }
