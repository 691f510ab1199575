"""What differs between backends in tests that run on both."""

import contextlib
import importlib.metadata

import keras
import pytest

ON_JAX = keras.backend.backend() == "jax"
# TensorFlow 2.21 does not know the StableHLO of its SavedModels, and float64 is
# rounded to float32 in a vectorized step with batch normalization and dropout.
ON_NEW_JAX = ON_JAX and tuple(
    map(int, importlib.metadata.version("jax").split(".")[:3])
) >= (0, 11, 1)


def in_graph(function, jit_compile):
    """A function of tensors as a graph, or as one compiled program."""
    if not ON_JAX:
        import tensorflow as tf

        return tf.function(function, jit_compile=jit_compile, autograph=False)
    if not jit_compile:
        pytest.skip("JAX has no graphs that are not compiled")
    import jax

    return jax.jit(function)


def one_by_one():
    """A context in which loops are Python's, outside of graphs."""
    if not ON_JAX:
        return contextlib.nullcontext()
    import jax

    return jax.disable_jit()


def examples(count):
    """Hypothesis examples: fewer on JAX, which compiles for each shape."""
    return max(5, count // 6) if ON_JAX else count
