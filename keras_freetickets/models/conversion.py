"""Conversion from dense to sparse models and back: sparsify and strip."""

import random
import re
import typing
import warnings
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.arguments import check_choice
from keras_freetickets.arguments import check_model
from keras_freetickets.arguments import check_number
from keras_freetickets.arguments import is_integer
from keras_freetickets.arguments import is_within
from keras_freetickets.layers.kernels import MasksKernels
from keras_freetickets.layers.kernels import find_kernels
from keras_freetickets.layers.quantization import check_float_kernels
from keras_freetickets.layers.quantization import without_float_kernel
from keras_freetickets.layers.sparse import Sparse
from keras_freetickets.models.compression import MAX_COMPRESSED_DENSITY
from keras_freetickets.models.compression import compressed_or_noted
from keras_freetickets.models.copying import added
from keras_freetickets.models.copying import copied
from keras_freetickets.models.copying import leaf_layers
from keras_freetickets.models.copying import overridden
from keras_freetickets.models.copying import overridden_outputs
from keras_freetickets.models.copying import stripped
from keras_freetickets.models.sparse_model import FunctionalSparseModel
from keras_freetickets.models.sparse_model import SparseModel
from keras_freetickets.optional import import_optional
from keras_freetickets.topology import distributions
from keras_freetickets.topology import mask_initializers
from keras_freetickets.trainers.step import effective_kernels
from keras_freetickets.types import Model


def check_graph_model(model: Model) -> None:
    """Raises unless a model is built and can be copied layer by layer.

    Args:
        model: Any object.
    """
    check_model("model", model)
    is_sequential = isinstance(model, keras.Sequential)
    if not is_sequential and not isinstance(model, keras_adapter.Functional):
        raise ValueError(
            "`model` must be a Functional or Sequential model. For a "
            "subclassed model, wrap its layers in "
            "keras_freetickets.layers.Sparse and derive its class from "
            "keras_freetickets.SparseModel. "
            f"Received: model of type {type(model).__name__}"
        )
    if not model.built:
        raise ValueError(
            "`model` must be built: give it a keras.Input or call "
            f"`model.build(input_shape)`. Received: model={model.name!r}"
        )


def sparse_class_of(model: Model) -> type:
    """The class of a sparse copy of a model.

    Raises if the model's class overrides methods, because a copy has only the
    layers of the model.

    Args:
        model: A functional model.
    """
    if isinstance(model, SparseModel):
        own = keras_adapter.functional_like_constructor(type(model))
        return type(model) if own else FunctionalSparseModel
    name = type(model).__name__
    changed = overridden(model)
    if changed:
        raise ValueError(
            "`model` must be defined by its layers, but its class overrides "
            f"{changed}, which a copy of the layers would lose. Derive the "
            "class from keras_freetickets.SparseModel, which keeps them, or "
            "convert only the layers: "
            "`keras.Model(model.inputs, model.outputs)`. "
            f"Received: model of type {name}"
        )
    lost = added(model)
    if lost:
        warnings.warn(
            f"The sparse copy of '{model.name}' is a SparseModel, not a "
            f"{name}: it has the same layers, but not {lost}.",
            stacklevel=3,
        )
    return FunctionalSparseModel


def layer_filter(filters: typing.Any) -> Callable:
    """Makes a predicate of layers from a regex, a list or a callable.

    Args:
        filters: As for `sparsify`.
    """
    if filters is None:
        return lambda layer: True
    if callable(filters):
        return filters
    given = [filters] if isinstance(filters, str) else filters
    try:
        patterns = [re.compile(pattern) for pattern in given]
    except (TypeError, re.error) as error:
        raise ValueError(
            "`filters` must be a regex of layer names, a list of them, or a "
            f"callable of a layer. Received: filters={filters} ({error})"
        ) from error
    return lambda layer: any(
        p.search(layer.path) or p.search(layer.name) for p in patterns
    )


def _kernels_of(kernels):
    """Makes a function from a layer to the names of weights to mask."""
    if not callable(kernels):
        _checked_kernels(kernels)

    def of_layer(layer):
        given = kernels(layer) if callable(kernels) else kernels
        return _declared(layer) if given is None else _checked_kernels(given)

    return of_layer


def _declared(layer):
    """`sparse_kernels` set on an instance, which a copy would not have."""
    parts = keras_adapter.sublayers(layer)
    if not any("sparse_kernels" in vars(part) for part in parts):
        return None
    places = find_kernels(layer)
    roles = tuple(dict.fromkeys(place.role for place in places))
    alike = [place.name for place in find_kernels(layer, roles)]
    if alike != [place.name for place in places]:
        raise ValueError(
            "`sparse_kernels` of a sublayer must be declared in its class, or "
            "name the same weights in all sublayers. "
            f"Received: layer '{layer.name}', which would mask {alike}"
        )
    return roles


def _checked_kernels(kernels):
    listed = isinstance(kernels, (tuple, list))
    names = listed and all(isinstance(name, str) for name in kernels)
    if kernels is not None and not names:
        raise ValueError(
            "`kernels` must be a tuple of attribute names of layers, such "
            'as ("kernel", "embeddings"), a callable that takes a layer and '
            f"returns such a tuple, or None. Received: kernels={kernels}"
        )
    return kernels


def _check_known_kernels(model, kernels):
    """Raises for a name in `kernels` that no layer has, such as a typo."""
    if kernels is None or callable(kernels):
        return
    parts = keras_adapter.sublayers(model)
    for name in kernels:
        if not any(hasattr(part, name) for part in parts):
            raise ValueError(
                "`kernels` must name attributes of the model's layers. "
                f"Received: kernels={kernels}, and no layer of "
                f"'{model.name}' has {name!r}"
            )


def _plan(model, sparsity, distribution, filters, kernels):
    """Maps id(layer) to the list of sparsities of its kernels."""
    if not callable(sparsity):
        check_sparsity(sparsity)
    chosen = layer_filter(filters)
    layers = []
    for layer in leaf_layers(model):
        if isinstance(layer, MasksKernels):
            continue
        roles = kernels(layer)
        places = find_kernels(layer, roles)
        maskable = places or without_float_kernel(layer, roles)
        if not maskable or not chosen(layer):
            continue
        value = sparsity(layer) if callable(sparsity) else None
        if callable(sparsity) and value is None:
            continue
        check_float_kernels(layer, roles)
        layers.append((layer, places, value))
    shapes = [tuple(p.variable.shape) for _, ps, _ in layers for p in ps]
    _check_something_left(model, layers, filters)
    if callable(sparsity):
        for _, _, value in layers:
            check_sparsity(value)
        return {id(la): [v] * len(ps) for la, ps, v in layers}
    densities = distributions.get(distribution)(shapes, sparsity)
    _check_densities(densities, len(shapes))
    rest = iter(densities)
    return {
        id(layer): [1.0 - next(rest) for _ in places]
        for layer, places, _ in layers
    }


def check_sparsity(sparsity: typing.Any) -> None:
    if not is_within(sparsity, "[0, 1)"):
        raise ValueError(
            "`sparsity` must be in [0, 1): the fraction of weights to remove, "
            f"or a callable of a layer. Received: sparsity={sparsity}"
        )


def _check_densities(densities, count):
    listed = isinstance(densities, (list, tuple, np.ndarray))
    valid = listed and all(is_within(d, "(0, 1]") for d in densities)
    if not valid or len(densities) != count:
        raise ValueError(
            "`distribution` must return a density in (0, 1] for each of the "
            f"{count} kernels. Received: {densities}"
        )


def _check_something_left(model, layers, filters):
    if layers:
        return
    if any(isinstance(la, MasksKernels) for la in leaf_layers(model)):
        raise ValueError(
            f"Model '{model.name}' is already sparse: its sparse layers are "
            "kept, and no other kernel can be masked. Call `sparsify` on the "
            "dense model, or on `strip(model)`."
        )
    names = [layer.name for layer in leaf_layers(model)]
    raise ValueError(
        f"Model '{model.name}' has nothing to mask: no layer has a kernel "
        "that `filters` and `kernels` select. "
        f"Received: filters={filters}, layers={names}"
    )


def _is_trained(model, kernels):
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and int(optimizer.iterations.numpy()) > 0:
        return True
    leaves = leaf_layers(model)
    layers = [la for la in leaves if not isinstance(la, MasksKernels)]
    places = [p for la in layers for p in find_kernels(la, kernels(la))]
    return not all(place.is_initial() for place in places)


def _choose_initializer(model, mask_initializer, kernels):
    if mask_initializer is not None:
        mask_initializers.get(mask_initializer)
    trained = _is_trained(model, kernels)
    if mask_initializer == "random" and trained:
        warnings.warn(
            f"Model '{model.name}' seems to be trained, and "
            "`mask_initializer='random'` removes most of its trained weights. "
            "`mask_initializer='magnitude'` keeps the largest weights.",
            stacklevel=3,
        )
    if mask_initializer is not None:
        return mask_initializer
    return "magnitude" if trained else "random"


def sparsify(
    model: Model,
    sparsity: typing.Any,
    distribution: str | Callable = "erk",
    filters: typing.Any = None,
    mask_initializer: str | Callable | None = None,
    seed: int | None = None,
    kernels: typing.Any = None,
    storage: str = "mask",
    max_compressed_density: float = MAX_COMPRESSED_DENSITY,
) -> Model:
    """Makes a sparse copy of a model; the model itself stays dense.

    The copy has the model's current values and frozen flags, so load weights
    first. Sparse layers that the model already has are copied unchanged.

    Args:
        model: A built Functional or Sequential `keras.Model`.
        sparsity: Float in [0, 1), the fraction of all maskable weights to
            remove, or a callable that takes a layer and returns its sparsity,
            or `None` to leave the layer dense.
        distribution: How the sparsity is distributed over the layers: `"erk"`
            (default, as in FreeTickets), `"er"`, `"uniform"` or a callable
            `(shapes, sparsity) -> densities`. Not used if `sparsity` is a
            callable.
        filters: Which layers to mask: a regex of layer names or paths, a list
            of them, or a callable of a layer, as in `keras.Model.quantize`.
            `None` for all layers with kernels.
        mask_initializer: `"random"`, `"magnitude"` or a callable, as for
            `keras_freetickets.layers.Sparse`. `None` for magnitude if the
            model has trained values, else random.
        seed: Non-negative integer for random masks. `None` draws one now;
            `keras.utils.set_random_seed` makes it reproducible.
        kernels: Tuple of attribute names of layers, the weights to mask:
            `("kernel",)` for a MobileNet with its depthwise convolutions,
            `("kernel", "embeddings")` for a language model. Or a callable that
            takes a layer and returns such a tuple, or `None` for the layer's
            default. `None` for the default of all layers: the names in their
            `sparse_kernels`, or else kernels, recurrent and pointwise kernels,
            but not depthwise convolutions (with as many groups as channels),
            embeddings, biases and normalization.
        storage: `"mask"` (default): each kernel has a mask, and its layer
            computes as before. `"compressed"`: of Dense, of EinsumDense that
            multiplies matrices, of Conv1D and Conv2D, of the pointwise kernels
            of SeparableConv1D and SeparableConv2D, and of the projections of
            MultiHeadAttention and GroupQueryAttention only the active weights
            exist, so that training and prediction take less time and memory
            on a processor (docs/real_sparsity.md). All other kernels have
            masks; `sparsity_summary` says why.
        max_compressed_density: Float in (0, 1]. A kernel of a higher density
            has a mask, as its dense product is faster. Defaults to 0.2
            (measured, see docs/real_sparsity.md). A ramp that begins dense
            needs a higher one.

    Returns:
        A `SparseModel`, not compiled. If `model` is already a `SparseModel`,
        the copy has its class, so methods of a subclass are kept.

    Raises:
        TypeError: If `model` is not a Keras 3 model.
        ValueError: If an argument is out of range, the model is not built,
            nothing can be masked, a layer to mask is quantized to integers or
            has LoRA, a layer cannot be copied, or the class of `model`
            overrides methods that a copy of its layers would lose.

    Example:

    ```python
    sparse = keras_freetickets.sparsify(model, sparsity=0.8, seed=1)
    keras_freetickets.sparsity_summary(sparse)
    ```

    Reference:
        Liu et al., 2022, arXiv:2106.14568; ERK: arXiv:1911.11134.
    """
    check_graph_model(model)
    sparse_class = sparse_class_of(model)
    named = _kernels_of(kernels)
    _check_known_kernels(model, kernels)
    check_choice("storage", storage, ("mask", "compressed"))
    check_number("max_compressed_density", max_compressed_density, "(0, 1]")
    plan = _plan(model, sparsity, distribution, filters, named)
    initializer = _choose_initializer(model, mask_initializer, named)
    seeds = _seeds(seed)

    def place(layer, copy):
        if id(layer) not in plan:
            return copy
        sparse = Sparse(
            copy,
            sparsity=plan[id(layer)],
            kernels=named(layer),
            mask_initializer=initializer,
            seed=next(seeds),
        )
        sparse.build()
        if storage == "compressed":
            return compressed_or_noted(sparse, max_compressed_density)
        return sparse

    if storage == "compressed":
        import_optional("numba")  # now, not with the first step
    return copied(model, sparse_class, place)


def _seeds(seed):
    if seed is not None and (not is_integer(seed) or seed < 0):
        raise ValueError(
            "`seed` must be a non-negative integer or None. "
            f"Received: seed={seed}"
        )
    # Without a seed, keras.utils.set_random_seed makes it reproducible.
    seed = random.randrange(2**31) if seed is None else int(seed)
    generator = np.random.default_rng(seed)
    while True:
        yield int(generator.integers(2**31))


def strip(model: Model) -> Model:
    """Makes a plain Keras copy without masks; absent weights are zeros.

    If the model's method predicts with transformed kernels
    (`effective_at_inference`, for example ternary weights), the copy has
    those.

    Args:
        model: A functional `SparseModel`.

    Returns:
        A Functional `keras.Model`, not compiled. Its weights have the names
        and order of the dense model that was sparsified. It has that model's
        class if only that class can rebuild its layers (some backbones of
        KerasHub).

    Raises:
        TypeError: If `model` is not a functional `SparseModel`.
        ValueError: If a layer cannot be copied without its masks, or the class
            of `model` overrides `call`, which a plain model would lose.

    Example:

    ```python
    keras_freetickets.strip(model).save("plain.keras")
    ```
    """
    if not isinstance(model, SparseModel):
        raise TypeError(
            "`model` must be a SparseModel, made by `sparsify`. "
            f"Received: model of type {type(model).__name__}"
        )
    if not isinstance(model, keras_adapter.Functional):
        raise TypeError(
            "`model` must be functional; a subclassed SparseModel has no "
            "plain class to convert to. "
            f"Received: model of type {type(model).__name__}"
        )
    changed = overridden_outputs(model)
    if changed:
        raise ValueError(
            "`model` must be defined by its layers, but its class overrides "
            f"{changed}, which a plain model of the layers would lose. "
            "Strip only the layers: `strip(keras_freetickets.SparseModel("
            "model.inputs, model.outputs))`. "
            f"Received: model of type {type(model).__name__}"
        )
    kernels = [kernel for kernel, _ in effective_kernels(model)]
    own = [ops.convert_to_numpy(kernel.value) for kernel in kernels]
    try:
        for kernel, value in effective_kernels(model):
            kernel.assign(value)
        return stripped(model)
    finally:
        for kernel, value in zip(kernels, own, strict=True):
            kernel.assign(value)
