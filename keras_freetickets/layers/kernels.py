"""Which kernels of a layer can be masked: found by role, never by rank."""

import dataclasses
import typing
from collections.abc import Sequence

import keras
import numpy as np
from keras import layers
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.types import Layer

# Chosen by role, never by rank: the biases of attention have rank 2.
KERNEL_ROLES = ("kernel", "recurrent_kernel", "pointwise_kernel")
# Kernels of these layers are masked only if `kernels` names them.
_UNMASKED = (
    layers.Embedding,
    layers.BatchNormalization,
    layers.GroupNormalization,
    layers.LayerNormalization,
)
# Modes of `quantize` that leave no float kernel; they cannot be trained.
INTEGER_MODES = ("int8", "int4", "gptq", "awq")


class MasksKernels:
    """Marks layers whose kernels are sparse: `Sparse` and compressed ones.

    Attributes:
        masked_kernels: List with a record for each sparse kernel.
        state: Dict from name to dtype of the state of each connection.
        built: As of any layer.
        weights: As of any layer.
    """

    built: bool
    masked_kernels: typing.Any
    state: dict
    weights: typing.Any

    @property
    def kernel_layers(self) -> list:
        """Sublayers whose kernels are among `masked_kernels`.

        They mask kernels too; whoever lists the sparse layers of a model lists
        this layer in place of them.
        """
        return []

    def add_state(self, name: str, dtype: str) -> None:
        """Adds a state of each connection."""
        raise NotImplementedError  # abstract


def sparse_layers(layer: Layer) -> list[MasksKernels]:
    """The layers with sparse kernels in a layer, each kernel's once.

    Args:
        layer: A layer or model.
    """
    found = [
        part
        for part in keras_adapter.sublayers(layer)
        if isinstance(part, MasksKernels)
    ]
    inner = {id(part) for whole in found for part in whole.kernel_layers}
    return [part for part in found if id(part) not in inner]


def _initializer_of(layer, role):
    name = role.replace("_kernel", "_initializer")
    if role == "kernel":
        name = "kernel_initializer"
    return getattr(layer, name, None)


@dataclasses.dataclass
class KernelLocation:
    """The location of a kernel that can be masked."""

    name: str
    layer: typing.Any
    role: str
    variable: typing.Any

    def is_initial(self) -> bool:
        """Whether the kernel still has its initial value.

        An initializer with an integer seed gives the same value again. If
        there is none, the kernel counts as initial.
        """
        initializer = _initializer_of(self.layer, self.role)
        seed = getattr(initializer, "seed", None)
        if initializer is None or not isinstance(seed, int):
            return True
        value = initializer(self.variable.shape, self.variable.dtype)
        return np.array_equal(
            ops.convert_to_numpy(value),
            keras_adapter.first_value(self.variable),
        )


def find_kernels(
    layer: Layer, roles: Sequence[str] | None = None
) -> list[KernelLocation]:
    """Lists the kernels of a built layer and of its sublayers, by role.

    Args:
        layer: A built Keras layer.
        roles: Tuple of attribute names. `None` for those in the layer's
            `sparse_kernels`, or else `kernel`, `recurrent_kernel` and
            `pointwise_kernel` (except of depthwise convolutions of any class,
            normalization and embeddings).

    Returns:
        List of `KernelLocation`.

    Raises:
        ValueError: If `sparse_kernels` does not name attributes of its layer.
    """
    places, seen = [], set()
    paths = _paths_within(layer)
    for part in keras_adapter.sublayers(layer):
        if isinstance(part, MasksKernels) or is_quantized(part):
            continue
        for role in roles_of(part, roles):
            variable = getattr(part, role, None)
            if not isinstance(variable, keras.Variable):
                continue
            if id(variable) in seen:
                continue
            seen.add(id(variable))
            name = "/".join([*paths[id(part)], role])
            places.append(KernelLocation(name, part, role, variable))
    return places


def _paths_within(layer, above=()):
    """Maps the id of each sublayer to the attribute names leading to it."""
    paths = {id(layer): above}
    for part, name in keras_adapter.inner_names(layer):
        found = _paths_within(part, (*above, name))
        paths = {**found, **paths}
    return paths


def roles_of(part: Layer, roles: Sequence[str] | None) -> Sequence[str]:
    """Names of the attributes of a layer that hold kernels to mask."""
    if roles is not None:
        return roles
    declared = getattr(part, "sparse_kernels", None)
    if declared is not None:
        _check_declared(part, declared)
        return declared
    alone = isinstance(part, _UNMASKED) or is_depthwise(part)
    return () if alone else KERNEL_ROLES


def _check_declared(layer, declared):
    listed = isinstance(declared, (tuple, list))
    if listed and all(hasattr(layer, str(name)) for name in declared):
        return
    raise ValueError(
        "`sparse_kernels` must be a tuple of names of weight attributes. "
        f"Received: sparse_kernels={declared!r} of layer "
        f"'{layer.name}' of class {type(layer).__name__}, whose weights are "
        f"{sorted(keras_adapter.own_variables(layer))}"
    )


def is_depthwise(layer: Layer) -> bool:
    """Whether a convolution processes each of several channels separately.

    This includes any convolution with as many groups as channels, whatever
    its class. A convolution of a single channel is an ordinary one.

    Args:
        layer: A built Keras layer.

    Returns:
        Boolean.
    """
    kernel, groups = (getattr(layer, n, None) for n in ("kernel", "groups"))
    if not isinstance(kernel, keras.Variable) or len(kernel.shape) < 3:
        return False
    if isinstance(layer, (layers.DepthwiseConv1D, layers.DepthwiseConv2D)):
        return kernel.shape[-2] > 1  # (height, width, channels, multiplier)
    # (height, width, channels / groups, filters)
    return isinstance(groups, int) and groups > 1 and kernel.shape[-2] == 1


def is_quantized(layer: Layer) -> bool:
    """Whether a layer's kernel is quantized to integers."""
    return getattr(layer, "quantization_mode", None) in INTEGER_MODES
