"""Models whose layers can compute at reduced resolution."""

import typing
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.arguments import check_choice
from keras_freetickets.layers.sparse import Sparse
from keras_freetickets.models.conversion import check_graph_model
from keras_freetickets.models.conversion import layer_filter
from keras_freetickets.models.conversion import sparse_class_of
from keras_freetickets.models.copying import copied
from keras_freetickets.models.copying import copy_values
from keras_freetickets.models.copying import wrapped_sparse
from keras_freetickets.resolution.layers import ReducibleBatchNormalization
from keras_freetickets.resolution.layers import ReducibleConv2D
from keras_freetickets.resolution.layers import reduced
from keras_freetickets.resolution.pooling import GAINS
from keras_freetickets.resolution.pooling import downsample
from keras_freetickets.types import Layer
from keras_freetickets.types import Model
from keras_freetickets.types import Tensor


def reducible(
    model: Model, gain: str = "area", filters: typing.Any = None
) -> Model:
    """Makes a copy of a model that can also train on images of half the size.

    Each `Conv2D` becomes a `ReducibleConv2D` and each `BatchNormalization` a
    `ReducibleBatchNormalization`, with the same weights, masks and frozen
    flags. Other layers are copied as they are: kernels of depthwise, separable
    and transposed convolutions, of compressed layers and of subclasses of
    `Conv2D` are not pooled. The copy takes images of any size, so the model
    must end in global pooling.

    At full resolution it computes what the model does. `InterleavedResolution`
    trains it; `plain` returns to Keras' own layers.

    Args:
        model: A built Functional or Sequential model, dense or sparse, with
            one input of images.
        gain: `"average"`, `"area"` (default) or `"exact"`, see
            `pool_kernel`.
        filters: Which convolutions to pool, as for `sparsify`, for example to
            leave out the first: `lambda layer: layer.name != "stem"`. `None`
            for all.

    Returns:
        A `SparseModel`, not compiled; without masks if the model has none.

    Raises:
        TypeError: If `model` is not a Keras 3 model.
        ValueError: If the model is not built, has another input than images,
            has no `Conv2D` to pool, fails on images of half its size (they are
            smaller than a pooled kernel, or a layer needs one size), or
            cannot be copied (see `sparsify`); if `gain` is unknown.

    Example:

    ```python
    model = kft.resolution.reducible(model)
    model = kft.sparsify(model, 0.8)  # before or after the conversion
    ```

    Reference:
        Poulos et al., 2019, arXiv:1910.06548.
    """
    check_choice("gain", gain, GAINS)
    check_graph_model(model)
    image = _check_images(model)
    chosen = layer_filter(filters)
    pooled = []

    def converted(layer: Layer, inner: Layer) -> Layer | None:
        if type(inner) is keras.layers.BatchNormalization:
            return _rebuilt(inner, ReducibleBatchNormalization)
        if type(inner) is not keras.layers.Conv2D or not chosen(layer):
            return None
        if inner.lora_enabled or inner.quantization_mode is not None:
            return None
        pooled.append(inner)
        return _rebuilt(inner, ReducibleConv2D, gain=gain)

    made = _copied(model, converted, _of_any_size)
    if not pooled:
        raise ValueError(
            "`model` must have a Conv2D whose kernel can be pooled. Received: "
            f"model={model.name!r} with layers of type "
            f"{sorted({type(layer).__name__ for layer in model.layers})}"
        )
    _check_half_size(model, made, image)
    return made


def plain(model: Model) -> Model:
    """The same model of Keras' own layers, for files and deployment.

    Args:
        model: A functional model with reducible layers, such as a ticket.

    Returns:
        A `SparseModel`, not compiled, that takes images of any size. Its
        batch-normalization statistics are those of full resolution.

    Raises:
        TypeError: If `model` is not a Keras 3 model.
        ValueError: If the model is not built or cannot be copied.

    Example:

    ```python
    kft.strip(kft.resolution.plain(model)).save("network.keras")
    ```
    """
    check_graph_model(model)

    def converted(layer: Layer, inner: Layer) -> Layer | None:
        if type(inner) is ReducibleConv2D:
            return _rebuilt(inner, keras.layers.Conv2D)
        if type(inner) is ReducibleBatchNormalization:
            return _rebuilt(inner, keras.layers.BatchNormalization)
        return None

    return _copied(model, converted, keras_adapter.new_input)


def _copied(model: Model, converted: Callable, make_input: Callable) -> Model:
    """A copy in which layers, also within `Sparse`, are converted."""

    def place(layer: Layer, copy: Layer) -> Layer:
        if not isinstance(copy, Sparse):
            return converted(layer, copy) or copy
        inner = converted(layer, copy.layer)
        if inner is None:
            return copy
        sparse = wrapped_sparse(inner, copy.own_config())
        copy_values(copy.layer, inner)  # it cleared them outside its own mask
        copy_values(copy, sparse)
        return sparse

    return copied(model, sparse_class_of(model), place, make_input)


def _rebuilt(layer: Layer, cls: typing.Any, **changes: typing.Any) -> Layer:
    """A layer of another class with the same weights."""
    config = {**keras_adapter.config_of(layer), **changes}
    if "gain" in config and not issubclass(cls, ReducibleConv2D):
        del config["gain"]
    made = cls.from_config(config)
    made.build_from_config(layer.get_build_config())
    copy_values(layer, made)
    for name, variable in keras_adapter.own_variables(made).items():
        if name.startswith("reduced_") and not hasattr(layer, name):
            full = getattr(layer, name.removeprefix("reduced_"))
            variable.assign(ops.convert_to_numpy(full.value))
    return made


def _check_images(model: Model) -> Tensor:
    """The input of a model, which must be images."""
    inputs = keras.tree.flatten(model.inputs)
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise ValueError(
            "`model` must have one input of images, (batch, height, width, "
            f"channels). Received: inputs of {[i.shape for i in inputs]}"
        )
    return inputs[0]


def _of_any_size(tensor: Tensor) -> Tensor:
    """A new input like another one, but for images of any height and width."""
    shape = list(tensor.shape)
    if len(shape) == 4:
        first = 2 if keras.config.image_data_format() == "channels_first" else 1
        shape[first : first + 2] = None, None
    return keras_adapter.new_input(tensor, batch_shape=tuple(shape))


def _check_half_size(model: Model, made: Model, image: Tensor) -> None:
    """Raises if the copy fails on one image of half the model's size."""
    shape = tuple(image.shape[1:])
    if None in shape:  # the layers check sizes when a step is traced
        return
    one = downsample(np.zeros((1, *shape), keras.config.floatx()))
    try:
        with reduced():
            found = made(one, training=False)
        fits = [tuple(y.shape[1:]) for y in keras.tree.flatten(found)]
    except Exception as error:  # of any layer, with a backend's message
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            "`model` must compute on images of half its size: they are too "
            "small for it, or a layer takes only one size (end in "
            f"GlobalAveragePooling2D instead of Flatten). {reason} Received: "
            f"model={model.name!r} for images of {shape}"
        ) from error
    wanted = [tuple(y.shape[1:]) for y in keras.tree.flatten(model.outputs)]
    if fits != wanted:
        raise ValueError(
            "`model` must have outputs of one shape for images of all sizes: "
            "end in GlobalAveragePooling2D. Received: "
            f"model={model.name!r} with outputs of {wanted}, and of {fits} for "
            "images of half the size"
        )
