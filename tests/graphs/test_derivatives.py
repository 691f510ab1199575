import keras
import numpy as np
import pytest
from keras import ops

from keras_freetickets.graphs.derivatives import derivatives

pytestmark = pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="no derivatives there"
)
EPSILON = 1e-3


def normalized(x, groups):
    parts = x.reshape(len(x), groups, -1)
    mean = parts.mean(-1, keepdims=True)
    variance = ((parts - mean) ** 2).mean(-1, keepdims=True)
    return ((parts - mean) / np.sqrt(variance + EPSILON)).reshape(x.shape)


@pytest.mark.parametrize(
    "layer, groups",
    [
        (keras.layers.LayerNormalization, 1),
        (keras.layers.GroupNormalization, 2),
    ],
)
def test_second_derivatives_of_normalized_activations(layer, groups):
    random = np.random.default_rng(0)
    x, weights = random.normal(size=(2, 3, 8))
    theta, vectors = random.normal(size=8), random.normal(size=(4, 8))
    settings = {"groups": groups} if groups > 1 else {}
    made = layer(epsilon=EPSILON, **settings)
    made.build((None, 8))

    def function(theta, x):
        weighted = weights.astype("float32") * ops.sin(made(x * theta))
        return ops.sum(weighted)

    def value(theta):
        return (weights * np.sin(normalized(x * theta, groups))).sum()

    step, axes = 1e-4, np.eye(8)
    hessian = [
        [
            value(theta + step * (a + b))
            - value(theta + step * (a - b))
            - value(theta - step * (a - b))
            + value(theta - step * (a + b))
            for a in axes
        ]
        for b in axes
    ]
    hessian = np.array(hessian) / (2 * step) ** 2
    arrays = (one.astype("float32") for one in (theta, x, vectors))
    products = derivatives().hessian_products(function)(*arrays)
    np.testing.assert_allclose(
        ops.convert_to_numpy(products), vectors @ hessian, rtol=1e-3, atol=1e-3
    )
