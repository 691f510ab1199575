"""Dense layers of which only the active weights exist."""

import typing

import keras

from keras_freetickets.arguments import check_count
from keras_freetickets.layers.compressed import Compressed
from keras_freetickets.types import Config
from keras_freetickets.types import Layer


@keras.saving.register_keras_serializable(package="keras_freetickets")
class CompressedDense(Compressed):
    """`keras.layers.Dense` of which only the active weights exist.

    The trainable variable is `values`, of shape `(active,)`, so that gradients
    and the slots of any optimizer are of that size. It runs on processors, in
    float32, on TensorFlow without XLA and on JAX.

    Args:
        units: Positive integer, the outputs.
        active: Positive integer, the number of active weights. Fewer may be
            active later, as in a ramp; there is room for this many.
        activation: As for `keras.layers.Dense`. `"relu"` is computed within
            the product.
        use_bias: Whether there is a bias.
        **kwargs: As for `keras.layers.Dense`.

    Raises:
        ValueError: If a count is not a positive integer, or the dtype policy
            does not compute in float32.

    Example:

    ```python
    compressed = CompressedDense.from_dense(dense, mask)
    compressed(x)  # as dense(x), whose kernel is zero outside the mask
    ```
    """

    def __init__(
        self,
        units: int,
        active: int,
        activation: typing.Any = None,
        use_bias: bool = True,
        **kwargs: typing.Any,
    ) -> None:
        check_count("units", units)
        super().__init__(active, activation, use_bias, **kwargs)
        self.units = units

    def _kernel_axes(self, input_shape: tuple) -> tuple[tuple, tuple]:
        return (int(input_shape[-1]),), (self.units,)

    @classmethod
    def _arguments_of(cls, layer: Layer) -> dict[str, typing.Any]:
        arguments = super()._arguments_of(layer)
        arguments["use_bias"] = layer.use_bias
        return {**arguments, "units": layer.units}

    def dense_layer(self) -> Layer:
        layer = keras.layers.Dense(**self._shared_arguments())
        layer.build((None, self.num_inputs))
        return layer

    def get_config(self) -> Config:
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable(package="keras_freetickets")
class CompressedEinsumDense(Compressed):
    """`keras.layers.EinsumDense` of which only the active weights exist.

    The equation must be a product of matrices: the last axes of the input
    with the first ones of the kernel, in their order, as in `"abc,cd->abd"`,
    `"...x,xy->...y"` and an attention's `"abc,cde->abde"`.

    Args:
        equation: As for `keras.layers.EinsumDense`.
        output_shape: As for `keras.layers.EinsumDense`.
        active: Positive integer, the number of active weights.
        activation: As for `keras.layers.EinsumDense`.
        bias_axes: `None`, or the axes of the output that the kernel makes.
        **kwargs: As for `keras.layers.EinsumDense`.

    Raises:
        ValueError: If the equation is another, a count is not a positive
            integer, or the dtype policy does not compute in float32.

    Example:

    ```python
    compressed = CompressedEinsumDense.from_dense(einsum_dense, mask)
    ```
    """

    def __init__(
        self,
        equation: str,
        output_shape: typing.Any,
        active: int,
        activation: typing.Any = None,
        bias_axes: str | None = None,
        **kwargs: typing.Any,
    ) -> None:
        axes = _matrix_axes(equation)
        if axes is None or bias_axes not in (None, axes[1]):
            raise ValueError(
                "`equation` must be a product of the last axes of the input "
                "with the first ones of the kernel, with a bias for all axes "
                "that the kernel makes: for another use storage='mask'. "
                f"Received: equation={equation!r}, bias_axes={bias_axes!r}"
            )
        super().__init__(active, activation, bias_axes is not None, **kwargs)
        given = output_shape
        given = (given,) if isinstance(given, int) else tuple(given)
        self.equation, self.partial_output_shape = equation, given
        self.bias_axes = bias_axes
        self._axes = axes

    @classmethod
    def reason_against(cls, layer: Layer) -> str:
        """As for `Compressed`; the equation counts too."""
        axes = _matrix_axes(layer.equation)
        if axes is None:
            return "its equation is not a product of matrices"
        if layer.bias_axes not in (None, axes[1]):
            return "its bias has other axes than its outputs"
        return super().reason_against(layer)

    def _kernel_axes(self, input_shape: tuple) -> tuple[tuple, tuple]:
        ins, outs = map(len, self._axes)
        shape = input_shape[len(input_shape) - ins :]
        made = self.partial_output_shape[-outs:]
        return tuple(map(int, shape)), tuple(map(int, made))

    @classmethod
    def _input_shape_of(cls, layer):
        ins, _ = _matrix_axes(layer.equation) or ("", "")
        return (None, *layer.kernel.shape[: len(ins)])

    @classmethod
    def _arguments_of(cls, layer: Layer) -> dict[str, typing.Any]:
        return {
            **super()._arguments_of(layer),
            "equation": layer.equation,
            "output_shape": layer.partial_output_shape,
            "bias_axes": layer.bias_axes,
        }

    def dense_layer(self) -> Layer:
        layer = keras.layers.EinsumDense(**self._shared_arguments())
        ins, outs = map(len, self._axes)
        before = self.partial_output_shape[:-outs]
        layer.build((None, *before, *self.kernel_shape[:ins]))
        return layer

    def get_config(self) -> Config:
        config = super().get_config()
        del config["use_bias"]
        return {
            **config,
            "equation": self.equation,
            "output_shape": self.partial_output_shape,
            "bias_axes": self.bias_axes,
        }


def _matrix_axes(equation: str) -> tuple[str, str] | None:
    """Letters of a kernel's inputs and outputs, if it is a matrix."""
    operands, _, output = equation.replace(" ", "").partition("->")
    operand, _, kernel = operands.partition(",")
    letters = [axis for axis in kernel if axis in operand]
    ins = "".join(letters)
    outs = kernel[len(ins) :]
    prefix = operand[: -len(ins)] if ins else ""
    fits = (
        ins
        and outs
        and kernel == ins + outs
        and operand == prefix + ins
        and output == prefix + outs
    )
    return (ins, outs) if fits and prefix else None
