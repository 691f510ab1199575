"""Layers that compute at full or at reduced resolution."""

import contextlib
import contextvars
import typing
from collections.abc import Iterator

import keras

from keras_freetickets.arguments import check_choice
from keras_freetickets.resolution.pooling import GAINS
from keras_freetickets.resolution.pooling import pool_kernel
from keras_freetickets.resolution.pooling import pooled_size
from keras_freetickets.types import Config
from keras_freetickets.types import Tensor

_reduced: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "reduced", default=False
)


@contextlib.contextmanager
def reduced() -> Iterator[None]:
    """Context in which reducible layers compute at reduced resolution.

    It decides about a call while it is traced: functions that were compiled
    before stay as they are (`predict`, a `tf.function`).

    Example:

    ```python
    with kft.resolution.reduced():
        y = model(kft.resolution.downsample(x))
    ```
    """
    token = _reduced.set(True)
    try:
        yield
    finally:
        _reduced.reset(token)


def is_reduced() -> bool:
    """Whether reducible layers compute at reduced resolution now.

    Layers of your own can ask it in `call`.

    Example:

    >>> with reduced():
    ...     is_reduced()
    True
    """
    return _reduced.get()


@keras.saving.register_keras_serializable(package="keras_freetickets")
class ReducibleConv2D(keras.layers.Conv2D):
    """A `Conv2D` that computes with a pooled kernel at reduced resolution.

    Within `kft.resolution.reduced()` its kernel is `pool_kernel(kernel, gain)`
    and its strides, padding, bias and activation stay the same. Otherwise it
    is a `Conv2D`.

    Args:
        *args: As for `keras.layers.Conv2D`.
        gain: As for `pool_kernel`.
        **kwargs: As for `keras.layers.Conv2D`.

    Raises:
        ValueError: If `gain` is unknown, or in a call at reduced resolution if
            the image is smaller than the pooled kernel.

    Example:

    ```python
    ReducibleConv2D(32, 3, padding="same", gain="area")
    ```
    """

    def __init__(
        self, *args: typing.Any, gain: str = "area", **kwargs: typing.Any
    ) -> None:
        check_choice("gain", gain, GAINS)
        super().__init__(*args, **kwargs)
        self.gain = gain

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        if not is_reduced():
            return super().convolution_op(inputs, kernel)
        self._check_size(inputs.shape)
        # Masked weights are zero, so that the mask comes before the pooling.
        return super().convolution_op(inputs, pool_kernel(kernel, self.gain))

    def _check_size(self, shape: typing.Any) -> None:
        first = 2 if self.data_format == "channels_first" else 1
        sides = shape[first : first + 2]
        needed = [
            (pooled_size(taps) - 1) * rate + 1
            for taps, rate in zip(
                self.kernel_size, self.dilation_rate, strict=True
            )
        ]
        small = any(
            side is not None and side < size
            for side, size in zip(sides, needed, strict=True)
        )
        if small and self.padding == "valid":
            raise ValueError(
                f"Layer '{self.name}' needs images of {needed} pixels or more "
                "at half the resolution, for its pooled kernel. Train on "
                "larger images, or with padding='same'. Received: images of "
                f"{list(sides)} pixels"
            )

    def get_config(self) -> Config:
        return {**super().get_config(), "gain": self.gain}


_STATISTICS = (
    "moving_mean",
    "moving_variance",
    "moving_stddev",
    "renorm_mean",
    "renorm_stddev",
)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class ReducibleBatchNormalization(keras.layers.BatchNormalization):
    """A `BatchNormalization` with statistics of their own for each resolution.

    Within `kft.resolution.reduced()` it reads and updates a second set of
    moving statistics; `gamma` and `beta` are shared. Otherwise it is a
    `BatchNormalization`, whose statistics only full batches change.

    Args:
        *args: As for `keras.layers.BatchNormalization`.
        **kwargs: As for `keras.layers.BatchNormalization`.

    Example:

    ```python
    ReducibleBatchNormalization(momentum=0.9)
    ```
    """

    def __init__(self, *args: typing.Any, **kwargs: typing.Any) -> None:
        super().__init__(*args, **kwargs)

    def build(self, input_shape: typing.Any) -> None:
        super().build(input_shape)
        for name in self._statistics():
            full = getattr(self, name)
            mean = name.endswith("mean")
            variable = self.add_weight(
                name=f"reduced_{name}",
                shape=full.shape,
                initializer="zeros" if mean else "ones",
                dtype=full.dtype,
                trainable=False,
                autocast=False,
            )
            setattr(self, f"reduced_{name}", variable)

    def _statistics(self) -> list[str]:
        return [n for n in _STATISTICS if getattr(self, n, None) is not None]

    def call(
        self,
        inputs: Tensor,
        training: bool | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        if not is_reduced():
            return super().call(inputs, training=training, mask=mask)
        with self._other_statistics():
            return super().call(inputs, training=training, mask=mask)

    @contextlib.contextmanager
    def _other_statistics(self) -> Iterator[None]:
        # Keras' own `call` computes on the second set. It is exchanged in the
        # dict, because Keras tracks what is set as an attribute.
        held: dict[str, typing.Any] = self.__dict__
        full = {name: held[name] for name in self._statistics()}
        try:
            for name in full:
                held[name] = held[f"reduced_{name}"]
            yield
        finally:
            held.update(full)
