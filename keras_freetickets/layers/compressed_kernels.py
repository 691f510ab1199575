"""Records of compressed kernels, and what layers that have some are."""

import dataclasses
import importlib
import math
import typing

import keras
import numpy as np
from keras import ops

from keras_freetickets.kernels import structure as structures
from keras_freetickets.layers.kernels import MasksKernels
from keras_freetickets.types import Array
from keras_freetickets.types import KerasMixin
from keras_freetickets.types import Layer


@dataclasses.dataclass
class CompressedKernel:
    """A kernel of which only the active weights exist.

    It stands among a model's `masked_kernels` beside `MaskedKernel`.

    Attributes:
        name: Path within the model, for reports.
        layer: The `Compressed` layer.
        active: Integer, how many weights are active: the number when it was
            made, or when a method was last attached.
        initial: Integer, how many were active when it was made.
        state: Empty dict: no state is kept for each connection.
    """

    name: str
    layer: typing.Any
    active: int
    initial: int
    state: dict = dataclasses.field(default_factory=dict)

    compressed = True

    @property
    def kernel(self) -> typing.Any:
        """The trainable variable, `values` of the layer."""
        return self.layer.values

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense kernel."""
        return self.layer.kernel_shape

    @property
    def size(self) -> int:
        """Entries of the dense kernel, active or not."""
        return math.prod(self.shape)

    def count(self) -> int:
        """The number of weights that are active now."""
        return int(ops.convert_to_numpy(self.layer.row_pointers)[-1])

    def mask_array(self) -> np.ndarray:
        """The mask as a boolean array of the dense kernel's shape."""
        return structures.mask_of(self.layer.structure).reshape(self.shape)

    def kernel_array(self) -> np.ndarray:
        """The kernel as an array of the dense kernel's shape."""
        structure = self.layer.structure
        values = ops.convert_to_numpy(self.kernel)[: structure.active]
        kernel = structures.decompress(values, structure)
        return kernel.reshape(self.shape)


class CompressesKernels(MasksKernels, KerasMixin):
    """Marks layers that stand for one of Keras, with compressed kernels.

    `Compressed` ones have one kernel, attention has several.
    """

    # No state for each connection is kept: see `Sparse.add_state`.
    state: dict = {}
    # The attribute of `dense_layers_of` that is compressed.
    role = "kernel"

    @classmethod
    def dense_layers_of(cls, layer: Layer) -> list[Layer]:
        """The layers of which a kernel is compressed, in a layer of Keras.

        Args:
            layer: A built layer of the class that this one stands for.
        """
        return [layer]

    @classmethod
    def reason_against(cls, layer: Layer) -> str:
        """Why a layer cannot be compressed, "" if it can.

        Args:
            layer: A built layer of the class that this one stands for.
        """
        raise NotImplementedError  # abstract

    @classmethod
    def from_masks(
        cls,
        layer: Layer,
        masks: list[Array],
        rooms: list[int],
        **kwargs: typing.Any,
    ) -> typing.Self:
        """A compressed layer that computes what a dense one does.

        Args:
            layer: A built layer whose kernels are zero outside the masks.
            masks: List of boolean arrays, one for each of `dense_layers_of`.
            rooms: List of integers, for how many weights there is room.
            **kwargs: Arguments of the layer; by default those of `layer`.

        Returns:
            A built layer.
        """
        raise NotImplementedError  # abstract

    def to_dense(self) -> Layer:
        """The dense layer that computes the same, with zeros between.

        Returns:
            A built Keras layer.
        """
        raise NotImplementedError  # abstract

    def add_state(self, name: str, dtype: str) -> None:
        """Not for compressed kernels.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "A compressed kernel keeps no state for each connection: use "
            f"storage='mask'. Received: state {name!r} for layer "
            f"'{self.name}'"
        )


def check_compressible(
    kind: type[CompressesKernels], layer: Layer, masks: dict[str, Array]
) -> None:
    """Raises unless a layer can be compressed, and masks fit its kernels.

    Args:
        kind: The class of compressed layers.
        layer: A built layer of the class that `kind` stands for.
        masks: Dict from the names of `kind.dense_layers_of(layer)` to masks.

    Raises:
        ValueError: If not.
    """
    reason = kind.reason_against(layer)
    if reason:
        raise ValueError(
            f"`layer` cannot be compressed, as {reason}: use storage='mask'. "
            f"Received: layer={layer.name!r}"
        )
    shapes = {
        dense.name: tuple(getattr(dense, kind.role).shape)
        for dense in kind.dense_layers_of(layer)
    }
    given = {name: np.shape(mask) for name, mask in masks.items()}
    if given != shapes:
        raise ValueError(
            "Masks must have the shapes of the kernels, "
            f"{shapes}. Received: shapes {given}"
        )


def check_float32(layer: Layer) -> None:
    """Raises unless a compressed layer computes in float32."""
    if (layer.compute_dtype, layer.variable_dtype) != ("float32",) * 2:
        raise ValueError(
            "`dtype` must be float32: for another dtype use "
            f"storage='mask'. Received: dtype={layer.dtype_policy.name!r}"
        )


def bridge(part: str = "") -> typing.Any:
    """The module of `kernels` that makes products and updates on a backend.

    Args:
        part: `""`, or `"_convolution"` for the module of convolutions.

    Raises:
        ValueError: If compressed layers do not run on the backend of now.
    """
    backend = keras.backend.backend()
    if backend not in ("tensorflow", "jax"):
        raise ValueError(
            "Compressed layers run on the backends TensorFlow and JAX; on "
            f"others use storage='mask'. Received: backend={backend!r}"
        )
    return importlib.import_module(f"keras_freetickets.kernels.{backend}{part}")
