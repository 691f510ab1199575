import keras
import numpy as np
import pytest
from keras import layers

from keras_freetickets.deployment import comparison


def test_differences_by_hand():
    y = np.array([[0.0, 1.0], [2.0, 1.0]])
    # Deviations from the mean are 1, 0, 1, 0: 0.5 ** 0.5.
    found = comparison.difference([np.array([[0.1, 1.0], [2.0, 1.0]])], [y])
    assert found.largest == pytest.approx(0.1)
    assert found.relative == pytest.approx(0.05 / 0.5**0.5)


def test_the_worst_output_counts():
    y = np.array([[0.0], [2.0]])
    found = comparison.difference([y, y + 0.5, y], [y, y, y])
    assert found == comparison.Difference(0.5, 0.5)


def test_nan_is_not_lost():
    y = np.array([[0.0], [2.0]])
    for order in ([y * np.nan, y], [y, y * np.nan]):
        found = comparison.difference(order, [y, y])
        assert np.isnan(found.relative) and np.isnan(found.largest)


def test_outputs_that_do_not_vary():
    y = np.full((4, 2), 10.0)
    assert comparison.difference([y], [y]).relative == 0
    found = comparison.difference([y + 0.01], [y])
    assert found.relative == pytest.approx(1.0)
    found = comparison.difference([y + 0.01], [y], "int8")
    assert found.relative == pytest.approx(0.05)
    zeros = np.zeros((4, 2))
    assert comparison.difference([zeros], [zeros]).relative == 0


@pytest.mark.parametrize("found", [[np.zeros((3, 2))], []])
def test_other_shapes(found):
    with pytest.raises(ValueError, match="must return arrays of the shapes"):
        comparison.difference(found, [np.zeros((3, 1))])


def test_random_inputs():
    words = keras.Input((None,), dtype="int32")
    numbers = keras.Input((3,))
    x = layers.GlobalAveragePooling1D()(layers.Embedding(5, 4)(words))
    model = keras.Model([words, numbers], layers.Concatenate()([x, numbers]))
    found = comparison.random_inputs(model)
    assert [one.shape for one in found] == [(64, 8), (64, 3)]
    assert found[0].dtype == "int32" and set(np.unique(found[0])) == set(
        range(5)
    )
    assert found[1].dtype == "float32" and abs(found[1].mean()) < 0.3
    again = comparison.random_inputs(model)
    for one, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(one, other)
