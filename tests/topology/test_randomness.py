import keras
import numpy as np

from keras_freetickets.topology import random_bits


def numpy_mix(bits):
    """The same hash in plain Python integers."""
    bits ^= bits >> 16
    bits = bits * 0x7FEB352D % 2**32
    bits ^= bits >> 15
    bits = bits * 0x846CA68B % 2**32
    return bits ^ bits >> 16


def test_equals_plain_integers():
    key = numpy_mix(numpy_mix(numpy_mix(3) ^ 7) ^ 2)
    expected = [
        numpy_mix(numpy_mix(position ^ key) ^ key) for position in range(6)
    ]
    bits = keras.ops.convert_to_numpy(random_bits((2, 3), 3, 7, 2))
    assert bits.dtype == np.uint32
    np.testing.assert_array_equal(bits.ravel(), expected)


def test_no_two_entries_are_equal_and_all_bits_are_fair():
    bits = keras.ops.convert_to_numpy(random_bits((100_000,), 1, 2, 3))
    assert len(np.unique(bits)) == 100_000
    ones = [np.mean((bits >> b) & 1) for b in range(32)]
    # Five standard deviations of a fair coin thrown 100,000 times.
    np.testing.assert_allclose(ones, 0.5, atol=5 * 0.5 / np.sqrt(100_000))


def test_every_part_of_the_counter_matters():
    draws = [
        keras.ops.convert_to_numpy(random_bits((64,), *counter))
        for counter in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    ]
    for i in range(4):
        for j in range(i):
            assert (draws[i] != draws[j]).mean() > 0.9
