"""The kernels within TensorFlow's graphs.

They are called as Python functions: `tf.numpy_function` hands tensors over
without copying them and holds the GIL between kernels, not within.
"""

from collections.abc import Callable

import numpy as np

from keras_freetickets.kernels import operations
from keras_freetickets.kernels.structure import CompressedStructure
from keras_freetickets.optional import tensorflow as tf
from keras_freetickets.types import Tensor

# XLA refuses a call of Python and shows the name of its node. (Keras leaves
# layers uncompiled whose `supports_jit` is False.)
_NODE = "compressed_layers_do_not_run_in_XLA__use_storage_mask"


def product(
    structure: Callable[[], CompressedStructure],
    values: Tensor,
    x: Tensor,
    bias: Tensor,
    relu: bool = False,
) -> Tensor:
    """Output of a compressed dense layer, differentiable once.

    Args:
        structure: Callable that returns the `CompressedStructure`: asked in
            every step, so that a new topology needs no new trace.
        values: float32 tensor of shape `(active,)`.
        x: float32 tensor of shape `(batch, inputs)`.
        bias: float32 tensor of shape `(outputs,)`.
        relu: Whether negative outputs become 0.

    Returns:
        float32 tensor of shape `(batch, outputs)`.

    Raises:
        ImportError: If numba or TensorFlow is not installed.
        ValueError: If a tensor is not float32.
    """
    for name, tensor in (("values", values), ("x", x), ("bias", bias)):
        if tensor.dtype != "float32":
            raise ValueError(
                f"`{name}` must be float32: compressed layers compute in "
                "float32; for another dtype use storage='mask'. Received: "
                f"{name}.dtype={tensor.dtype}"
            )

    def forward(values: np.ndarray, x: np.ndarray, bias: np.ndarray):
        return operations.forward(structure(), values, x, bias, relu)

    def backward(values, x, dy, y):
        y = y if relu else None
        return operations.backward(structure(), values, x, dy, y)

    @tf.custom_gradient
    def call(values, x, bias):
        y = tf.numpy_function(
            forward, [values, x, bias], tf.float32, stateful=False, name=_NODE
        )
        y.set_shape([x.shape[0], bias.shape[0]])

        def gradient(dy):
            kept = y if relu else tf.zeros((0,))
            dx, dvalues, dbias = tf.numpy_function(
                backward,
                [values, x, dy, kept],
                [tf.float32] * 3,
                stateful=False,
                name=_NODE,
            )
            for one, like in ((dx, x), (dvalues, values), (dbias, bias)):
                one.set_shape(like.shape)
            return dvalues, dx, dbias

        return y, gradient

    return call(values, x, bias)
