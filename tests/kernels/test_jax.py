"""The kernels within JAX's programs, against the kernels alone."""

import threading

import numpy as np
import pytest

from keras_freetickets import kernels
from tests.helpers.kernel_threads import shared_out

jax = pytest.importorskip("jax")
from keras_freetickets.kernels.jax import product  # noqa: E402


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
    return structure.positions


def gradients(positions, values, x, bias, dy, relu):
    def call(values, x, bias):
        return product(positions, values, x, bias, relu)

    y, back = jax.vjp(call, values, x, bias)
    dvalues, dx, dbias = back(dy)
    return y, dx, dvalues, dbias


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("batch", [0, 1, 8, 40])
def test_values_and_gradients(batch, relu, compiled):
    structure, values, x, bias, dy = case(batch=batch)
    y = kernels.forward(structure, values, x, bias, relu)
    kept = y if relu else None
    expected = [y, *kernels.backward(structure, values, x, dy, kept)]
    call = jax.jit(gradients, static_argnums=5) if compiled else gradients
    found = call(positions_of(structure), values, x, bias, dy, relu)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_bits_are_those_of_one_thread():
    structure, values, x, bias, dy = case(batch=40)
    call = jax.jit(gradients, static_argnums=5)
    found = []
    for count in (1, 2, 3):
        with shared_out(count):
            arrays = call(positions_of(structure), values, x, bias, dy, True)
            found.append(jax.block_until_ready(arrays))
    for several in found[1:]:
        for one, other in zip(found[0], several, strict=True):
            np.testing.assert_array_equal(one, other)


def test_more_inputs_than_16_bits_count():
    structure = kernels.CompressedStructure([0, 1, 2], [69_999, 3], 70_000)
    x = np.zeros((2, 70_000), "float32")
    x[:, 3], x[:, 69_999] = 2, [3, 4]
    y = product(
        positions_of(structure),
        np.ones(2, "float32"),
        x,
        np.zeros(2, "float32"),
    )
    assert y.tolist() == [[3, 2], [4, 2]]


@pytest.mark.parametrize("threads_of_a_call", [1, 2])
def test_two_programs_in_two_threads(threads_of_a_call):
    wrong = []

    def work(seed):
        structure, values, x, bias, dy = case(seed=seed)
        call = jax.jit(gradients, static_argnums=5)
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


def test_other_platforms_are_refused(monkeypatch):
    structure, values, x, bias, _ = case()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(ValueError, match=r"JAX_PLATFORMS=cpu.*'gpu'"):
        product(positions_of(structure), values, x, bias)


def test_bad_arguments():
    structure, values, x, bias, _ = case()
    positions = positions_of(structure)
    with pytest.raises(ValueError, match="storage='mask'"):
        product(positions, values, x.astype("float16"), bias)
    with pytest.raises(ValueError, match=r"values.shape=\(159,\)"):
        product(positions, values[1:], x, bias)
    with pytest.raises(ValueError, match=r"bias.shape=\(29,\)"):
        product(positions, values, x, bias[1:])
