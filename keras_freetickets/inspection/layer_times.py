"""How long each layer of a model takes to predict a batch, measured."""

import statistics
import time
import typing
from collections.abc import Callable
from collections.abc import Sequence

import keras
import numpy as np
from keras import tree

from keras_freetickets import keras_adapter
from keras_freetickets.types import Array
from keras_freetickets.types import Layer
from keras_freetickets.types import Model

# Few calls, as a model has many layers; the median leaves out hiccups.
_TURNS, _SECONDS = 15, 0.2


def milliseconds(
    model: Model, layers: Sequence[typing.Any], inputs: typing.Any
) -> dict[int, float]:
    """Milliseconds of each layer, called as the model calls it.

    A layer that is called several times is measured on its first call. On
    TensorFlow each runs as a graph, on JAX compiled.

    Args:
        model: A built model.
        layers: List of layers of it.
        inputs: A batch of arrays, in the structure that the model takes.

    Returns:
        Dict from the `id` of a layer to the median of 15 calls, or of as many
        as 0.2 seconds allow. Layers that are called in a loop of the backend
        alone, such as cells, are left out.
    """
    calls: dict[int, tuple] = {}

    def noting(layer: Layer, call: Callable) -> Callable:
        def noted(*args: typing.Any, **kwargs: typing.Any) -> typing.Any:
            if keras_adapter.has_values(args):
                calls.setdefault(id(layer), (args, kwargs))
            return call(*args, **kwargs)

        return noted

    with keras_adapter.wrapped_calls(layers, noting):
        model(tree.map_structure(keras.ops.convert_to_tensor, inputs))
    return {
        id(layer): _median(_ready(layer, *calls[id(layer)]))
        for layer in layers
        if id(layer) in calls
    }


def _ready(layer: Layer, args: tuple, kwargs: dict) -> Callable[[], typing.Any]:
    """A function that calls a layer and waits for the result."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        run = tf.function(lambda *a: layer(*a, **kwargs), autograph=False)
        return lambda: tree.map_structure(np.asarray, run(*args))
    if backend == "jax":
        import jax

        state = [
            [v.value for v in group]
            for group in (
                layer.trainable_variables,
                layer.non_trainable_variables,
            )
        ]
        stateless = jax.jit(
            lambda *values: layer.stateless_call(*values, **kwargs)[0]
        )
        return lambda: jax.block_until_ready(stateless(*state, *args))
    return lambda: layer(*args, **kwargs)


def _median(run: Callable[[], typing.Any]) -> float:
    run()  # compiles
    found: list[float] = []
    begin = time.perf_counter()
    while len(found) < _TURNS:
        start = time.perf_counter()
        run()
        now = time.perf_counter()
        found.append(1e3 * (now - start))
        if now - begin > _SECONDS:
            break
    return statistics.median(found)


def random_batch(example: typing.Any, batch_size: int) -> typing.Any:
    """A batch for a model: normal floats, and zeros for all else.

    Args:
        example: Symbolic inputs of one example.
        batch_size: Positive integer.
    """
    generator = np.random.default_rng(0)

    def one(tensor: typing.Any) -> Array:
        shape = (batch_size, *tensor.shape[1:])
        values = generator.normal(size=shape)
        known = "float" in tensor.dtype
        return (values if known else np.zeros(shape)).astype(
            "float32" if known else tensor.dtype
        )

    return tree.map_structure(one, example)
