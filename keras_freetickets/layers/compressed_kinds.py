"""The layers that can be compressed, and those that compute in their place."""

import typing

import keras

from keras_freetickets import keras_adapter
from keras_freetickets.arguments import check_count
from keras_freetickets.layers.compressed import Compressed
from keras_freetickets.layers.compressed import CompressedKernel
from keras_freetickets.layers.compressed import CompressesKernels
from keras_freetickets.layers.compressed import check_float32
from keras_freetickets.layers.compressed_convolution import CompressedConv2D
from keras_freetickets.types import Array
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


class _CompressedAttention(CompressesKernels):
    """What compressed attentions have in common; see those.

    The attention is that of Keras, which it projects for by
    `CompressedEinsumDense` layers.

    Args:
        *args: As for the attention of Keras.
        active: Dict from the names of the projections to numbers.
        **kwargs: As for the attention of Keras.
    """

    keras_class: typing.Any

    def __init__(
        self, *args: typing.Any, active: dict[str, int], **kwargs: typing.Any
    ) -> None:
        for name, count in active.items():
            check_count(f"active[{name!r}]", count)
        super().__init__(*args, **kwargs)
        check_float32(self)
        self.active = dict(active)

    @classmethod
    def dense_layers_of(cls, layer: Layer) -> list[Layer]:
        """As for `CompressesKernels`: the projections."""
        return keras_adapter.attention_projections(layer)

    @classmethod
    def reason_against(cls, layer: Layer) -> str:
        """As for `CompressesKernels`; one projection is enough against it."""
        for dense in cls.dense_layers_of(layer):
            reason = CompressedEinsumDense.reason_against(dense)
            if reason:
                return f"in projection '{dense.name}', {reason}"
        return ""

    @classmethod
    def from_dense(
        cls,
        layer: Layer,
        masks: dict[str, Array],
        active: dict[str, int] | None = None,
        **kwargs: typing.Any,
    ) -> typing.Self:
        """A compressed attention that computes what a dense one does.

        Args:
            layer: A built attention whose projections' kernels are zero
                outside the masks.
            masks: Dict from the names of the projections to boolean arrays of
                their kernels' shapes.
            active: Dict from these names to integers, for how many weights
                there is room. `None` for as many as the masks have.
            **kwargs: Arguments of the layer; by default those of `layer`.

        Returns:
            A built layer.

        Raises:
            ValueError: If the masks do not fit the kernels, a kernel holds
                something outside its mask, or the layer has what compressed
                ones have not.
        """
        reason = cls.reason_against(layer)
        if reason:
            raise ValueError(
                f"`layer` cannot be compressed, as {reason}: use "
                f"storage='mask'. Received: layer={layer.name!r}"
            )
        dense_layers = cls.dense_layers_of(layer)
        shapes = {d.name: tuple(d.kernel.shape) for d in dense_layers}
        given = {name: tuple(mask.shape) for name, mask in masks.items()}
        if given != shapes:
            raise ValueError(
                "`masks` must have a mask of the kernel's shape for each "
                f"projection: {shapes}. Received: shapes {given}"
            )
        if active is None:
            active = {name: int(mask.sum()) for name, mask in masks.items()}
        config = {**layer.get_config(), "active": active, **kwargs}
        compressed = cls.from_config(config)
        compressed.build_from_config(layer.get_build_config())
        pairs = zip(compressed.kernel_layers, dense_layers, strict=True)
        for part, dense in pairs:
            part.take_weights(dense, masks[dense.name])
            _copy_flags(dense, part)
        return compressed

    @classmethod
    def from_masks(
        cls,
        layer: Layer,
        masks: list[Array],
        rooms: list[int],
        **kwargs: typing.Any,
    ) -> typing.Self:
        """As for `CompressesKernels`."""
        names = [dense.name for dense in cls.dense_layers_of(layer)]
        by_name = dict(zip(names, masks, strict=True))
        active = dict(zip(names, rooms, strict=True))
        return cls.from_dense(layer, by_name, active, **kwargs)

    def to_dense(self) -> Layer:
        """As for `CompressesKernels`."""
        config = self.get_config()
        del config["active"]
        layer = self.keras_class.from_config(config)
        layer.build_from_config(self.get_build_config())
        pairs = zip(
            self.kernel_layers, self.dense_layers_of(layer), strict=True
        )
        for part, dense in pairs:
            part.give_weights(dense)
            _copy_flags(part, dense)
        return layer

    def build(
        self,
        query_shape: typing.Any,
        value_shape: typing.Any,
        key_shape: typing.Any = None,
    ) -> None:
        """As for the attention of Keras.

        Args:
            query_shape: Shape of the queries.
            value_shape: Shape of the values.
            key_shape: Shape of the keys; `None` for that of the values.

        Raises:
            ValueError: If `active` does not have a number for each projection.
        """
        super().build(query_shape, value_shape, key_shape)
        names = [dense.name for dense in self.kernel_layers]
        if sorted(names) != sorted(self.active):
            raise ValueError(
                f"`active` must have a number for each projection, {names}. "
                f"Received: active={dict(self.active)}"
            )
        keras_adapter.replace_projections(self, self._compressed)

    def _compressed(self, dense):
        part = CompressedEinsumDense.like(
            dense, self.active[dense.name], dtype=dense.dtype_policy
        )
        for record in part.masked_kernels:
            record.name = f"{self.name}/{dense.name}/kernel"
        return part

    @property
    def kernel_layers(self) -> list[typing.Any]:
        """List of the projections, `CompressedEinsumDense` layers."""
        return self.dense_layers_of(self)

    @property
    def masked_kernels(self) -> list[CompressedKernel]:
        """List with the `CompressedKernel` of each projection."""
        return [r for part in self.kernel_layers for r in part.masked_kernels]

    def get_config(self) -> Config:
        return {**super().get_config(), "active": dict(self.active)}


def _copy_flags(layer, other):
    """Freezes a dense or compressed projection if the other one is frozen."""
    keras_adapter.set_trainable(other, layer.trainable)
    trained = map(keras_adapter.own_trained, (layer, other))
    for variable, twin in zip(*trained, strict=True):  # kernel and bias
        twin.trainable = variable.trainable


@keras.saving.register_keras_serializable(package="keras_freetickets")
class CompressedMultiHeadAttention(
    _CompressedAttention, keras.layers.MultiHeadAttention
):
    """`keras.layers.MultiHeadAttention` with compressed projections.

    Of the kernels that make queries, keys, values and the output, and of that
    of the gate if there is one, only the active weights exist. The attention
    itself is that of Keras. Whether it is flash attention is set by
    `keras.config.enable_flash_attention`, as in every copy by Keras, whose
    config of the layer does not have the argument.

    Args:
        *args: As for `keras.layers.MultiHeadAttention`: `num_heads`,
            `key_dim` and so on.
        active: Dict from the names of the projections, `"query"`, `"key"`,
            `"value"`, `"attention_output"` and `"gate"` if `use_gate`, to
            positive integers: for how many active weights there is room.
        **kwargs: As for `keras.layers.MultiHeadAttention`.

    Raises:
        ValueError: If a count is not a positive integer, or the dtype policy
            does not compute in float32.

    Example:

    ```python
    masks = {
        dense.name: keras.ops.convert_to_numpy(dense.kernel) != 0
        for dense in (
            attention.query_dense,
            attention.key_dense,
            attention.value_dense,
            attention.output_dense,
        )
    }
    compressed = CompressedMultiHeadAttention.from_dense(attention, masks)
    compressed(x, x)  # as attention(x, x)
    ```
    """

    keras_class = keras.layers.MultiHeadAttention


@keras.saving.register_keras_serializable(package="keras_freetickets")
class CompressedGroupQueryAttention(
    _CompressedAttention, keras.layers.GroupQueryAttention
):
    """`keras.layers.GroupQueryAttention` with compressed projections.

    As `CompressedMultiHeadAttention`, of an attention in which several heads
    share keys and values.

    Args:
        *args: As for `keras.layers.GroupQueryAttention`: `head_dim`,
            `num_query_heads`, `num_key_value_heads` and so on.
        active: Dict, as for `CompressedMultiHeadAttention`.
        **kwargs: As for `keras.layers.GroupQueryAttention`.

    Raises:
        ValueError: If a count is not a positive integer, or the dtype policy
            does not compute in float32.

    Example:

    ```python
    compressed = CompressedGroupQueryAttention.from_dense(attention, masks)
    ```
    """

    keras_class = keras.layers.GroupQueryAttention


_KINDS: dict[type, type[CompressesKernels]] = {
    keras.layers.Dense: CompressedDense,
    keras.layers.EinsumDense: CompressedEinsumDense,
    keras.layers.Conv2D: CompressedConv2D,
    keras.layers.MultiHeadAttention: CompressedMultiHeadAttention,
    keras.layers.GroupQueryAttention: CompressedGroupQueryAttention,
}


def compressed_kind(layer: Layer) -> type[CompressesKernels] | None:
    """The class of compressed layers that stands for a layer.

    A subclass of Keras' layer may compute something else, so that there is
    none for it.

    Args:
        layer: A Keras layer.
    """
    return _KINDS.get(type(layer))


def reason_against(layer: Layer) -> str:
    """Why a built layer cannot be compressed, "" if it can.

    Args:
        layer: A Keras layer.
    """
    kind = compressed_kind(layer)
    if kind is None:
        return f"there is no compressed {type(layer).__name__}"
    return kind.reason_against(layer)
