"""Reads layers of a model as Keras serialized it, and their arrays."""

import functools
import math
import typing
from collections.abc import Callable
from collections.abc import Mapping

import numpy as np

from keras_freetickets.kernels import CompressedStructure
from keras_freetickets.kernels import compress
from keras_freetickets.serving import activations
from keras_freetickets.serving.activations import Activation

# What Keras has for a layer: class, name, config, how it was built.
Record = dict[str, typing.Any]
Arrays = Mapping[str, np.ndarray]
Reader = Callable[[typing.Any, str, Record], None]

_IGNORED = (
    "ActivityRegularization",
    "AlphaDropout",
    "Dropout",
    "GaussianDropout",
    "GaussianNoise",
    "Identity",
    "SpatialDropout1D",
    "SpatialDropout2D",
)
# `keras.config.epsilon()` at its default, which Normalization divides by.
_EPSILON = 1e-7


def unsupported(reason: str, received: str) -> ValueError:
    """The error for a model that is of another kind."""
    return ValueError(
        "SparsePredictor predicts with chains of dense layers and with "
        f"convolutional networks, and {reason}. Predict with "
        "keras_freetickets.EnsembleModel, which has every layer of Keras, or "
        "use keras_freetickets.export. "
        f"Received: {received}"
    )


def name_of(layer: Record) -> str:
    """The name of a serialized layer."""
    return layer.get("name") or layer["config"]["name"]


def described(layer: Record) -> str:
    """A layer by name and class, for an error."""
    return f"layer '{name_of(layer)}' of class {layer['class_name']}"


def _is_own(layer: Record) -> bool:
    return str(layer.get("registered_name")).startswith("keras_freetickets>")


def _is_of_keras(layer: Record) -> bool:
    """Whether it is a class of Keras, not a user's of the same name."""
    of_keras = str(layer.get("module")).startswith("keras.")
    return of_keras and layer.get("registered_name") is None


class UnsupportedError(Exception):
    """Why a layer cannot be computed; `add` says which."""


class LayerReader:
    """Makes the layers of one member, layer by layer.

    A subclass says what becomes of products, activations and factors, and
    which other layers it reads (`readers`).

    Args:
        shape: Tuple of integers, the shape of an example.
        arrays: Dict of the member's arrays by the path of their variable.
    """

    def __init__(self, shape: tuple[int, ...], arrays: Arrays) -> None:
        self._shape = shape
        self._arrays = arrays

    def add(self, layer: Record) -> None:
        """Adds a serialized layer.

        Raises:
            ValueError: If it is of another kind than this can compute.
        """
        record = layer
        if _is_own(layer) and layer["class_name"] == "Sparse":
            record = layer["config"]["layer"]
        kind, config = record["class_name"], record["config"]
        known = _is_own(record) or _is_of_keras(record)
        read = self.readers.get(kind) if known else None
        if read is None and not (known and kind in _IGNORED):
            raise unsupported(
                f"layer '{name_of(layer)}' is of another kind",
                described(record),
            )
        if read is None:
            return
        try:
            read(self, name_of(layer), config)
        except UnsupportedError as error:
            raise unsupported(
                f"layer '{name_of(layer)}': {error}", described(layer)
            ) from None

    def _array(self, name: str, variable: str) -> np.ndarray:
        ending = f"{name}/{variable}"
        found = [
            array
            for path, array in self._arrays.items()
            if path == ending or path.endswith(f"/{ending}")
        ]
        if len(found) != 1 or found[0].dtype.kind not in "fiu":
            raise UnsupportedError(f"its variable '{variable}' is not found")
        return found[0]

    def _dense(self, name: str, config: Record) -> None:
        kernel = self._kernel(name, config)
        values, structure = compress(kernel, kernel != 0)
        bias = self._bias(name, config)
        self._weigh(name, values, structure, bias, config)

    def _kernel(self, name, config):
        if config.get("lora_rank") or config.get("quantization_config"):
            raise UnsupportedError("it has LoRA or is quantized")
        kernel = self._array(name, "kernel")
        if kernel.dtype.kind != "f":
            raise UnsupportedError("it is quantized")
        return kernel

    def _compressed(self, name: str, config: Record) -> None:
        values, structure = self._compressed_kernel(name, self._size())
        bias = self._bias(name, config)
        self._weigh(name, values, structure, bias, config)

    def _compressed_kernel(self, name, num_inputs):
        pointers = self._array(name, "row_pointers")
        columns = self._array(name, "column_indices")[: pointers[-1]]
        structure = CompressedStructure(pointers, columns, num_inputs)
        return self._array(name, "values")[: structure.active], structure

    def _bias(self, name, config):
        return self._array(name, "bias") if config.get("use_bias") else None

    def _size(self):
        return math.prod(self._shape)

    def _weigh(self, name, values, structure, bias, config):
        if len(self._shape) != 1 or structure.num_inputs != self._size():
            raise unsupported(
                f"layer '{name}' gets examples of shape {self._shape}",
                f"layer '{name}' of {structure.num_inputs} inputs",
            )
        self._multiply(values, structure, bias)
        self._activate(config.get("activation"))

    def _multiply(
        self,
        values: np.ndarray,
        structure: CompressedStructure,
        bias: np.ndarray | None,
    ) -> None:
        """Adds a product with active weights."""
        raise NotImplementedError  # abstract

    def _step(self, function: Activation) -> None:
        """Adds an activation after what there is."""
        raise NotImplementedError  # abstract

    def _scale(self, factor: typing.Any, offset: typing.Any) -> None:
        """Multiplies by a factor, and adds an offset, of each unit."""
        raise NotImplementedError  # abstract

    def _activate(self, activation: typing.Any) -> None:
        try:
            function = activations.activation_of(activation)
        except ValueError as error:
            raise UnsupportedError(str(error)) from None
        if function is not None:
            self._step(function)

    def _rescaling(self, name: str, config: Record) -> None:
        self._scale(_plain(config["scale"]), _plain(config["offset"]))

    def _batch_normalization(self, name: str, config: Record) -> None:
        self._check_axis(config["axis"])
        variance = self._array(name, "moving_variance").astype("float64")
        factor = 1 / np.sqrt(variance + config["epsilon"])
        if config.get("scale", True):
            factor = factor * self._array(name, "gamma")
        offset = -self._array(name, "moving_mean") * factor
        if config.get("center", True):
            offset = offset + self._array(name, "beta")
        self._scale(factor, offset)

    def _normalization(self, name: str, config: Record) -> None:
        if config.get("invert"):
            raise UnsupportedError("it inverts")
        if config["mean"] is not None:
            mean, variance = _plain(config["mean"]), _plain(config["variance"])
        else:
            mean = self._array(name, "mean")
            variance = self._array(name, "variance")
        self._check_axis(config["axis"])
        factor = 1 / np.maximum(np.sqrt(np.float64(variance)), _EPSILON)
        self._scale(factor, -np.float64(mean) * factor)

    def _check_axis(self, axis):
        axes = [axis] if isinstance(axis, int) else list(axis or [])
        if axes not in ([-1], [len(self._shape)]):
            raise UnsupportedError("it must normalize over the last axis")

    def _activation(self, name: str, config: Record) -> None:
        self._activate(config["activation"])

    def _relu(self, name: str, config: Record) -> None:
        most = config.get("max_value")
        slope = config.get("negative_slope") or 0.0
        threshold = config.get("threshold") or 0.0
        if most is None and not slope and not threshold:
            self._step(activations.relu)
        else:
            self._step(
                functools.partial(
                    activations.relu,
                    max_value=most,
                    negative_slope=slope,
                    threshold=threshold,
                )
            )

    def _leaky_relu(self, name: str, config: Record) -> None:
        slope = config["negative_slope"]
        self._step(functools.partial(activations.relu, negative_slope=slope))

    def _elu(self, name: str, config: Record) -> None:
        self._step(functools.partial(activations.elu, alpha=config["alpha"]))

    def _softmax(self, name: str, config: Record) -> None:
        self._check_axis(config["axis"])
        self._step(activations.softmax)

    readers: typing.ClassVar[dict[str, Reader]] = {
        "Activation": _activation,
        "BatchNormalization": _batch_normalization,
        "CompressedDense": _compressed,
        "Dense": _dense,
        "ELU": _elu,
        "LeakyReLU": _leaky_relu,
        "Normalization": _normalization,
        "ReLU": _relu,
        "Rescaling": _rescaling,
        "Softmax": _softmax,
    }


def _plain(value: typing.Any) -> typing.Any:
    """A number or list of numbers of a config."""
    if isinstance(value, dict):  # an array, as Keras serializes it
        value = value["config"]["value"]
    return np.asarray(value, "float64")
