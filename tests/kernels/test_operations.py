"""The compiled kernels against NumPy's, and against finite differences.

Shapes use tiles of 16 and 32 lanes in most tests: each size of a tile is
compiled once and kept on disk.
"""

import subprocess
import sys
import threading

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_freetickets import kernels
from keras_freetickets.kernels import reference
from keras_freetickets.kernels import threads
from tests.helpers.kernel_threads import shared_out


def case(inputs, outputs, batch, sparsity, seed=0):
    """Structure, values, x, bias and dy."""
    rng = np.random.default_rng(seed)
    mask = rng.random((inputs, outputs)) >= sparsity
    kernel = np.where(mask, rng.standard_normal(mask.shape), 0)
    values, structure = kernels.compress(kernel.astype("float32"), mask)
    arrays = [
        rng.standard_normal(shape).astype("float32")
        for shape in [(batch, inputs), (outputs,), (batch, outputs)]
    ]
    return structure, values, *arrays


def doubled(*arrays):
    return [array.astype("float64") for array in arrays]


def check(structure, values, x, bias, dy):
    """Compares all kernels with the reference in float64."""
    for relu in (False, True):
        y = kernels.forward(structure, values, x, bias, relu)
        exact = reference.forward(structure, *doubled(values, x, bias), relu)
        np.testing.assert_allclose(y, exact, rtol=1e-5, atol=1e-4)
    gradients = kernels.backward(structure, values, x, dy, y)
    dy = np.where(y > 0, dy, 0)
    exact = reference.backward(structure, *doubled(values, x, dy))
    for found, expected in zip(gradients, [*exact, dy.sum(0)], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("inputs", "outputs", "batch", "sparsity"),
    [
        (5, 3, 1, 0.5),
        (5, 3, 2, 0.5),
        (17, 33, 16, 0.0),
        (300, 100, 32, 0.9),
        (31, 257, 33, 0.8),
        (20, 520, 64, 0.95),
        (9, 8, 3, 1.0),
    ],
    ids=lambda value: str(value),
)
def test_against_the_reference(inputs, outputs, batch, sparsity):
    check(*case(inputs, outputs, batch, sparsity))


@given(
    st.integers(1, 50),
    st.integers(1, 300),
    st.integers(1, 40),
    st.floats(0, 1),
)
@settings(max_examples=25, deadline=None)
def test_any_shape(inputs, outputs, batch, sparsity):
    check(*case(inputs, outputs, batch, sparsity))


def test_the_largest_tile():
    check(*case(48, 40, 128, 0.7))


def test_more_inputs_than_16_bits_count():
    structure, values, *arrays = case(66_000, 2, 3, 0.999)
    assert structure.column_indices.dtype == "int32"
    check(structure, values, *arrays)


def test_one_connection():
    structure = kernels.CompressedStructure([0, 0, 1, 1], [2], 4)
    x = np.arange(8, dtype="float32").reshape(2, 4)
    values = np.array([10.0], "float32")
    y = kernels.forward(structure, values, x)
    assert y.tolist() == [[0, 20, 0], [0, 60, 0]]
    dx, dvalues, dbias = kernels.backward(structure, values, x, y)
    assert dx.tolist() == [[0, 0, 200, 0], [0, 0, 600, 0]]
    assert dvalues.tolist() == [2 * 20 + 6 * 60]
    assert dbias.tolist() == [0, 80, 0]


def test_gradients_are_finite_differences():
    """Of the float64 reference: sum(dy * forward) moved by 1e-6."""
    structure, values, x, _, dy = case(6, 5, 3, 0.4)

    def loss(values, x):
        return np.sum(dy * reference.forward(structure, values, x))

    dx, dvalues, _ = kernels.backward(structure, values, x, dy)
    values, x = doubled(values, x)
    for i in range(structure.active):
        step = np.zeros_like(values)
        step[i] = 1e-6
        slope = (loss(values + step, x) - loss(values - step, x)) / 2e-6
        assert slope == pytest.approx(dvalues[i], rel=1e-4, abs=1e-4)
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = 1e-6
        slope = (loss(values, x + step) - loss(values, x - step)) / 2e-6
        assert slope == pytest.approx(dx[i], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16])
@pytest.mark.parametrize("batch", [1, 5])
def test_values_of_16_bits(dtype, batch):
    """Kept in 16 bits, computed with in 32: as their float32 values."""
    structure, values, x, bias, _ = case(20, 10, batch, 0.5)
    values = values.astype(dtype)
    y = kernels.forward(structure, values, x, bias)
    same = kernels.forward(structure, values.astype("float32"), x, bias)
    np.testing.assert_array_equal(y, same)


def test_what_is_not_finite_arrives():
    structure = kernels.CompressedStructure([0, 1], [0], 1)
    values = np.array([1.0], "float32")
    x = np.array([[np.nan], [np.inf], [1]], "float32")
    y = kernels.forward(structure, values, x, relu=True)
    np.testing.assert_array_equal(y, x)
    _, dvalues, _ = kernels.backward(structure, values, x[1:], x[1:])
    assert dvalues[0] == np.inf


@pytest.mark.parametrize("features", [1, 16, 35])
@pytest.mark.parametrize("batch", [1, 16, 37, 64])
def test_packing(batch, features):
    x = np.arange(batch * features, dtype="float32").reshape(batch, features)
    packed = kernels.pack(x)
    tiles = packed.data.reshape(packed.tiles, features, packed.lanes)
    np.testing.assert_array_equal(
        tiles.transpose(0, 2, 1).reshape(-1, features)[:batch], x
    )
    np.testing.assert_array_equal(kernels.unpack(packed), x)


def test_layers_in_a_row_stay_packed():
    structure, values, x, _, _ = case(12, 12, 7, 0.5)
    packed = kernels.pack(x)
    for _ in range(2):
        packed = kernels.forward_packed(structure, values, packed, relu=True)
        x = kernels.forward(structure, values, x, relu=True)
    np.testing.assert_array_equal(kernels.unpack(packed), x)


@given(
    st.integers(1, 50),
    st.integers(1, 300),
    st.sampled_from([1, 7, 16, 20, 70]),
    st.floats(0, 1),
    st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_bits_are_those_of_one_thread(inputs, outputs, batch, sparsity, seed):
    structure, values, x, bias, dy = case(
        inputs, outputs, batch, sparsity, seed
    )
    found = []
    for count in (1, 2, 3):
        with shared_out(count):
            y = kernels.forward(structure, values, x, bias, relu=True)
            gradients = kernels.backward(structure, values, x, dy, y)
        found.append([y, *gradients])
    for several in found[1:]:
        for one, other in zip(found[0], several, strict=True):
            np.testing.assert_array_equal(one, other)


def test_several_threads_of_one_packed_call(monkeypatch):
    structure, values, x, bias, _ = case(40, 70, 20, 0.5)
    packed = kernels.pack(x)
    whole = kernels.forward_packed(structure, values, packed, bias)
    monkeypatch.setattr(threads, "_WORK_OF_A_CORE", 1)
    monkeypatch.setattr(threads, "get_num_threads", lambda: 3)
    parts = kernels.forward_packed(structure, values, packed, bias)
    np.testing.assert_array_equal(parts.data, whole.data)


def test_calls_from_two_threads():
    cases = [case(30, 60, 16, 0.5, seed) for seed in range(2)]
    expected = [kernels.forward(s, v, x) for s, v, x, *_ in cases]
    wrong = []

    def work(i):
        structure, values, x, *_ = cases[i]
        for _ in range(200):
            y = kernels.forward(structure, values, x)
            if not np.array_equal(y, expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_dense_gradients_by_blocks_are_the_whole():
    structure, _, x, _, dy = case(6, 10, 4, 0.5)
    whole = x.T @ dy
    blocks = [
        kernels.dense_gradient_block(x, dy, slice(i, i + 4))
        for i in range(0, structure.num_outputs, 4)
    ]
    np.testing.assert_allclose(np.concatenate(blocks, 1), whole, rtol=1e-6)


def test_number_of_threads():
    before = kernels.get_num_threads()
    kernels.set_num_threads(1)
    assert kernels.get_num_threads() == 1
    kernels.set_num_threads(before)
    with pytest.raises(ValueError, match="count=0"):
        kernels.set_num_threads(0)


def test_bad_arguments():
    structure, values, x, bias, dy = case(4, 3, 2, 0.0)
    forward, backward = kernels.forward, kernels.backward
    with pytest.raises(ValueError, match=r"x\.dtype=float64"):
        forward(structure, values, x.astype("float64"))
    with pytest.raises(ValueError, match=r"values\.dtype=float64"):
        forward(structure, values.astype("float64"), x)
    with pytest.raises(ValueError, match=r"x.shape=\(2, 3\)"):
        forward(structure, values, x[:, :3])
    with pytest.raises(ValueError, match="bias of shape"):
        forward(structure, values, x, bias[:2])
    with pytest.raises(ValueError, match=r"values.shape=\(11,\)"):
        forward(structure, values[1:], x)
    with pytest.raises(ValueError, match="to be trained"):
        backward(structure, values.astype("float16"), x, dy)
    with pytest.raises(ValueError, match="as many rows"):
        backward(structure, values, x, dy[:1])
    with pytest.raises(ValueError, match=r"x\.features=3"):
        kernels.forward_packed(structure, values, kernels.pack(x[:, :3]))


def run(*lines, **environment):
    code = "\n".join(
        [
            "import os",
            "os.environ.update("
            + repr({"KERAS_BACKEND": "jax", **environment})
            + ")",
            *lines,
        ]
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.parametrize("asked", ["3", "0", "many"])
def test_the_environment_says_how_many_threads(asked):
    done = run(
        "from keras_freetickets import kernels",
        "from keras_freetickets.kernels import threads",
        "print(kernels.get_num_threads(), threads._available_cores())",
        OMP_NUM_THREADS=asked,
    )
    count, cores = done.stdout.split()
    assert count == ("3" if asked == "3" else cores)


def test_numba_is_imported_by_the_first_product():
    """And where it is missing, the error says which extra brings it."""
    done = run(
        "import sys, numpy as np",
        "from keras_freetickets import kernels",
        "s = kernels.CompressedStructure([0, 1], [0], 1)",
        "assert 'numba' not in sys.modules",
        "sys.modules['numba'] = None",
        "one = np.ones((1, 1), 'float32')",
        "try:",
        "    kernels.forward(s, one[0], one)",
        "except ImportError as error:",
        "    assert 'keras_freetickets[compressed]' in str(error), error",
        "else:",
        "    raise AssertionError('no error')",
    )
    assert done.returncode == 0, done.stderr[-2000:]
