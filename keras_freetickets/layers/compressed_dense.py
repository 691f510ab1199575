"""A dense layer that holds and computes with its active weights alone."""

import typing

import keras
import numpy as np
from keras import activations

from keras_freetickets.arguments import check_count
from keras_freetickets.kernels import structure as structures
from keras_freetickets.types import Array
from keras_freetickets.types import Config
from keras_freetickets.types import Layer
from keras_freetickets.types import Tensor


@keras.saving.register_keras_serializable(package="keras_freetickets")
class CompressedDense(keras.layers.Layer):
    """`keras.layers.Dense` of which only the active weights exist.

    The trainable variable is `values`, of shape `(active,)`, so that gradients
    and the slots of any optimizer are of that size. Where the weights are is
    held in variables that no optimizer trains.

    It runs on processors, on TensorFlow in graphs that XLA does not compile
    and on JAX, in float32. Sums are in another order than a dense product's,
    so that outputs equal a masked layer's to float32's rounding.

    Args:
        units: Positive integer, the outputs.
        active: Positive integer, the number of active weights.
        activation: As for `keras.layers.Dense`. `"relu"` is computed within
            the product.
        use_bias: Whether there is a bias.
        **kwargs: As for `keras.layers.Layer`.

    Raises:
        ValueError: If a count is not a positive integer, or the dtype policy
            does not compute in float32.

    Example:

    ```python
    compressed = CompressedDense.from_dense(dense, mask)
    compressed(x)  # as dense(x), whose kernel is zero outside the mask
    ```
    """

    # Keras then compiles no model that has one by XLA unless told to.
    supports_jit = False

    def __init__(
        self,
        units: int,
        active: int,
        activation: typing.Any = None,
        use_bias: bool = True,
        **kwargs: typing.Any,
    ) -> None:
        check_count("units", units)
        check_count("active", active)
        super().__init__(**kwargs)
        if self.compute_dtype != "float32":
            raise ValueError(
                "`dtype` must compute in float32: for another dtype use "
                f"storage='mask'. Received: dtype={self.dtype_policy.name!r}"
            )
        self.units = units
        self.active = active
        self.activation = activations.get(activation)
        self.use_bias = use_bias
        self.supports_jit = keras.backend.backend() == "jax"

    @classmethod
    def from_dense(
        cls, layer: Layer, mask: Array, **kwargs: typing.Any
    ) -> "CompressedDense":
        """A compressed layer that computes what a dense one does.

        Args:
            layer: A built `keras.layers.Dense` whose kernel is zero outside
                the mask.
            mask: Boolean array of the kernel's shape.
            **kwargs: Arguments of the layer; by default those of `layer`.

        Returns:
            A built `CompressedDense`.

        Raises:
            ValueError: If the mask does not fit the kernel, or the kernel
                holds something outside it.
        """
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        values, structure = structures.compress(kernel, mask)
        settings = {
            "units": structure.num_outputs,
            "active": structure.active,
            "activation": layer.activation,
            "use_bias": layer.use_bias,
            "name": layer.name,
            "trainable": layer.trainable,
        }
        compressed = cls(**{**settings, **kwargs})
        compressed.build((None, structure.num_inputs))
        compressed.set_structure(structure, values)
        if layer.use_bias:
            # A copy: JAX gives up arrays that a step was handed.
            compressed.bias.assign(keras.ops.copy(layer.bias))
        return compressed

    def build(self, input_shape: typing.Any) -> None:
        inputs = int(input_shape[-1])
        self.num_inputs = inputs
        blocks = structures.num_blocks(self.active, self.units)
        small = inputs <= 1 << 16
        shapes = {
            "row_pointers": (self.units + 1, "int32"),
            "column_indices": (self.active, "uint16" if small else "int32"),
            "input_pointers": (blocks * inputs + 1, "int32"),
            "place_units": (self.active, "uint16"),
        }
        self.values = self.add_weight(
            name="values", shape=(self.active,), initializer="zeros"
        )
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias", shape=(self.units,), initializer="zeros"
            )
        self._positions = [
            self.add_weight(
                name=name,
                shape=(size,),
                dtype=dtype,
                initializer="zeros",
                trainable=False,
            )
            for name, (size, dtype) in shapes.items()
        ]
        # Until positions are set, the first weights of the first units.
        whole, rest = divmod(self.active, inputs)
        if whole + bool(rest) > self.units:
            raise ValueError(
                f"`active` must be at most {inputs * self.units}, all weights. "
                f"Received: active={self.active}"
            )
        ends = np.minimum(np.arange(self.units + 1) * inputs, self.active)
        columns = np.arange(self.active) % inputs
        self.set_structure(
            structures.CompressedStructure(ends, columns, inputs)
        )

    @property
    def structure(self) -> structures.CompressedStructure:
        """Where the active weights are, a `CompressedStructure`."""
        arrays = map(keras.ops.convert_to_numpy, self._positions)
        positions = structures.Positions(*arrays)
        return structures.CompressedStructure.from_positions(
            positions, self.num_inputs
        )

    def set_structure(
        self,
        structure: structures.CompressedStructure,
        values: Array | None = None,
    ) -> None:
        """Moves the active weights to other positions.

        Args:
            structure: `CompressedStructure` of as many weights.
            values: Array of shape `(active,)`; `None` leaves them.

        Raises:
            ValueError: If the shape or the number of weights is another.
        """
        mine = (self.num_inputs, self.units), self.active
        if (structure.shape, structure.active) != mine:
            raise ValueError(
                f"`structure` must have the shape {mine[0]} and {mine[1]} "
                f"active weights. Received: structure={structure}"
            )
        for variable, array in zip(
            self._positions, structure.positions, strict=True
        ):
            variable.assign(array)
        if values is not None:
            structures.check_values(np.asarray(values), structure)
            self.values.assign(values)

    def load_own_variables(self, store: typing.Any) -> None:
        super().load_own_variables(store)
        _ = self.structure  # positions of a file are checked before they run

    def call(self, inputs: Tensor) -> Tensor:
        rectify = self.activation is activations.relu
        shape = keras.ops.shape(inputs)
        x = keras.ops.reshape(inputs, (-1, self.num_inputs))
        values, *positions = (
            keras.ops.convert_to_tensor(v)
            for v in (self.values, *self._positions)
        )
        bias = (
            keras.ops.convert_to_tensor(self.bias)
            if self.use_bias
            else keras.ops.zeros((self.units,))
        )
        y = _product()(
            structures.Positions(*positions), values, x, bias, rectify
        )
        if len(shape) != 2:
            y = keras.ops.reshape(y, (*shape[:-1], self.units))
        return y if rectify else self.activation(y)

    def compute_output_shape(self, input_shape: typing.Any) -> tuple:
        return (*input_shape[:-1], self.units)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "units": self.units,
            "active": self.active,
            "activation": activations.serialize(self.activation),
            "use_bias": self.use_bias,
        }


def _product():
    backend = keras.backend.backend()
    if backend == "tensorflow":
        from keras_freetickets.kernels import tensorflow

        return tensorflow.product
    if backend == "jax":
        from keras_freetickets.kernels import jax

        return jax.product
    raise ValueError(
        "Compressed layers run on the backends TensorFlow and JAX; on others "
        f"use storage='mask'. Received: backend={backend!r}"
    )
