"""Each kernel in NumPy, as tests compare with it: short, not fast."""

import numpy as np

from keras_freetickets.kernels.structure import CompressedStructure
from keras_freetickets.kernels.structure import check_values
from keras_freetickets.types import Array


def forward(
    structure: CompressedStructure,
    values: Array,
    x: Array,
    bias: Array | None = None,
    relu: bool = False,
) -> np.ndarray:
    """Output of a compressed dense layer.

    Args:
        structure: `CompressedStructure`.
        values: Float array of shape `(active,)`.
        x: Float array of shape `(batch, inputs)`.
        bias: Float array of shape `(outputs,)`; `None` for zeros.
        relu: Whether negative outputs become 0.

    Returns:
        Array of shape `(batch, outputs)`.

    Raises:
        ValueError: If there is not one value for each position.
    """
    check_values(values, structure)
    products = x[:, structure.column_indices] * values
    y = np.zeros((len(x), structure.num_outputs), products.dtype)
    np.add.at(y.T, structure.row_indices, products.T)
    if bias is not None:
        y = y + bias
    return np.maximum(y, 0) if relu else y


def backward(
    structure: CompressedStructure, values: Array, x: Array, dy: Array
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of a compressed product.

    Args:
        structure: `CompressedStructure`.
        values: Float array of shape `(active,)`.
        x: Float array of shape `(batch, inputs)`.
        dy: Float array of shape `(batch, outputs)`, the gradient of the
            output.

    Returns:
        Tuple of the gradients of `x` and of `values`.

    Raises:
        ValueError: If there is not one value for each position.
    """
    check_values(values, structure)
    arriving = dy[:, structure.row_indices]
    dx = np.zeros(x.shape, np.result_type(values, dy))
    np.add.at(dx.T, structure.column_indices, (arriving * values).T)
    dvalues = np.sum(arriving * x[:, structure.column_indices], axis=0)
    return dx, dvalues


def dense_gradient_block(x: Array, dy: Array, units: slice) -> np.ndarray:
    """Gradient of all weights, active or not, of some output units.

    What growth by gradient looks at, a block of output units at a time, so
    that the gradient of a whole kernel is never held.

    Args:
        x: Float array of shape `(batch, inputs)`.
        dy: Float array of shape `(batch, outputs)`.
        units: Slice of output units.

    Returns:
        Array of shape `(inputs, units)`, columns of the kernel's gradient.
    """
    return x.T @ dy[:, units]
