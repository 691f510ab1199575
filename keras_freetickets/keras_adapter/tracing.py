"""Layers and operations while a model is called or traced."""

import contextlib
import typing
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

import keras
from keras import ops
from keras import tree
from keras.src import backend

from keras_freetickets.types import Layer


def has_values(tensors: typing.Any) -> bool:
    """Whether tensors are arrays now, and not those of a program.

    Args:
        tensors: Tensor or variable, or a structure of them.
    """
    if keras.backend.backend() == "jax":
        import jax

        return not any(
            isinstance(getattr(one, "value", one), jax.core.Tracer)
            for one in tree.flatten(tensors)
        )
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.executing_eagerly()
    return True


@contextlib.contextmanager
def wrapped_calls(
    layers: Sequence[typing.Any], wrap: Callable[[Layer, Callable], Callable]
) -> Iterator[None]:
    """Context in which the `call` of some layers is another one.

    Args:
        layers: List of layers.
        wrap: Callable from a layer and its `call` to the one to use.
    """
    # Keras calls the second one if the layer is quantized.
    places = [(p, n) for p in layers for n in ("call", "quantized_call")]
    before = [vars(part).get(name) for part, name in places]
    try:
        for part, name in places:
            vars(part)[name] = wrap(part, getattr(part, name))
        yield
    finally:
        for (part, name), call in zip(places, before, strict=True):
            vars(part).pop(name, None)
            if call is not None:
                vars(part)[name] = call


@contextlib.contextmanager
def exact_moments() -> Iterator[None]:
    """Context in which moments have the right second derivatives too.

    On TensorFlow, Keras' group and layer normalization compute the variance by
    `tf.nn.moments`, as the mean square of `x - stop_gradient(mean)`. Its first
    derivative is right, because distances from a mean sum to zero, but the
    derivative of that gradient lacks a term. Trace gradients of gradients in
    this context.
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    nn = backend.nn
    theirs = nn._compute_moments
    nn._compute_moments = _moments
    try:
        yield
    finally:
        nn._compute_moments = theirs


def _moments(x, axes, keepdims):
    mean = ops.mean(x, axes, keepdims=True)
    variance = ops.mean(ops.square(x - mean), axes, keepdims=True)
    if keepdims:
        return mean, variance
    return ops.squeeze(mean, axes), ops.squeeze(variance, axes)
