"""AGENT: gradients corrected by those at the start of the epoch."""

import typing

import numpy as np
from keras import ops

from keras_freetickets.arguments import check_number
from keras_freetickets.topology.methods.registry import register
from keras_freetickets.topology.methods.rigl import RigL
from keras_freetickets.types import Config
from keras_freetickets.types import Tensor


@register("agent", package="keras_freetickets")
class AGENT(RigL):
    """Sparse training with an adaptive gradient correction.

    The optimizer receives `g + scale * tau * (mean - g_snapshot)`. `g` is the
    gradient of the batch. `mean` and `g_snapshot` are the mean gradient of the
    data and the gradient of the batch, both at the weights of the start of the
    epoch. `tau` estimates how well the two gradients of a batch correlate.
    Growth uses the plain gradient. Entries with a mean or snapshot gradient
    that is not finite are not corrected.
    `keras_freetickets.callbacks.GradientSnapshots` takes the snapshots;
    callbacks that accept a method add it if they get the training `data`.

    Args:
        scale: Float in [0, 1], the factor of the correction. Defaults to 0.1
            (the released code).
        smoothing: Float in (0, 1], the weight of an epoch's new estimate of
            `tau`. Defaults to 0.3 (the released code).
        update_interval: Defaults to 100 (RigL's flag).
        drop_fraction: Defaults to 0.3 (RigL's flag).
        **kwargs: As in `RigL`, except for the defaults `rounding="ceil"` and
            `regrown="reset"` (the released code). The method keeps two floats
            for each trainable weight.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    agent = keras_freetickets.callbacks.AGENT(data=train)
    model.fit(train, epochs=250, callbacks=[agent])
    ```

    Reference:
        Lei et al., 2023, arXiv:2301.03573; StevenBoys/AGENT.
    """

    settings_from_views = True
    companions = ("GradientSnapshots",)
    defaults = {"rounding": "ceil", "regrown": "reset"}
    variable_state = ("snapshot", "mean_gradient")
    # The factor of the correction in this epoch, and the running estimate
    # (0.1 at first in the released code).
    scalar_state = {"correction": 0.0, "tau": 0.1, "snapshots": 0.0}

    def __init__(
        self,
        scale: float = 0.1,
        smoothing: float = 0.3,
        update_interval: int = 100,
        drop_fraction: typing.Any = 0.3,
        **kwargs: typing.Any,
    ) -> None:
        check_number("scale", scale)
        check_number("smoothing", smoothing, "(0, 1]", "0 never moves `tau`")
        super().__init__(update_interval, drop_fraction, **kwargs)
        self.scale = float(scale)
        self.smoothing = float(smoothing)

    def transform_gradients(
        self, gradients: list[Tensor], context: typing.Any
    ) -> list[Tensor]:
        at_snapshot = context.gradients_at(
            [v.value for v in context.state["snapshot"]]
        )
        factor = context.state["correction"].value
        means = [v.value for v in context.state["mean_gradient"]]
        return [
            _corrected(gradient, mean, old, factor)
            for gradient, mean, old in zip(
                gradients, means, at_snapshot, strict=True
            )
        ]

    def next_tau(
        self, tau: float, losses: np.ndarray, losses_at_snapshot: np.ndarray
    ) -> float:
        """Updates the running estimate after an epoch's pass over the data.

        Batches with a loss that is not finite do not count.

        Args:
            tau: Float, the estimate so far.
            losses: Array of the batches' losses now.
            losses_at_snapshot: Array of their losses at the last snapshot.

        Returns:
            Float, `(1 - smoothing) * tau + smoothing * Cov / Var`, or `tau` if
            the variance is zero or fewer than two batches count.
        """
        pairs = np.stack([losses, losses_at_snapshot])
        pairs = pairs[:, np.isfinite(pairs).all(axis=0)]
        if pairs.shape[1] < 2:
            return tau
        covariance = np.cov(pairs)
        if not covariance[1, 1] > 0:
            return tau
        estimate = covariance[0, 1] / covariance[1, 1]
        return (1.0 - self.smoothing) * tau + self.smoothing * estimate

    def get_config(self) -> Config:
        return {
            "scale": self.scale,
            "smoothing": self.smoothing,
            **super().get_config(),
        }


def _corrected(
    gradient: Tensor | None,
    mean: Tensor,
    at_snapshot: Tensor | None,
    factor: Tensor,
) -> Tensor | None:
    if gradient is None or at_snapshot is None:
        return gradient
    factor = ops.cast(factor, gradient.dtype)
    difference = ops.cast(mean, gradient.dtype) - at_snapshot
    # One gradient that is not finite would spoil the mean of an epoch.
    difference = ops.where(ops.isfinite(difference), difference, 0.0)
    return gradient + factor * ops.cast(difference, gradient.dtype)
