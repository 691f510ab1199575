"""CigL: a random mask in addition to the deterministic one."""

import typing

from keras import ops

from keras_freetickets.arguments import check_number
from keras_freetickets.topology.kernel_view import KernelView
from keras_freetickets.topology.methods.registry import register
from keras_freetickets.topology.methods.rigl import RigL
from keras_freetickets.topology.randomness import random_bits
from keras_freetickets.types import Config
from keras_freetickets.types import Tensor

# Separates these random bits from those of ties, whose indices are small.
_STREAM = 1 << 20


@register("cigl", package="keras_freetickets")
class CigL(RigL):
    """RigL that masks random active weights in each step.

    In every step each active weight is 0 in the forward pass with probability
    `random_drop`; the step does not change a weight that is masked. Nothing is
    rescaled. Late in training, when the masks no longer change, the weights of
    the forward passes are averaged over epochs.
    `keras_freetickets.callbacks.CigL` does both.

    The released code differs: there, masked weights receive the optimizer's
    step, so they are not exactly zero in the forward pass, as they are here
    and in the paper.

    Args:
        random_drop: Float in [0, 1), the probability that a weight is masked
            in a step. Defaults to 0.01 (constant in the released code); the
            paper's example is 0.1.
        update_interval: Defaults to 100 (CigL's configuration).
        drop_fraction: Defaults to 0.3 (CigL's configuration, along
            `schedules.Cosine(0.3, stop_step)`).
        **kwargs: As in `RigL`, except for the defaults `rounding="ceil"` and
            `regrown="reset"` (the released code). `stop_step` is 75 % of the
            training in the released code.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    model.attach(CigL(random_drop=0.1, stop_step=66_000))
    ```

    Reference:
        Lei et al., 2023, arXiv:2302.09369; StevenBoys/CigL.
    """

    settings_from_views = True
    companions = ("WeightAveraging",)
    defaults = {"rounding": "ceil", "regrown": "reset"}

    def __init__(
        self,
        random_drop: float = 0.01,
        update_interval: int = 100,
        drop_fraction: typing.Any = 0.3,
        **kwargs: typing.Any,
    ) -> None:
        check_number(
            "random_drop",
            random_drop,
            "[0, 1)",
            "the probability for a weight to be switched off in a step",
        )
        super().__init__(update_interval, drop_fraction, **kwargs)
        self.random_drop = float(random_drop)

    def stays(self, view: KernelView) -> Tensor:
        """Boolean tensor: the weights that are not masked in this step."""
        number = _STREAM + view.kernel_index
        bits = random_bits(
            tuple(view.kernel.shape), view.seed, view.step, number
        )
        least = ops.cast(int(self.random_drop * 2**32), "uint32")
        return bits >= least

    def forward_kernels(self, views: list[KernelView]) -> list[Tensor]:
        return [ops.where(self.stays(view), view.kernel, 0.0) for view in views]

    def transform_gradients(
        self, gradients: list[Tensor], context: typing.Any
    ) -> list[Tensor]:
        gradients = list(gradients)
        for place, view in zip(
            context.gradient_indices, context.views, strict=True
        ):
            gradients[place] = ops.where(self.stays(view), gradients[place], 0)
        return gradients

    def after_apply(
        self, old: list[Tensor], new: list[Tensor], views: list[KernelView]
    ) -> list[Tensor]:
        stays = [self.stays(view) for view in views]
        return [
            ops.where(s, b, a) for s, a, b in zip(stays, old, new, strict=True)
        ]

    def get_config(self) -> Config:
        return {"random_drop": self.random_drop, **super().get_config()}
