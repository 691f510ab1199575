import numpy as np
import pytest

from keras_freetickets.applications import small_cnn


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3)])
def test_predicts_probabilities(shape):
    model = small_cnn(shape, 7)
    assert model.input_shape == (None, *shape)
    probabilities = model.predict(np.ones((2, *shape)), verbose=0)
    assert probabilities.shape == (2, 7)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-5)
