import threading

import numpy as np
import pytest

from keras_freetickets import kernels
from keras_freetickets.kernels import blocks
from keras_freetickets.kernels import groups
from keras_freetickets.kernels import threads
from keras_freetickets.kernels import vectors


def layer(inputs, outputs, relu, seed, density=0.4):
    rng = np.random.default_rng(seed)
    mask = rng.random((inputs, outputs)) < density
    kernel = np.where(mask, rng.standard_normal(mask.shape), 0)
    values, structure = kernels.compress(kernel.astype("float32"), mask)
    bias = rng.standard_normal(outputs).astype("float32")
    return kernels.CompressedLayer(values, structure, bias, relu)


def member(seed):
    return [layer(12, 20, True, seed), layer(20, 5, False, seed + 1)]


def by_numpy(layers, x):
    for values, structure, bias, relu, activation in layers:
        x = x @ kernels.decompress(values, structure) + bias
        x = np.maximum(x, 0) if relu else x
        if activation is not None:
            activation(x, 1)
    return x


def halved(units, axis):
    units /= 2
    units -= units.mean(axis, keepdims=True)


@pytest.fixture(params=["groups", "rows"])
def form(request, monkeypatch):
    """Each form of the weights that one example is predicted with."""
    if request.param == "rows":
        monkeypatch.setattr(vectors, "has_permutations", lambda: False)
    elif not vectors.has_permutations():
        pytest.skip("needs AVX-512")
    monkeypatch.setattr(groups, "_FEWEST_WEIGHTS", 0)
    return request.param


@pytest.mark.parametrize("batch", [0, 1, 2, 33, 100])
def test_members_in_one_pass(batch, form):
    members = [member(0), member(2), [layer(12, 5, True, 4)]]
    network = kernels.CompressedNetwork(members)
    x = np.random.default_rng(9).standard_normal((batch, 12)).astype("float32")
    found = network.predict_members(x)
    assert found.shape == (3, batch, 5)
    for layers, y in zip(members, found, strict=True):
        expected = by_numpy(layers, x)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("density", [0, 0.02, 0.1, 0.5, 1])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (33, 17, 31), (300, 100, 10)])
def test_shapes(sizes, density, batch, form):
    inputs, hidden, outputs = sizes
    members = [
        [
            layer(inputs, hidden, True, seed, density),
            layer(hidden, outputs, False, seed + 1, density),
        ]
        for seed in (0, 2)
    ]
    network = kernels.CompressedNetwork(members)
    x = np.random.default_rng(9).standard_normal((batch, inputs))
    x = x.astype("float32")
    for layers, y in zip(members, network.predict_members(x), strict=True):
        expected = by_numpy(layers, x)
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_one_connection_and_many_inputs(form):
    kernel = np.zeros((70_000, 2), "float32")
    kernel[69_999, 1] = 3.0
    values, structure = kernels.compress(kernel, kernel != 0)
    bias = np.array([1, 2], "float32")
    one = kernels.CompressedLayer(values, structure, bias, False)
    network = kernels.CompressedNetwork([[one]])
    for batch in (1, 2):
        x = np.full((batch, 70_000), np.nan, "float32")  # what no weight reads
        x[:, 69_999] = 2.0
        found = network.predict_members(x)
        np.testing.assert_array_equal(found, [[[1.0, 8.0]] * batch])


def test_not_finite_stays(form):
    network = kernels.CompressedNetwork([member(0)])
    x = np.ones((1, 12), "float32")
    x[0, 3] = np.inf
    assert not np.isfinite(network.predict_members(x)).all()


@pytest.mark.parametrize("batch", [1, 2, 40])
def test_activation_of_numpy(batch, form):
    members = [
        [
            layer(12, 20, False, seed)._replace(activation=halved),
            layer(20, 20, True, seed + 1),
            layer(20, 5, False, seed + 2)._replace(activation=halved),
        ]
        for seed in (0, 3)
    ]
    network = kernels.CompressedNetwork(members)
    x = np.random.default_rng(9).standard_normal((batch, 12)).astype("float32")
    for layers, y in zip(members, network.predict_members(x), strict=True):
        expected = by_numpy(layers, x)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_two_threads():
    network = kernels.CompressedNetwork([member(0), member(2)])
    rng = np.random.default_rng(9)
    xs = [rng.standard_normal((n, 12)).astype("float32") for n in (1, 40)]
    expected = [network.predict_members(x) for x in xs]
    wrong = []

    def run(x, y):
        for _ in range(200):
            if not np.array_equal(network.predict_members(x), y):
                wrong.append(x)

    threads = [
        threading.Thread(target=run, args=pair)
        for pair in zip(xs, expected, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_blocks():
    """Small enough to follow: 130 inputs, three units, four weights."""
    kernel = np.zeros((130, 3), "float32")
    kernel[1, 0] = 1.0
    kernel[5, 2] = 2.0
    kernel[7, 2] = 3.0
    kernel[129, 1] = 4.0
    values, structure = kernels.compress(kernel, kernel != 0)
    found = blocks.blocked(values, structure)
    # Unit 2 has two weights in the first block, so it comes first.
    np.testing.assert_array_equal(found.values, [2, 3, 1, 4])
    np.testing.assert_array_equal(found.inputs, [5, 7, 1, 1])
    np.testing.assert_array_equal(found.pointers, [0, 2, 3])
    np.testing.assert_array_equal(found.units, [2, 0, 1])
    np.testing.assert_array_equal(found.counts, [2, 1, 1])


def test_two_cores(monkeypatch):
    """Parts of a batch on threads give the bits that one thread gives."""
    network = kernels.CompressedNetwork([member(0), member(2)])
    x = np.random.default_rng(9).standard_normal((100, 12)).astype("float32")
    expected = network.predict_members(x)
    monkeypatch.setattr(threads, "_WORK_OF_A_CORE", 1)
    monkeypatch.setattr(threads, "get_num_threads", lambda: 3)
    np.testing.assert_array_equal(network.predict_members(x), expected)


def test_groups():
    """Small enough to follow: 40 inputs, 20 units, four weights."""
    kernel = np.zeros((40, 20), "float32")
    kernel[1, 3] = 1.0
    kernel[5, 0] = 2.0
    kernel[7, 3] = 3.0
    kernel[39, 19] = 4.0
    values, structure = kernels.compress(kernel, kernel != 0)
    found = groups.grouped(values, structure)
    # Unit 3 has two weights in the first block, so it is the first lane.
    np.testing.assert_array_equal(found.values[:4], [1, 2, 3, 4])
    np.testing.assert_array_equal(found.counts, [2, 1, 1])
    first, second = found.codes.reshape(-1, 16)
    assert first[0] & 0x3FF == 1 + (7 << 5)
    assert first[1] & 0x3FF == 5
    assert second[0] & 0x1F == 7  # input 39
    assert first[3] >> 25 == 0 and first[0] >> 25 == 1
    assert second[3] >> 25 == 0
    # Of each block none has more than two rows; the first has one of two.
    np.testing.assert_array_equal(
        found.ends.reshape(2, -1), [[0] * 7 + [1, 1], [1] * 8 + [2]]
    )
    np.testing.assert_array_equal(found.groups, [0, 1])
    np.testing.assert_array_equal(found.rows, [2, 1])
    assert not found.pays


def test_wide_rows_are_the_first_half():
    """Ten units of three weights: three wide rows, so five in all."""
    kernel = np.zeros((32, 16), "float32")
    kernel[:3, :10] = np.arange(1, 31).reshape(3, 10)
    found = groups.grouped(*kernels.compress(kernel, kernel != 0))
    np.testing.assert_array_equal(found.rows, [5])
    np.testing.assert_array_equal(found.counts, [10, 10, 10, 0, 0])
    np.testing.assert_array_equal(found.values[:30], np.arange(1, 31))


@pytest.mark.parametrize("density", [0.005, 0.1, 0.3, 0.6, 1.0])
def test_groups_hold_every_weight_once(density):
    one = layer(100, 50, False, 0, density)
    found = groups.grouped(one.values, one.structure)
    kernel = np.zeros((128, 64), "float32")
    ends = found.ends.reshape(4, -1)
    codes = found.codes.reshape(-1, 16)
    place = row = vector = entry = 0
    for block in range(4):
        while entry < ends[block, -1]:
            rows = int(found.rows[entry])
            # The place among the ends is of those with so many rows.
            assert np.searchsorted(ends[block], entry, "right") == max(
                0, groups.MOST_ROWS + 1 - rows
            )
            units = np.argsort(codes[vector] >> 25)
            counts = found.counts[row : row + rows].astype(int)
            assert (np.diff(counts) <= 0).all()
            assert (counts[(rows + 1) // 2 :] <= 8).all()
            for i, count in enumerate(counts):
                shift = 5 * (i % 5)
                inputs = codes[vector + i // 5, :count] >> shift & 31
                at = (
                    32 * block + inputs,
                    16 * found.groups[entry] + units[:count],
                )
                assert not kernel[at].any()
                kernel[at] = found.values[place : place + count]
                place += count
            row += rows
            vector += -(-rows // 5)
            entry += 1
    expected = kernels.decompress(one.values, one.structure)
    np.testing.assert_array_equal(kernel[:100, :50], expected)
    assert place == one.structure.active
    assert (row, vector) == (len(found.counts), len(codes))
    assert found.pays == (density > 0.005)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"members of \[\] layers"):
        kernels.CompressedNetwork([])
    with pytest.raises(ValueError, match="a layer of 20 inputs"):
        kernels.CompressedNetwork([member(0)[1:] + member(0)[1:]])
    with pytest.raises(ValueError, match="a member of 20 outputs"):
        kernels.CompressedNetwork([member(0), member(0)[:1]])
    network = kernels.CompressedNetwork([member(0)])
    with pytest.raises(ValueError, match=r"x\.dtype=float64"):
        network.predict_members(np.zeros((1, 12)))
