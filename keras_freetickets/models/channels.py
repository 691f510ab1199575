"""Which layers of a model share their units or channels."""

import dataclasses
import typing

import keras
from keras import layers

from keras_freetickets import keras_adapter
from keras_freetickets.arguments import check_model
from keras_freetickets.layers.sparse import Sparse
from keras_freetickets.types import Layer
from keras_freetickets.types import Tensor

_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
# Layers that treat each channel by itself and keep a constant one constant.
_PASSING = (
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
)
# What padding does to their mean depends on the backend.
_AVERAGING = (
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
)
ACTIVATIONS = (layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU)
_MERGING = (
    layers.Add,
    layers.Subtract,
    layers.Multiply,
    layers.Average,
    layers.Maximum,
    layers.Minimum,
)
# Activations of which an output depends on the same input alone.
_ELEMENTWISE = {
    *("linear", "relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu"),
    *("swish", "sigmoid", "hard_sigmoid", "tanh", "softplus", "softsign"),
    *("mish", "exponential", "celu", "hard_silu", "hard_swish", "log_sigmoid"),
}


@dataclasses.dataclass(eq=False)
class Channels:
    """Units or channels, and the layers that have them in common.

    Attributes:
        producers: List of the layers that make them.
        between: List of the layers that treat each by itself, in the order in
            which they are called; convolutions of single channels too.
        readers: List of the layers that read them.
        is_fixed: Whether something reads or makes them of which it is not
            known how.
        is_chain: Whether it is one producer and one reader, and no merging or
            convolution between them.
    """

    producers: list[Layer] = dataclasses.field(default_factory=list)
    between: list[Layer] = dataclasses.field(default_factory=list)
    readers: list[Layer] = dataclasses.field(default_factory=list)
    is_fixed: bool = False
    is_chain: bool = True


def inner(layer: Layer) -> Layer:
    """The layer itself, or that within `Sparse`."""
    return layer.layer if isinstance(layer, Sparse) else layer


def has_units(layer: Layer) -> bool:
    """Whether a layer's units can be told from its kernel."""
    if type(layer) is layers.Dense:
        return layer.quantization_mode is None and not layer.lora_enabled
    return (
        type(layer) in _CONVOLUTIONS
        and layer.groups == 1
        and layer.data_format == "channels_last"
        and not getattr(layer, "lora_enabled", False)
        and getattr(layer, "quantization_mode", None) is None
    )


def is_depthwise(layer: Layer) -> bool:
    """Whether a layer makes each channel of one channel."""
    return (
        type(layer) in _DEPTHWISE
        and layer.depth_multiplier == 1
        and layer.data_format == "channels_last"
        and _is_elementwise(layer)
    )


def _is_elementwise(layer: Layer) -> bool:
    activation = getattr(layer, "activation", keras.activations.linear)
    return getattr(activation, "__name__", None) in _ELEMENTWISE


def _is_last(layer: Layer) -> bool:
    return getattr(layer, "data_format", "channels_last") == "channels_last"


def _passes(layer: Layer, is_flat: bool, rank: int) -> bool:
    """Whether a layer treats each channel by itself."""
    if is_flat:  # channels are spread over the units
        return isinstance(layer, layers.Dropout)
    if isinstance(layer, layers.Flatten):
        return _is_last(layer)
    if isinstance(layer, layers.BatchNormalization):
        return layer.axis in (-1, rank - 1)
    if isinstance(layer, _AVERAGING):
        return layer.padding == "valid" and _is_last(layer)
    if isinstance(layer, layers.Activation):
        return _is_elementwise(layer)
    return isinstance(layer, ACTIVATIONS + _PASSING) and _is_last(layer)


class _Search:
    """Walks through a graph; see `channels_of`."""

    def __init__(self) -> None:
        # By the ids of tensors: a number, and whether channels are flat.
        self._numbers: dict[int, tuple[int, bool]] = {}
        self._same: list[int] = []  # the number that a number is the same as
        self._roles: list[tuple[int, str, typing.Any]] = []
        self._calls: dict[int, int] = {}

    def of(self, tensor: Tensor) -> tuple[int, bool]:
        """The number of a tensor's channels."""
        if id(tensor) not in self._numbers:
            self._numbers[id(tensor)] = self._visit(tensor)
        return self._numbers[id(tensor)]

    def add(self, number: int, role: str, layer: typing.Any = None) -> None:
        self._roles.append((number, role, layer))

    def _new(self, role: str, layer: typing.Any = None) -> int:
        self._same.append(len(self._same))
        self.add(self._same[-1], role, layer)
        return self._same[-1]

    def _visit(self, tensor: Tensor) -> tuple[int, bool]:
        outer, given = keras_adapter.origin(tensor)
        layer = inner(outer)
        before = [self.of(one) for one in given]
        calls = self._calls[id(layer)] = self._calls.get(id(layer), 0) + 1
        known = isinstance(layer, keras.layers.Layer) and calls == 1
        if known and len(given) == 1:
            found = self._of_one(layer, given[0], *before[0])
        elif known and isinstance(layer, _MERGING):
            found = self._of_several(given, before)
        else:
            found = None
        if found is None:
            for number, _ in before:
                self.add(number, "fixed")
            found = self._new("fixed"), False
        if calls > 1:
            # Its first call ties the same units to other layers.
            for number, _, other in list(self._roles):
                if other is layer:
                    self.add(number, "fixed")
        return found

    def _of_one(
        self, layer: Layer, given: Tensor, number: int, is_flat: bool
    ) -> tuple[int, bool] | None:
        rank = len(given.shape)
        if has_units(layer):
            if is_flat and rank != 2:
                return None
            self.add(number, "readers", layer)
            role = "producers" if _is_elementwise(layer) else "fixed"
            return self._new(role, layer), False
        if is_depthwise(layer) and not is_flat:
            self.add(number, "merged")
        elif not _passes(layer, is_flat, rank):
            return None
        self.add(number, "between", layer)
        return number, is_flat or isinstance(layer, layers.Flatten)

    def _of_several(
        self, given: typing.Any, before: list[tuple[int, bool]]
    ) -> tuple[int, bool] | None:
        shapes = {tuple(one.shape)[-1] for one in given}
        if len(shapes) > 1 or any(is_flat for _, is_flat in before):
            return None
        first = self._root(before[0][0])
        for number, _ in before:
            self._same[self._root(number)] = first
        self.add(first, "merged")
        return first, False

    def _root(self, number: int) -> int:
        while self._same[number] != number:
            number = self._same[number]
        return number

    def result(self) -> list[Channels]:
        found: dict[int, Channels] = {}
        for number, role, layer in self._roles:
            channels = found.setdefault(self._root(number), Channels())
            if role == "fixed":
                channels.is_fixed = True
            elif role == "merged":
                channels.is_chain = False
            else:
                getattr(channels, role).append(layer)
        for channels in found.values():
            channels.is_chain &= (
                len(channels.producers) == len(channels.readers) == 1
            )
        return [
            one
            for one in found.values()
            if not one.is_fixed and one.producers and one.readers
        ]


def channels_of(model: keras.Model) -> list[Channels]:
    """The channels of a model that can be removed.

    Args:
        model: A model with a graph of layers; layers may be in `Sparse`.

    Returns:
        List of `Channels`, none of them fixed.
    """
    search = _Search()
    for output in model.outputs:
        number, _ = search.of(output)
        search.add(number, "fixed")
    return search.result()


def channel_groups(model: keras.Model) -> list[dict[str, list[int]]]:
    """The channels of a sparse model that can be removed whole.

    A channel is made by the same column of one or several kernels (several
    where outputs are added, as in residual networks), and read by rows of
    others. It can be removed if it is known of each layer on the way how it
    treats channels: `Dense`, `Conv1D` to `Conv3D`, depthwise convolutions,
    batch normalization, activations, pooling, dropout, `Flatten`, and layers
    that merge by sums, products or extremes; and if all of the kernels have
    masks.

    Args:
        model: `SparseModel` with a graph of layers.

    Returns:
        List of dicts, for `keras_freetickets.topology.Chase`:
        `"producers"` and `"readers"` are lists of indices of the model's
        `masked_kernels`; a depthwise kernel that has a mask is a reader.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it has no graph of layers, or no masks.

    Example:

    ```python
    groups = keras_freetickets.channel_groups(model)
    ```
    """
    check_model("model", model)
    if not getattr(model, "inputs", None):
        raise ValueError(
            "`model` must have a graph of layers. "
            f"Received: model={model.name!r} of type {type(model).__name__}"
        )
    if not hasattr(model, "masked_kernels"):
        raise ValueError(
            "`model` must be a SparseModel: make it one by `sparsify`. "
            f"Received: model={model.name!r} of type {type(model).__name__}"
        )
    places = {
        id(masked.kernel): i for i, masked in enumerate(model.masked_kernels)
    }

    def indices(parts: list[Layer]) -> list[int | None]:
        return [places.get(id(part.kernel)) for part in parts]

    groups = []
    for channels in channels_of(model):
        depthwise = [one for one in channels.between if is_depthwise(one)]
        masked = [i for i in indices(depthwise) if i is not None]
        group = {
            "producers": indices(channels.producers),
            "readers": indices(channels.readers) + masked,
        }
        if None not in group["producers"] + group["readers"]:
            groups.append(group)
    return typing.cast(list[dict[str, list[int]]], groups)
