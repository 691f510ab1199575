"""What differs between backends in tests that run on both."""

import contextlib

import keras
import pytest

ON_JAX = keras.backend.backend() == "jax"


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
