"""Places by gaps and values in few bits: exact, small, checked."""

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from keras_freetickets import packed_values


def random_bits(density, size=200_000):
    return np.random.default_rng(0).random(size) < density


@settings(deadline=None, max_examples=60)
@given(
    bits=arrays_of.arrays("bool", st.integers(0, 900), fill=st.just(False)),
    stretch=st.sampled_from([1, 100, 254, 255, 256, 1021]),
)
def test_any_places_come_back(bits, stretch):
    """Gaps of any length, those around multiples of 255 too."""
    spread = np.zeros(len(bits) * stretch, bool)
    spread[::stretch] = bits
    found = packed_values.bits_of(packed_values.gaps_of(spread), len(spread))
    np.testing.assert_array_equal(found, spread)


@pytest.mark.parametrize("density", [0.2, 0.1, 0.02, 0.001])
def test_gaps_are_as_short_as_entropy_allows(density):
    bits = random_bits(density)
    share = bits.mean()
    entropy = -share * np.log2(share) - (1 - share) * np.log2(1 - share)
    size = len(packed_values.gaps_of(bits))
    assert size < 1.02 * entropy * bits.size / 8 + 200


def test_bits_are_as_short_where_they_are_used():
    bits = random_bits(packed_values.DENSEST_GAPS)
    gaps = len(packed_values.gaps_of(bits))
    assert len(zlib.compress(np.packbits(bits).tobytes())) < 1.1 * gaps


@pytest.mark.parametrize(
    "stream, message",
    [
        (b"no stream", "no stream of zlib"),
        (zlib.compress(bytes([3])), "not of 3 bits"),  # the fourth bit
        (zlib.compress(bytes([255])), "not of 3 bits"),  # not ended
        (zlib.compress(bytes([0, 0, 0, 0])), "not of 3 bits"),  # four bits
        (zlib.compress(bytes([0, 0]))[:-3], "not of 3 bits"),  # cut off
        (zlib.compress(bytes(10**6)), "not of 3 bits"),  # far too many
    ],
)
def test_other_streams(stream, message):
    with pytest.raises(ValueError, match=message):
        packed_values.bits_of(np.frombuffer(stream, "uint8"), 3)


def test_half_precision():
    found = packed_values.halved(np.array([0.1, -0.0, np.inf, np.nan]), "w")
    assert found.dtype == np.float16 and np.signbit(found[1])
    for values in (np.arange(3), np.array([True]), found):
        assert packed_values.halved(values, "w") is values
    with pytest.raises(ValueError, match=r"variable 'w' that holds 70000\.0$"):
        packed_values.halved(np.array([1.0, 7e4]), "w")


def test_half_precision_where_it_keeps_three_digits():
    close = np.array([[0.1, 300.0, 0.0, -1e-4, np.inf, np.nan]])
    found = packed_values.halved_if_close(close)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, close, rtol=1e-3)
    tiny = np.array([1.0, 2e-8], "float32")
    assert packed_values.halved_if_close(tiny).dtype == np.float16
    for value in (1e5, 2e-8, -70_000.0):
        values = np.array([1e-3, value], "float32")
        assert packed_values.halved_if_close(values) is values
    for values in (np.arange(3), found):
        assert packed_values.halved_if_close(values) is values


def kernels(shape=(3, 5, 5, 8, 16)):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.mark.parametrize("shape", [(3, 5, 5, 8, 16), (1, 7, 2), (2, 1, 1)])
def test_8_bits_are_close(shape):
    values = kernels(shape)
    integers, scales = packed_values.in_8_bits(values, "w")
    assert integers.dtype == np.int8 and scales.shape == (shape[0], shape[-1])
    assert np.abs(integers.astype("int32")).max() <= 127
    found = packed_values.from_8_bits(integers, scales)
    assert found.dtype == np.float32
    inner = tuple(range(1, len(shape) - 1))
    off = np.abs(found - values).max(axis=inner)
    assert (off <= 0.5001 * scales).all()
    # No unit has fewer than 6 bits, however small its weights are.
    largest = np.abs(values).max(axis=inner)
    assert (scales <= largest / 63.4).all()


def test_units_of_other_sizes_keep_their_bits():
    values = kernels() * np.logspace(0, -6, 16).astype("float32")
    integers, scales = packed_values.in_8_bits(values, "w")
    found = packed_values.from_8_bits(integers, scales)
    for unit in range(16):
        one, other = values[..., unit], found[..., unit]
        assert np.abs(one - other).max() < np.abs(one).max() / 120
    ratios = scales / scales.max(axis=-1, keepdims=True)
    assert (np.log2(ratios) % 1 == 0).all()  # powers of two


def test_zeros_in_8_bits():
    values = kernels((2, 6, 4))
    values[0] = 0.0
    values[1, :, 2] = 0.0
    values[1, 0] = -0.0
    integers, scales = packed_values.in_8_bits(values, "w")
    found = packed_values.from_8_bits(integers, scales)
    assert (found[values == 0] == 0).all() and np.isfinite(scales).all()
    assert (scales > 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_8_bits_of_what_is_not_finite(value):
    values = kernels((2, 6, 4))
    values[1, 2, 3] = value
    with pytest.raises(ValueError, match=r"must not be 'int8' .*'w'$"):
        packed_values.in_8_bits(values, "w")
    pointers = np.array([[0, 1, 2]])
    with pytest.raises(ValueError, match=r"must not be 'int8' .*'w'$"):
        packed_values.in_8_bits(np.array([[1.0, value]]), "w", pointers)


def test_other_scales():
    integers, scales = packed_values.in_8_bits(kernels((2, 6, 4)), "w")
    for wrong in (scales[:1], scales.T, scales.astype("float64")):
        with pytest.raises(ValueError, match="scales are not of the shape"):
            packed_values.from_8_bits(integers, wrong)
    with pytest.raises(ValueError, match="scales are not of the shape"):
        packed_values.from_8_bits(integers[:, 0], scales)


def test_8_bits_of_compressed_values_by_hand():
    """Units of one, no and two values; what is behind counts to the last."""
    values = np.array([[127.0, 2.0, -1.0, 2.0]])
    pointers = np.array([[0, 1, 1, 3]], "int32")
    integers, scales = packed_values.in_8_bits(values, "w", pointers)
    assert integers.tolist() == [[127, 64, -32, 64]]
    assert scales.tolist() == [[1.0, 1.0, 1 / 32]]
    found = packed_values.from_8_bits(integers, scales, pointers)
    np.testing.assert_array_equal(found, values)


def test_compressed_values_are_rounded_as_their_kernel():
    rng = np.random.default_rng(0)
    kernel = kernels((2, 30, 9)) * (rng.random((2, 30, 9)) < 0.4)
    kernel[..., 4] = 0.0
    active = kernel.transpose(0, 2, 1) != 0
    counts = active.sum(-1)
    pointers = np.pad(np.cumsum(counts, -1), [(0, 0), (1, 0)]).astype("int32")
    values = np.zeros((2, pointers.max()), "float32")
    for row, one, where in zip(values, kernel, active, strict=True):
        row[: where.sum()] = one.T[where]
    integers, scales = packed_values.in_8_bits(values, "w", pointers)
    of_kernel, expected = packed_values.in_8_bits(kernel, "w")
    np.testing.assert_array_equal(scales, expected)
    for row, one, where in zip(integers, of_kernel, active, strict=True):
        np.testing.assert_array_equal(row[: where.sum()], one.T[where])


@pytest.mark.parametrize(
    "pointers",
    [[[1, 2, 3]], [[0, 2, 1]], [[0, 1, 9]], [[0.0, 1.0, 3.0]]],
    ids=["from 1", "falling", "beyond", "floats"],
)
def test_other_pointers(pointers):
    integers, scales = np.ones((1, 3), "int8"), np.ones((1, 2), "float32")
    with pytest.raises(ValueError, match="row pointers do not rise"):
        packed_values.from_8_bits(integers, scales, np.array(pointers))
    with pytest.raises(ValueError, match="scales are not of the shape"):
        packed_values.from_8_bits(integers, scales[:, :1], np.array(pointers))
