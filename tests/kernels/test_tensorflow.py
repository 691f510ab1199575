"""The kernels as TensorFlow's operations, against the kernels alone."""

import threading

import keras
import numpy as np
import pytest

from keras_freetickets import kernels
from keras_freetickets.kernels.structure import Positions
from tests.helpers.kernel_threads import shared_out

if keras.backend.backend() != "tensorflow":
    pytest.skip("operations of TensorFlow", allow_module_level=True)

tf = pytest.importorskip("tensorflow")
from keras_freetickets.kernels import tensorflow as bridge  # noqa: E402
from keras_freetickets.kernels.tensorflow import product  # noqa: E402


def case(inputs=20, outputs=30, batch=8, seed=0):
    rng = np.random.default_rng(seed)
    mask = rng.random((inputs, outputs)) < 0.3
    kernel = np.where(mask, rng.standard_normal(mask.shape), 0)
    values, structure = kernels.compress(kernel.astype("float32"), mask)
    arrays = [
        rng.standard_normal(shape).astype("float32")
        for shape in [(batch, inputs), (outputs,), (batch, outputs)]
    ]
    return structure, values, *arrays


def positions_of(structure):
    return Positions(*map(tf.constant, structure.positions))


def gradients(positions, values, x, bias, dy, relu):
    values, x, bias = map(tf.convert_to_tensor, (values, x, bias))
    with tf.GradientTape() as tape:
        tape.watch([values, x, bias])
        y = product(positions, values, x, bias, relu)
    return y, *tape.gradient(y, [x, values, bias], output_gradients=dy)


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("batch", [0, 1, 8, 40])
def test_values_and_gradients(batch, relu, in_graph):
    structure, values, x, bias, dy = case(batch=batch)
    y = kernels.forward(structure, values, x, bias, relu)
    expected = [
        y,
        *kernels.backward(structure, values, x, dy, y if relu else None),
    ]
    call = tf.function(gradients) if in_graph else gradients
    found = call(positions_of(structure), values, x, bias, dy, relu)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_where_all_functions_run_eagerly():
    """As a user does who looks for a fault."""
    structure, values, x, bias, _ = case()
    expected = kernels.forward(structure, values, x, bias, True)
    tf.config.run_functions_eagerly(True)
    try:
        found = product(positions_of(structure), values, x, bias, True)
    finally:
        tf.config.run_functions_eagerly(False)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_bits_are_those_of_one_thread():
    structure, values, x, bias, dy = case(batch=40)
    found = []
    for count in (1, 2, 3):
        with shared_out(count):
            found.append(
                gradients(positions_of(structure), values, x, bias, dy, True)
            )
    for several in found[1:]:
        for one, other in zip(found[0], several, strict=True):
            np.testing.assert_array_equal(one, other)


def test_against_the_masked_kernel():
    """To float32's rounding, gradients at active positions alone."""
    structure, values, x, bias, dy = case()
    kernel = tf.Variable(kernels.decompress(values, structure))
    with tf.GradientTape() as tape:
        y = tf.nn.relu(tf.constant(x) @ kernel + bias)
    dense = tape.gradient(y, kernel, output_gradients=dy)
    found = gradients(positions_of(structure), values, x, bias, dy, True)
    np.testing.assert_allclose(found[0], y, rtol=1e-5, atol=1e-5)
    active = dense.numpy()[structure.column_indices, structure.row_indices]
    np.testing.assert_allclose(found[2], active, rtol=1e-5, atol=1e-5)


def test_another_topology_needs_no_new_trace():
    structure, values, x, bias, _ = case()
    other, *_ = case(seed=1)
    count = min(structure.active, other.active)
    shorter = [
        kernels.CompressedStructure(
            np.minimum(s.row_pointers, count),
            s.column_indices[:count],
            s.num_inputs,
        )
        for s in (structure, other)
    ]
    variables = Positions(
        *(tf.Variable(a, trainable=False) for a in shorter[0].positions)
    )
    traces = []

    @tf.function
    def call(x):
        traces.append(1)
        return product(variables, tf.constant(values[:count]), x, bias_tensor)

    bias_tensor = tf.constant(bias)
    for structure in shorter:
        for variable, array in zip(variables, structure.positions, strict=True):
            variable.assign(array)
        expected = kernels.forward(structure, values[:count], x, bias)
        np.testing.assert_allclose(call(x), expected, rtol=1e-5, atol=1e-5)
    assert len(traces) == 1


@pytest.mark.parametrize("threads_of_a_call", [1, 2])
def test_two_models_in_two_threads(threads_of_a_call):
    wrong = []

    def work(seed):
        structure, values, x, bias, dy = case(seed=seed)
        call = tf.function(gradients)
        positions = positions_of(structure)
        first = call(positions, values, x, bias, dy, True)
        for _ in range(100):
            again = call(positions, values, x, bias, dy, True)
            for one, other in zip(first, again, strict=True):
                if not np.array_equal(one, other):
                    wrong.append(seed)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    with shared_out(threads_of_a_call):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_positions_of_other_values_are_refused():
    structure, values, x, bias, dy = case()
    positions = positions_of(structure)
    with pytest.raises(tf.errors.InvalidArgumentError, match="are not those"):
        gradients(positions, values[1:], x, bias, dy, False)
    with pytest.raises(tf.errors.InvalidArgumentError, match="are not those"):
        gradients(positions, values, x, bias[1:], dy, False)


def test_other_dtypes_are_refused():
    structure, values, x, bias, _ = case()
    double = tf.constant(x.astype("float64"))
    arguments = positions_of(structure), tf.constant(values)
    with pytest.raises(ValueError, match="storage='mask'"):
        product(*arguments, double, tf.constant(bias))


def test_accelerators_are_refused(monkeypatch):
    """With a GPU, TensorFlow would put what is around the kernels there."""
    structure, values, x, bias, _ = case()
    found = ("/physical_device:GPU:0",)
    monkeypatch.setattr(bridge, "tensorflow_accelerators", lambda: found)
    tensors = map(tf.constant, (values, x, bias))
    with pytest.raises(ValueError, match=r"storage='mask'.*GPU:0"):
        product(positions_of(structure), *tensors)


def test_xla_refuses_it_by_name():
    structure, values, x, bias, dy = case()
    call = tf.function(gradients, jit_compile=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="NotForXla"):
        call(positions_of(structure), values, x, bias, dy, False)


def test_a_long_run_leaks_nothing():
    """Memory of 3,000 calls, of 10 MB together in each 30."""
    import resource

    structure, values, x, bias, dy = case(inputs=300, outputs=300, batch=32)
    call = tf.function(gradients)
    positions = positions_of(structure)

    def run(count):
        for _ in range(count):
            call(positions, values, x, bias, dy, True)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes

    before = run(300)
    assert run(3000) - before < 50_000
