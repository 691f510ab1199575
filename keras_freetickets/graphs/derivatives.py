"""Jacobians and products of Hessians and vectors, on TensorFlow and on JAX."""

import typing

import keras
from keras import ops

from keras_freetickets import keras_adapter


def derivatives() -> typing.Any:
    """Derivatives on the backend of Keras.

    Returns:
        Object with `jacobian(function)`, `hessian_products(function)` and
        `mapped(function)`, which return functions of arrays.

    Raises:
        RuntimeError: On a backend that is neither TensorFlow nor JAX.
    """
    name = keras.backend.backend()
    if name not in ("tensorflow", "jax"):
        raise RuntimeError(
            "Influence functions need the backend tensorflow or jax. "
            f"Received: backend {name!r}"
        )
    return _TensorFlow() if name == "tensorflow" else _Jax()


class _Jax:
    """Derivatives on JAX."""

    def jacobian(self, function):
        import jax

        return jax.jit(jax.jacrev(function))

    def hessian_products(self, function):
        import jax

        @jax.jit
        def products(theta, x, vectors):
            def gradient(value):
                return jax.grad(function)(value, x)

            def product(vector):
                return jax.jvp(gradient, (theta,), (vector,))[1]

            return jax.vmap(product)(vectors)

        return products

    def mapped(self, function):
        import jax

        return jax.jit(jax.vmap(function, in_axes=(0, None)))


class _TensorFlow:
    """Derivatives on TensorFlow."""

    def jacobian(self, function):
        import tensorflow as tf

        @tf.function
        def derivative(theta, x, rows):
            with tf.GradientTape() as tape:
                tape.watch(theta)
                values = function(theta, x, rows)
            return tape.jacobian(values, theta, "zero")

        return _on_tensors(derivative)

    def hessian_products(self, function):
        import tensorflow as tf

        @tf.function
        def products(theta, x, vectors):
            with keras_adapter.exact_moments(), tf.GradientTape() as outer:
                outer.watch(theta)
                with tf.GradientTape() as inner:
                    inner.watch(theta)
                    value = function(theta, x)
                gradient = inner.gradient(value, theta, None, "zero")
                projected = tf.linalg.matvec(vectors, gradient)
            # Row i: the gradient of vector i times the gradient.
            return outer.jacobian(projected, theta, "zero")

        return _on_tensors(products)

    def mapped(self, function):
        import tensorflow as tf

        @tf.function
        def outputs(thetas, x):
            return tf.vectorized_map(lambda one: function(one, x), thetas)

        return _on_tensors(outputs)


def _on_tensors(function):
    """Arrays become tensors first, so that TensorFlow traces once."""

    def call(*arguments):
        return function(*map(ops.convert_to_tensor, arguments))

    return call
