"""What the trainers of all backends offer to the step they share."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_freetickets.models.trainers import get_trainer

pytestmark = pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="has no trainer"
)


def program(function, jit_compile):
    if keras.backend.backend() == "jax":
        return function
    import tensorflow as tf

    return tf.function(function, jit_compile=jit_compile, autograph=False)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_masked_gradients_are_zero_whatever_they_were(jit_compile, dtype):
    values = [np.nan, np.inf, -np.inf, -3.0, 2.0, np.inf, np.nan]
    mask = [False, False, False, False, True, True, True]
    masked = program(get_trainer().masked, jit_compile)
    result = masked(
        ops.cast(np.array(values, "float32"), dtype),
        ops.convert_to_tensor(np.array(mask)),
    )
    assert keras.backend.standardize_dtype(result.dtype) == dtype
    np.testing.assert_array_equal(
        ops.convert_to_numpy(ops.cast(result, "float32")),
        np.array([0, 0, 0, 0, 2, np.inf, np.nan], "float32"),
    )


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("due", [False, True])
@pytest.mark.parametrize("outcome", [False, True])
def test_once(jit_compile, due, outcome):
    a = keras.Variable([1.0, 2.0])
    b = keras.Variable([True, False], dtype="bool")
    c = keras.Variable(5, dtype="int32")

    def update(values):
        (a, b), (c,) = values
        moved = [[a * 3, ops.logical_not(b)], [c + 1]]
        return moved, ops.convert_to_tensor(outcome)

    def step(due):
        return get_trainer().once(due, [[a, b], [c]], update)

    done = program(step, jit_compile)(ops.convert_to_tensor(due))
    # The outcome is reported; whether values move is up to `update`.
    assert bool(ops.convert_to_numpy(done)) == (due and outcome)
    expected = [3.0, 6.0] if due else [1.0, 2.0]
    np.testing.assert_array_equal(ops.convert_to_numpy(a.value), expected)
    expected = [False, True] if due else [True, False]
    np.testing.assert_array_equal(ops.convert_to_numpy(b.value), expected)
    assert int(ops.convert_to_numpy(c.value)) == (6 if due else 5)
