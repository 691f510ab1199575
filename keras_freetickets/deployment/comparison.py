"""Whether a file computes what its model computes."""

import dataclasses
from collections.abc import Sequence

import keras
import numpy as np

from keras_freetickets import keras_adapter
from keras_freetickets.types import Array

# Examples that are compared, and the seed of random ones.
_NUM_EXAMPLES = 64
_SEED = 0
# How large the differences may be, in root mean square and relative to how
# much outputs vary. Ours: right files of small networks are below a tenth of
# these, and what LiteRT computes from blocks it misreads is above 2, or NaN.
LIMITS = {
    "float32": 1e-3,
    "float16": 0.05,
    "int8_dynamic": 0.5,
    "int8": 0.5,
}
# Outputs that vary less than this share of their size are compared with it. A
# step of 8 bits is 0.4 % of the range of outputs.
LEAST_VARIATION = {
    "float32": 1e-3,
    "float16": 1e-3,
    "int8_dynamic": 0.02,
    "int8": 0.02,
}


@dataclasses.dataclass
class Difference:
    """How far outputs are from those of the model.

    Attributes:
        largest: Float, the largest absolute difference.
        relative: Float, the root mean square of the differences, as a
            multiple of that of the outputs' deviations from their mean over
            the examples. NaN if a value is not finite.
    """

    largest: float
    relative: float


def random_inputs(model: keras.Model) -> list[Array]:
    """Inputs of a model from a fixed seed: normal floats, random integers.

    Args:
        model: A built Keras model with a graph. Integers are below the
            smallest `input_dim` of its embeddings, or 0 and 1.

    Returns:
        List of an array for each input. Sizes that are left open are 8.
    """
    generator = np.random.default_rng(_SEED)
    words = [
        part.input_dim
        for part in keras_adapter.sublayers(model)
        if isinstance(part, keras.layers.Embedding)
    ]
    found = []
    for tensor in model.inputs:
        rest = (8 if size is None else size for size in tensor.shape[1:])
        shape = (_NUM_EXAMPLES, *rest)
        values: Array = generator.normal(size=shape)
        if "int" in tensor.dtype:
            values = generator.integers(0, min(words, default=2), shape)
        found.append(values.astype(tensor.dtype))
    return found


def first_examples(inputs: Sequence[Array]) -> list[Array]:
    """The examples to compare, out of representative data."""
    return [one[:_NUM_EXAMPLES] for one in inputs]


def difference(
    found: Sequence[Array], expected: Sequence[Array], dtype: str = "float32"
) -> Difference:
    """Compares the outputs of a file with those of a model.

    Args:
        found: List of arrays `(examples, ...)`.
        expected: List of arrays of the same shapes.
        dtype: That of the file, a key of `LEAST_VARIATION`.

    Returns:
        A `Difference`, the worst over the outputs.

    Raises:
        ValueError: If there are other outputs, or outputs of other shapes.

    Example:

    >>> y = np.array([[0.0], [2.0]])
    >>> difference([y + 0.5], [y])
    Difference(largest=0.5, relative=0.5)
    """
    shapes = [[np.shape(one) for one in each] for each in (found, expected)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "the file must return arrays of the shapes of the model's outputs, "
            f"{shapes[1]}. Received: {shapes[0]}"
        )
    worst = Difference(0.0, 0.0)
    for one, other in zip(found, expected, strict=True):
        wide = np.asarray(other, "float64")
        off = np.asarray(one, "float64") - wide
        variation = _size(wide - wide.mean(axis=0))
        scale = max(variation, LEAST_VARIATION[dtype] * _size(wide), 1e-30)
        # NaN stays: `max` of Python would lose it.
        worst = Difference(
            float(np.maximum(worst.largest, np.abs(off).max(initial=0.0))),
            float(np.maximum(worst.relative, _size(off) / scale)),
        )
    return worst


def _size(values: Array) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(values)))) if values.size else 0.0
