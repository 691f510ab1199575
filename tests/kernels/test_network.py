import numpy as np
import pytest

from keras_freetickets import kernels


def layer(inputs, outputs, relu, seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((inputs, outputs)) < 0.4
    kernel = np.where(mask, rng.standard_normal(mask.shape), 0)
    values, structure = kernels.compress(kernel.astype("float32"), mask)
    bias = rng.standard_normal(outputs).astype("float32")
    return kernels.CompressedLayer(values, structure, bias, relu)


def member(seed):
    return [layer(12, 20, True, seed), layer(20, 5, False, seed + 1)]


@pytest.mark.parametrize("batch", [0, 1, 2, 40])
def test_members_in_one_pass(batch):
    members = [member(0), member(2), [layer(12, 5, True, 4)]]
    network = kernels.CompressedNetwork(members)
    x = np.random.default_rng(9).standard_normal((batch, 12)).astype("float32")
    found = network.predict_members(x)
    assert found.shape == (3, batch, 5)
    for layers, y in zip(members, found, strict=True):
        expected = x
        for values, structure, bias, relu in layers:
            kernel = kernels.decompress(values, structure)
            expected = expected @ kernel + bias
            expected = np.maximum(expected, 0) if relu else expected
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


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
