"""Attention of whose projections only the active weights exist."""

import typing

import keras

from keras_freetickets import keras_adapter
from keras_freetickets.arguments import check_count
from keras_freetickets.layers.compressed_dense import CompressedEinsumDense
from keras_freetickets.layers.compressed_kernels import CompressedKernel
from keras_freetickets.layers.compressed_kernels import CompressesKernels
from keras_freetickets.layers.compressed_kernels import check_compressible
from keras_freetickets.layers.compressed_kernels import check_float32
from keras_freetickets.types import Array
from keras_freetickets.types import Config
from keras_freetickets.types import Layer


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
        check_compressible(cls, layer, masks)
        dense_layers = cls.dense_layers_of(layer)
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
