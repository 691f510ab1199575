"""A learned factor of unit vectors."""

import math
import typing

import keras
from keras import ops

from keras_freetickets.arguments import check_number
from keras_freetickets.types import Config
from keras_freetickets.types import Tensor


@keras.saving.register_keras_serializable(package="keras_freetickets")
class LearnedScale(keras.layers.Layer):
    """Makes vectors of length 1 and multiplies them by a learned scale.

    The scale is `exp(a)` of one trained number, so that it stays positive; it
    is the inverse of a temperature. It ends one of two towers, whose products
    with the unit vectors of the other are then logits.

    Args:
        initial: Positive float, the first scale. Defaults to 1 / 0.07, and
            `maximum` to 100, as in CLIP.
        maximum: Positive float, at which the scale is clipped.
        **kwargs: As for `keras.layers.Layer`.

    Raises:
        ValueError: If `initial` or `maximum` is out of range.

    Example:

    ```python
    text = LearnedScale(initial=10.0)(layers.Dense(64)(x))
    image = keras.layers.UnitNormalization()(layers.Dense(64)(y))
    ```

    Reference:
        Radford et al., 2021, arXiv:2103.00020 (CLIP).
    """

    def __init__(
        self,
        initial: float = 1 / 0.07,
        maximum: float = 100.0,
        **kwargs: typing.Any,
    ) -> None:
        super().__init__(**kwargs)
        check_number("maximum", maximum, "(0, inf)")
        check_number("initial", initial, f"(0, {maximum}]")
        self.initial = float(initial)
        self.maximum = float(maximum)

    def build(self, input_shape: typing.Any) -> None:
        first = math.log(self.initial)
        self.log_scale = self.add_weight(
            name="log_scale",
            shape=(),
            initializer=keras.initializers.Constant(first),
        )

    @property
    def scale(self) -> Tensor:
        """The factor, a scalar tensor."""
        return ops.minimum(ops.exp(self.log_scale), self.maximum)

    def call(self, inputs: Tensor) -> Tensor:
        unit = ops.normalize(inputs, axis=-1)
        return ops.cast(self.scale, unit.dtype) * unit

    def compute_output_shape(self, input_shape: typing.Any) -> typing.Any:
        return input_shape

    def get_config(self) -> Config:
        own = {"initial": self.initial, "maximum": self.maximum}
        return {**super().get_config(), **own}
