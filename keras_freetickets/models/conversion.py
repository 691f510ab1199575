"""From dense to sparse and back: sparsify and strip."""

import numbers
import random
import re
import warnings

import keras
import numpy as np

from keras_freetickets import keras_adapter
from keras_freetickets.arguments import check_model
from keras_freetickets.layers.sparse import Sparse
from keras_freetickets.layers.sparse import check_float_kernels
from keras_freetickets.layers.sparse import check_mask_initializer
from keras_freetickets.layers.sparse import find_kernels
from keras_freetickets.layers.sparse import without_float_kernel
from keras_freetickets.models.members import check_copied_by_config
from keras_freetickets.models.sparse_model import FunctionalSparseModel
from keras_freetickets.models.sparse_model import SparseModel
from keras_freetickets.topology import distributions


def _check_model(model):
    check_model("model", model)
    is_sequential = isinstance(model, keras.Sequential)
    if not is_sequential and not isinstance(model, keras_adapter.Functional):
        raise ValueError(
            "`model` must be a Functional or Sequential model. Wrap the "
            "layers of a subclassed one in keras_freetickets.layers.Sparse "
            "and derive it from keras_freetickets.SparseModel. "
            f"Received: model of type {type(model).__name__}"
        )
    if not model.built:
        raise ValueError(
            "`model` must be built: give it a keras.Input or call "
            f"`model.build(input_shape)`. Received: model={model.name!r}"
        )


def _filter(filters):
    """A predicate of layers from a regex, a list of them or a callable."""
    if filters is None:
        return lambda layer: True
    if callable(filters):
        return filters
    patterns = [filters] if isinstance(filters, str) else filters
    try:
        patterns = [re.compile(pattern) for pattern in patterns]
    except (TypeError, re.error) as error:
        raise ValueError(
            "`filters` must be a regex of layer names, a list of them, or a "
            f"callable of a layer. Received: filters={filters} ({error})"
        ) from error
    return lambda layer: any(
        p.search(layer.path) or p.search(layer.name) for p in patterns
    )


def _is_model(layer):
    return isinstance(layer, (keras.Sequential, keras_adapter.Functional))


def _leaf_layers(model):
    """Layers of the graph, nested models entered; each once."""
    leaves = []
    for layer in model.layers:
        inner = _leaf_layers(layer) if _is_model(layer) else [layer]
        leaves.extend(x for x in inner if not any(x is y for y in leaves))
    return leaves


def _plan(model, sparsity, distribution, filters):
    """Maps id(layer) to the list of sparsities of its kernels."""
    if not callable(sparsity):
        check_sparsity(sparsity)
    chosen = _filter(filters)
    layers = []
    for layer in _leaf_layers(model):
        if isinstance(layer, Sparse):
            continue
        places = find_kernels(layer)
        maskable = places or without_float_kernel(layer)
        if not maskable or not chosen(layer):
            continue
        value = sparsity(layer) if callable(sparsity) else None
        if callable(sparsity) and value is None:
            continue
        check_float_kernels(layer)
        layers.append((layer, places, value))
    shapes = [tuple(p.variable.shape) for _, ps, _ in layers for p in ps]
    _check_something_left(model, layers, filters)
    if callable(sparsity):
        for _, _, value in layers:
            check_sparsity(value)
        return {id(la): [v] * len(ps) for la, ps, v in layers}
    densities = distributions.get(distribution)(shapes, sparsity)
    _check_densities(densities, len(shapes))
    densities = iter(densities)
    return {
        id(layer): [1.0 - next(densities) for _ in places]
        for layer, places, _ in layers
    }


def check_sparsity(sparsity):
    number = isinstance(sparsity, numbers.Real)
    if not number or not 0.0 <= sparsity < 1.0:
        raise ValueError(
            "`sparsity` must be in [0, 1): the fraction of weights to remove, "
            f"or a callable of a layer. Received: sparsity={sparsity}"
        )


def _check_densities(densities, count):
    listed = isinstance(densities, (list, tuple, np.ndarray))
    valid = listed and all(
        isinstance(d, numbers.Real) and 0 < d <= 1 for d in densities
    )
    if not valid or len(densities) != count:
        raise ValueError(
            "`distribution` must return a density in (0, 1] for each of the "
            f"{count} kernels. Received: {densities}"
        )


def _check_something_left(model, layers, filters):
    if layers:
        return
    if any(isinstance(la, Sparse) for la in _leaf_layers(model)):
        raise ValueError(
            f"Model '{model.name}' is sparse already: its Sparse layers are "
            "kept as they are, and nothing else is left to mask. Call "
            "`sparsify` on the dense model, or on `strip(model)`."
        )
    names = [layer.name for layer in _leaf_layers(model)]
    raise ValueError(
        f"Model '{model.name}' has nothing to mask: none of its layers has a "
        f"kernel that `filters` lets through. Received: filters={filters}, "
        f"layers={names}"
    )


def _is_trained(model):
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and int(optimizer.iterations.numpy()) > 0:
        return True
    layers = [la for la in _leaf_layers(model) if not isinstance(la, Sparse)]
    places = [place for layer in layers for place in find_kernels(layer)]
    return not all(place.is_initial() for place in places)


def _choose_initializer(model, mask_initializer):
    if mask_initializer is not None:
        check_mask_initializer(mask_initializer)
    trained = _is_trained(model)
    if mask_initializer == "random" and trained:
        warnings.warn(
            f"Model '{model.name}' holds values other than its initial ones; "
            "`mask_initializer='random'` throws most of what it learned away. "
            "`mask_initializer='magnitude'` keeps the largest weights.",
            stacklevel=3,
        )
    if mask_initializer is not None:
        return mask_initializer
    return "magnitude" if trained else "random"


def _copy_layer(layer):
    if not isinstance(layer, keras.Layer):
        # An operation of keras.ops in the graph.
        return type(layer).from_config(layer.get_config())
    check_copied_by_config(layer)
    copy = type(layer).from_config(keras_adapter.config_of(layer))
    config = layer.get_build_config()
    if layer.built and config and not copy.built:
        copy.build_from_config(config)
    if layer.built and copy.built and layer.weights:
        keras_adapter.copy_weights(layer, copy)
    if layer.built:
        keras_adapter.copy_adapted_state(layer, copy)
    return copy


def _clone(model, convert):
    """Copies a graph, `convert` making each layer; values are taken over."""
    originals = {}

    def clone_layer(layer):
        copy = convert(layer)
        originals[layer] = copy
        return copy

    clone = keras.models.clone_model(
        model, clone_function=clone_layer, recursive=True
    )
    return clone, originals


def sparsify(
    model,
    sparsity,
    distribution="erk",
    filters=None,
    mask_initializer=None,
    seed=None,
):
    """Makes a sparse copy of a model; the model itself stays dense.

    The copy takes over the model's current values, so load weights first.
    `Sparse` layers that the model has already are copied as they are.

    Args:
        model: A built Functional or Sequential `keras.Model`.
        sparsity: Float in [0, 1), the fraction of all maskable weights to
            remove, or a callable that takes a layer and returns its sparsity,
            `None` to leave it alone.
        distribution: How the sparsity is spread over the layers: `"erk"`
            (default, as in FreeTickets), `"er"`, `"uniform"` or a callable
            `(shapes, sparsity) -> densities`. Unused if `sparsity` is a
            callable.
        filters: Which layers to mask: a regex of layer names or paths, a list,
            or a callable of a layer, as in `keras.Model.quantize`. `None` for
            all that have kernels.
        mask_initializer: `"random"` or `"magnitude"`. `None` for magnitude if
            the model holds trained values, else random.
        seed: Natural number for random masks. `None` for one drawn now, which
            `keras.utils.set_random_seed` makes reproducible.

    Returns:
        A `SparseModel`, not compiled.

    Raises:
        TypeError: If `model` is no Keras 3 model.
        ValueError: If an argument is out of range, the model is not built,
            nothing is left to mask, or a layer that would be masked is
            quantized to integers or has LoRA.

    Example:

    ```python
    sparse = keras_freetickets.sparsify(model, sparsity=0.8, seed=1)
    keras_freetickets.sparsity_summary(sparse)
    ```

    Reference:
        Liu et al., 2022, arXiv:2106.14568; ERK: arXiv:1911.11134.
    """
    _check_model(model)
    plan = _plan(model, sparsity, distribution, filters)
    initializer = _choose_initializer(model, mask_initializer)
    seeds = _seeds(seed)

    def convert(layer):
        copy = _copy_layer(layer)
        if id(layer) not in plan:
            return copy
        _check_rebuilt(layer, copy)
        return Sparse(
            copy,
            sparsity=plan[id(layer)],
            mask_initializer=initializer,
            seed=next(seeds),
        )

    clone, originals = _clone(model, convert)
    sparse = FunctionalSparseModel(
        *keras_adapter.ends_of_graph(clone), name=model.name
    )
    _take_over_values(originals)
    return sparse


def _seeds(seed):
    if seed is not None and (
        not isinstance(seed, numbers.Integral) or seed < 0
    ):
        raise ValueError(
            f"`seed` must be a natural number or None. Received: seed={seed}"
        )
    # keras.utils.set_random_seed decides where no seed is given.
    seed = random.randrange(2**31) if seed is None else int(seed)
    generator = np.random.default_rng(seed)
    while True:
        yield int(generator.integers(2**31))


def _check_rebuilt(layer, copy):
    if not copy.built:
        raise ValueError(
            f"Layer '{layer.name}' cannot be copied with its weights: it must "
            "make them in `build`, or implement `get_build_config` and "
            f"`build_from_config`. Received: {type(layer).__name__}"
        )


def _take_over_values(originals):
    """Values of layers that were only built by the calls of the graph."""
    for layer, copy in originals.items():
        if not isinstance(layer, keras.Layer):
            continue
        wrapped = isinstance(copy, Sparse) and not isinstance(layer, Sparse)
        if layer.weights and not wrapped:
            keras_adapter.copy_weights(layer, copy)


def strip(model):
    """Makes a plain Keras copy: no custom layer left, zeros in the kernels.

    Args:
        model: A `SparseModel` with a graph of layers.

    Returns:
        A Functional `keras.Model`, not compiled, whose weights have the names
        and the order of the dense model that was sparsified.

    Raises:
        TypeError: If `model` is no `SparseModel`.

    Example:

    ```python
    keras_freetickets.strip(model).save("plain.keras")
    ```
    """
    if not isinstance(model, SparseModel):
        raise TypeError(
            "`model` must be a SparseModel, as `sparsify` makes it. "
            f"Received: model of type {type(model).__name__}"
        )
    if not isinstance(model, keras_adapter.Functional):
        raise TypeError(
            "`model` must be made of a graph of layers; a subclassed "
            "SparseModel has no plain class to return to. "
            f"Received: model of type {type(model).__name__}"
        )
    plain = keras_adapter.Functional(
        *keras_adapter.ends_of_graph(model), name=model.name
    )

    def convert(layer):
        return _copy_layer(layer.layer if isinstance(layer, Sparse) else layer)

    clone, originals = _clone(plain, convert)
    for layer, copy in originals.items():
        if not isinstance(layer, keras.Layer):
            continue
        source = layer.layer if isinstance(layer, Sparse) else layer
        if source.weights:
            keras_adapter.copy_weights(source, copy)
    return clone
