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
