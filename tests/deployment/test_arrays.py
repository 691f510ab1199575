import numpy as np
import pytest

from keras_freetickets.deployment import arrays


def test_zeros():
    kernels = [np.array([[0.0, 1.0]]), np.array([[0, 0], [2, 0]])]
    assert arrays.zeros_and_size(kernels) == (4, 6)
    assert arrays.zeros_and_size([]) == (0, 0)


@pytest.mark.parametrize(
    "shape, expected",
    [((), False), ((3,), False), ((1, 3), False), ((3, 3, 1, 4), True)],
)
def test_kernels(shape, expected):
    assert arrays.is_kernel(shape) == expected


def test_half_precision():
    found = arrays.halved(np.array([0.1, -0.0, np.inf, np.nan]), "w")
    assert found.dtype == np.float16 and np.signbit(found[1])
    for values in (np.arange(3), np.array([True]), found):
        assert arrays.halved(values, "w") is values
    with pytest.raises(ValueError, match=r"for 'w' that holds 70000\.0$"):
        arrays.halved(np.array([1.0, 7e4]), "w")
