import numpy as np
import pytest
import updates

from keras_freetickets.topology import SET


def test_each_sign_loses_its_share():
    # 4 positive and 2 negative weights, a half of each goes: .1, .2 and -.01.
    kernel = np.array([0.1, 0.4, 0.2, 0.3, -0.01, -0.5, 0, 0, 0, 0], "float32")
    mask = kernel != 0
    gradient = np.zeros(10, "float32")
    _, (kept,) = updates.run(SET(), [kernel], [mask], [gradient], fraction=0.5)
    np.testing.assert_array_equal(kept, [0, 1, 0, 1, 0, 1, 0, 0, 0, 0])
    # Both signs together: -.01, .1 and .2.
    method = SET(drop="magnitude")
    kernel = np.array([0.1, 0.4, 0.2, 0.3, -0.6, -0.5, 0, 0, 0, 0], "float32")
    _, (kept,) = updates.run(method, [kernel], [mask], [gradient], fraction=0.5)
    np.testing.assert_array_equal(kept, [0, 1, 0, 0, 1, 1, 0, 0, 0, 0])


def test_counts_against_numpy():
    kernels, masks, gradients = updates.network([(50, 40), (7, 9)], [0.2, 0.5])
    new, kept = updates.run(SET(), kernels, masks, gradients, fraction=0.3)
    for kernel, mask, after, k in zip(kernels, masks, new, kept, strict=True):
        assert after.sum() == mask.sum()
        for side in (kernel > 0, kernel < 0):
            size = np.abs(kernel[side])
            left = side.sum() - int(np.ceil(0.3 * side.sum()))
            expected = np.sort(size)[::-1][:left]
            np.testing.assert_array_equal(
                np.sort(np.abs(kernel[side & k]))[::-1], expected
            )


def test_a_scope_beyond_the_layer_is_refused():
    with pytest.raises(ValueError, match='use `scope="layer"`'):
        SET(scope="global")
