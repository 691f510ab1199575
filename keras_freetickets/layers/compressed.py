"""Layers that hold and compute with the active weights of a kernel alone."""

import math
import typing

import keras
import numpy as np
from keras import activations
from keras import constraints
from keras import initializers
from keras import ops
from keras import regularizers

from keras_freetickets import keras_adapter
from keras_freetickets.arguments import check_count
from keras_freetickets.kernels import structure as structures
from keras_freetickets.layers import taps
from keras_freetickets.layers.compressed_kernels import CompressedKernel
from keras_freetickets.layers.compressed_kernels import CompressesKernels
from keras_freetickets.layers.compressed_kernels import bridge
from keras_freetickets.layers.compressed_kernels import check_compressible
from keras_freetickets.layers.compressed_kernels import check_float32
from keras_freetickets.types import Array
from keras_freetickets.types import Config
from keras_freetickets.types import Layer
from keras_freetickets.types import Tensor

# Regularizers that add up what each weight costs: absent ones cost nothing.
_ENTRYWISE = (regularizers.L1, regularizers.L2, regularizers.L1L2)


class Compressed(CompressesKernels, keras.layers.Layer):
    """A layer whose kernel is compressed: what all of them have in common.

    The trainable variable is `values`, of shape `(active,)`, so that gradients
    and the slots of any optimizer are of that size. Where the weights are is
    held in variables that no optimizer trains.

    It runs on processors, on TensorFlow in graphs that XLA does not compile
    and on JAX, in float32. Sums are in another order than a dense product's,
    so that outputs equal a masked layer's to float32's rounding.

    A subclass says of its kernel `(..., ...)` how many axes are inputs.

    Args:
        active: Positive integer, the number of active weights. Fewer may be
            active later, as in a ramp; there is room for this many.
        activation: As for `keras.layers.Dense`. `"relu"` is computed within
            the product.
        use_bias: Whether there is a bias.
        kernel_initializer: As for `keras.layers.Dense`; what `strip` hands
            back. Values come from `set_structure`.
        bias_initializer: As for `keras.layers.Dense`.
        kernel_regularizer: As for `keras.layers.Dense`: one that adds up what
            each weight costs.
        bias_regularizer: As for `keras.layers.Dense`.
        bias_constraint: As for `keras.layers.Dense`.
        **kwargs: As for `keras.layers.Layer`.

    Raises:
        ValueError: If a count is not a positive integer, or the dtype policy
            does not compute in float32.
    """

    # Keras then compiles no model that has one by XLA unless told to.
    supports_jit = False

    def __init__(
        self,
        active: int,
        activation: typing.Any = None,
        use_bias: bool = True,
        kernel_initializer: typing.Any = "glorot_uniform",
        bias_initializer: typing.Any = "zeros",
        kernel_regularizer: typing.Any = None,
        bias_regularizer: typing.Any = None,
        bias_constraint: typing.Any = None,
        **kwargs: typing.Any,
    ) -> None:
        check_count("active", active)
        super().__init__(**kwargs)
        check_float32(self)
        self.active = active
        self.activation = activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.bias_constraint = constraints.get(bias_constraint)
        self.supports_jit = keras.backend.backend() == "jax"
        self.supports_masking = True
        self._kernels: list[CompressedKernel] = []

    def _kernel_axes(self, input_shape: tuple) -> tuple[tuple, tuple]:
        """Shapes of the kernel's inputs and outputs."""
        raise NotImplementedError  # abstract

    @classmethod
    def reason_against(cls, layer: Layer) -> str:
        """As for `CompressesKernels`."""
        regularizer = layer.kernel_regularizer
        if layer.kernel_constraint is not None:
            return "its kernel has a constraint"
        if regularizer is not None and type(regularizer) not in _ENTRYWISE:
            return "its kernel's regularizer is not a sum over weights"
        if getattr(layer, "lora_enabled", False):
            return "it has LoRA"
        if (layer.compute_dtype, layer.variable_dtype) != ("float32",) * 2:
            return "it does not compute in float32"
        return ""

    def dense_layer(self) -> Layer:
        """The dense layer of the same outputs, built, with zeros."""
        raise NotImplementedError  # abstract

    @classmethod
    def _arguments_of(cls, layer: Layer) -> dict[str, typing.Any]:
        """Arguments that say what a layer computes, but for its weights."""
        names = (
            "kernel_initializer",
            "bias_initializer",
            "kernel_regularizer",
            "bias_regularizer",
            "bias_constraint",
            "activity_regularizer",
            "activation",
            "name",
            "trainable",
        )
        return {name: getattr(layer, name) for name in names}

    @classmethod
    def from_dense(
        cls, layer: Layer, mask: Array, **kwargs: typing.Any
    ) -> typing.Self:
        """A compressed layer that computes what a dense one does.

        Args:
            layer: A built layer whose kernel is zero outside the mask.
            mask: Boolean array of the kernel's shape.
            **kwargs: Arguments of the layer; by default those of `layer`.

        Returns:
            A built layer.

        Raises:
            ValueError: If the mask does not fit the kernel, the kernel holds
                something outside it, or the layer has what compressed ones
                have not.
        """
        check_compressible(cls, layer, {layer.name: mask})
        compressed = cls.like(
            layer, **{"active": int(np.count_nonzero(mask)), **kwargs}
        )
        compressed.take_weights(layer, mask)
        return compressed

    @classmethod
    def from_masks(
        cls,
        layer: Layer,
        masks: list[Array],
        rooms: list[int],
        **kwargs: typing.Any,
    ) -> typing.Self:
        """As for `CompressesKernels`, of one mask and room."""
        (mask,), (room,) = masks, rooms
        return cls.from_dense(layer, mask, active=room, **kwargs)

    @classmethod
    def like(
        cls, layer: Layer, active: int, **kwargs: typing.Any
    ) -> typing.Self:
        """A built layer of the shape of a dense one, without its weights.

        Args:
            layer: A built layer that `reason_against` says nothing of.
            active: Positive integer, for how many weights there is room.
            **kwargs: Arguments of the layer; by default those of `layer`.
        """
        settings = {**cls._arguments_of(layer), "active": active, **kwargs}
        compressed = cls(**settings)
        compressed.build(cls._input_shape_of(layer))
        return compressed

    def take_weights(self, layer: Layer, mask: Array) -> None:
        """Takes the weights of a dense layer: those in a mask, and its bias.

        Args:
            layer: A built layer of this one's shape.
            mask: Boolean array of the kernel's shape, outside of which the
                kernel is zero.

        Raises:
            ValueError: If there is no room for so many weights, or the kernel
                holds something outside the mask.
        """
        matrix = (-1, self.units)
        kernel = ops.convert_to_numpy(layer.kernel)
        values, structure = structures.compress(
            kernel.reshape(matrix), np.asarray(mask).reshape(matrix)
        )
        room = np.zeros(self.active, values.dtype)
        room[: structure.active] = values[: self.active]
        self.set_structure(structure, room)
        (record,) = self.masked_kernels
        record.initial = record.active = structure.active
        if self.use_bias:
            # A copy: JAX gives up arrays that a step was handed.
            self.bias.assign(ops.copy(layer.bias))

    def give_weights(self, layer: Layer) -> None:
        """Assigns the weights to a dense layer, zeros between them.

        Args:
            layer: A built layer of this one's shape.
        """
        (record,) = self.masked_kernels
        layer.kernel.assign(record.kernel_array())
        if self.use_bias:
            layer.bias.assign(ops.copy(self.bias))

    @classmethod
    def _input_shape_of(cls, layer):
        return (None, layer.kernel.shape[0])

    def to_dense(self) -> Layer:
        """As for `CompressesKernels`."""
        layer = self.dense_layer()
        self.give_weights(layer)
        return layer

    def build(self, input_shape: typing.Any) -> None:
        ins, outs = self._kernel_axes(tuple(input_shape))
        self.kernel_shape = (*ins, *outs)
        self.num_inputs, self.units = math.prod(ins), math.prod(outs)
        self._outs = outs
        # Else inputs of twice the width would pass as twice as many rows.
        counted = ins[len(ins) - self._input_rank() :]
        self.input_spec = keras.layers.InputSpec(
            min_ndim=len(counted) + 1,
            axes={i - len(counted): size for i, size in enumerate(counted)},
        )
        inputs, units = self.num_inputs, self.units
        if self.active > inputs * units:
            raise ValueError(
                f"`active` must be at most {inputs * units}, all weights. "
                f"Received: active={self.active}"
            )
        self.values = self.add_weight(
            name="values",
            shape=(self.active,),
            initializer="zeros",
            regularizer=self.kernel_regularizer,
        )
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=outs,
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )
        blocks = structures.num_blocks(self.active, units)
        small = inputs <= 1 << 16
        self.row_pointers = self._position("row_pointers", units + 1, "int32")
        self.column_indices = self._position(
            "column_indices", self.active, "uint16" if small else "int32"
        )
        self.input_pointers = self._position(
            "input_pointers", blocks * inputs + 1, "int32"
        )
        self.place_units = self._position("place_units", self.active, "uint16")
        self._set_default_structure()
        # The last of the four that anything sets in order.
        self.place_units.assign = self._assign_last
        self._kernels = [
            CompressedKernel(
                f"{self.name}/kernel", self, self.active, self.active
            )
        ]

    def _position(self, name, size, dtype):
        return self.add_weight(
            name=name,
            shape=(size,),
            dtype=dtype,
            initializer="zeros",
            trainable=False,
            autocast=False,
        )

    def _set_default_structure(self):
        """Until positions are set, the first weights of the first units."""
        inputs = self.num_inputs
        ends = np.minimum(np.arange(self.units + 1) * inputs, self.active)
        columns = np.arange(self.active) % inputs
        self._set_positions(
            structures.CompressedStructure(ends, columns, inputs)
        )

    def _set_positions(self, structure):
        for variable, array in zip(
            self.position_variables,
            structure.positions_in(self.active),
            strict=True,
        ):
            type(variable).assign(variable, array)

    def _assign_last(self, value: typing.Any) -> typing.Any:
        """`place_units.assign`: checks all positions where they have values.

        `set_weights` and loading assign the four in their order. They are
        addresses to the kernels, so that wrong ones must not stay.
        """
        result = type(self.place_units).assign(self.place_units, value)
        if keras_adapter.has_values(value):
            self.check()
        return result

    def check(self) -> None:
        """Raises unless the positions are those of a kernel.

        What is wrong is replaced by positions that can be computed with.

        Raises:
            ValueError: If positions are out of range, unsorted or repeated.
        """
        try:
            _ = self.structure
        except ValueError as error:
            self._set_default_structure()
            raise ValueError(
                f"The positions of layer '{self.path}' are wrong, and were "
                f"replaced by the first ones: {error}"
            ) from error

    @property
    def output_rank(self) -> int:
        """How many axes of the output the kernel makes."""
        return len(self._outs)

    @property
    def position_variables(self) -> list[typing.Any]:
        """List of the variables that say where weights are."""
        return [
            self.row_pointers,
            self.column_indices,
            self.input_pointers,
            self.place_units,
        ]

    @property
    def masked_kernels(self) -> list[CompressedKernel]:
        """List with the layer's `CompressedKernel`, empty until it is built."""
        return list(self._kernels)

    @property
    def structure(self) -> structures.CompressedStructure:
        """Where the active weights are, a `CompressedStructure`."""
        arrays = map(ops.convert_to_numpy, self.position_variables)
        return structures.CompressedStructure.from_positions(
            structures.Positions(*arrays), self.num_inputs
        )

    def set_structure(
        self,
        structure: structures.CompressedStructure,
        values: Array | None = None,
    ) -> None:
        """Moves the active weights to other positions.

        Args:
            structure: `CompressedStructure` of at most `active` weights.
            values: Array of shape `(active,)`; `None` leaves them.

        Raises:
            ValueError: If the shape is another, or there are more weights.
        """
        shape = (self.num_inputs, self.units)
        if structure.shape != shape or structure.active > self.active:
            raise ValueError(
                f"`structure` must have the shape {shape} and at most "
                f"{self.active} active weights. Received: "
                f"structure={structure}"
            )
        if values is not None and np.shape(values) != (self.active,):
            raise ValueError(
                f"`values` must have the shape ({self.active},). Received: "
                f"values.shape={np.shape(values)}"
            )
        self._set_positions(structure)
        if values is not None:
            self.values.assign(values)

    def save_own_variables(self, store: typing.Any) -> None:
        # Positions by input follow from those by output.
        variables = [self.values, *([self.bias] if self.use_bias else [])]
        for i, variable in enumerate(
            [*variables, self.row_pointers, self.column_indices]
        ):
            store[f"{i}"] = variable

    def load_own_variables(self, store: typing.Any) -> None:
        biases = [self.bias] if self.use_bias else []
        variables = [self.values, *biases]
        count = len(variables) + 2
        if len(store.keys()) != count:
            raise ValueError(
                f"Layer '{self.path}' holds {count} arrays in a file. "
                f"Received: {len(store.keys())} arrays"
            )
        pointers, columns = (
            np.asarray(store[f"{i}"]) for i in (count - 2, count - 1)
        )
        if columns.shape != (self.active,) or not pointers.size:
            raise ValueError(
                f"Layer '{self.path}' has {self.active} active weights. "
                f"Received: a file with {len(columns)}"
            )
        self.set_structure(self._structure_of(pointers, columns))
        for i, variable in enumerate(variables):
            variable.assign(store[f"{i}"])

    def _structure_of(self, pointers, columns):
        """The structure of the positions by output, as files hold them."""
        columns = columns[: max(0, int(pointers[-1]))]
        return structures.CompressedStructure(
            pointers, columns, self.num_inputs
        )

    def positions_of(
        self, row_pointers: Array, column_indices: Array
    ) -> structures.Positions:
        """All positions, from those by output that files hold.

        Args:
            row_pointers: Integer array of shape `(outputs + 1,)`.
            column_indices: Integer array of shape `(active,)`.

        Returns:
            `kernels.structure.Positions`.

        Raises:
            ValueError: If they are not positions of a kernel.
        """
        structure = self._structure_of(row_pointers, column_indices)
        return structure.positions_in(self.active)

    def product(self, rows: Tensor) -> Tensor:
        """The layer's output for a batch of flat inputs.

        Args:
            rows: Tensor of shape `(batch, inputs)`.

        Returns:
            Tensor of shape `(batch, outputs)`.
        """
        y = bridge().product(*self._given(rows))
        return self._activated(y)

    def _given(self, x, *rest):
        """What a product is given: weights, an input and how it ends."""
        noted = taps.current()
        values, *positions = (
            ops.convert_to_tensor(v)
            for v in (self.values, *self.position_variables)
        )
        bias = (
            ops.reshape(ops.convert_to_tensor(self.bias), (self.units,))
            if self.use_bias
            else ops.zeros((self.units,), "float32")
        )
        return (
            structures.Positions(*positions),
            values,
            x,
            bias,
            *rest,
            self._rectifies(),
            None if noted is None else noted.of(self.values),
        )

    def _rectifies(self):
        return self.activation is activations.relu

    def _activated(self, y):
        return y if self._rectifies() else self.activation(y)

    def rows_of(self, x: Tensor) -> Tensor:
        """The rows that the kernel multiplies, of an input that was noted.

        Args:
            x: Tensor, as the layer's product notes it.

        Returns:
            Tensor of shape `(rows, inputs)`.
        """
        return x

    def call(self, inputs: Tensor) -> Tensor:
        shape = ops.shape(inputs)
        rows = ops.reshape(inputs, (-1, self.num_inputs))
        y = self.product(rows)
        prefix = shape[: len(shape) - self._input_rank()]
        whole = (*prefix, *self._outs)
        return y if len(whole) == 2 else ops.reshape(y, whole)

    def _input_rank(self):
        return len(self.kernel_shape) - len(self._outs)

    def compute_output_shape(self, input_shape: typing.Any) -> tuple:
        ins, outs = self._kernel_axes(tuple(input_shape))
        return (*input_shape[: len(input_shape) - len(ins)], *outs)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "active": self.active,
            "activation": activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": initializers.serialize(
                self.kernel_initializer
            ),
            "bias_initializer": initializers.serialize(self.bias_initializer),
            "kernel_regularizer": regularizers.serialize(
                self.kernel_regularizer
            ),
            "bias_regularizer": regularizers.serialize(self.bias_regularizer),
            "bias_constraint": constraints.serialize(self.bias_constraint),
        }

    def _shared_arguments(self):
        return {**self._arguments_of(self), "dtype": self.dtype_policy}
