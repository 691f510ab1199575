"""Compressed separable convolutions against Keras'."""

import keras
import numpy as np
import pytest

from keras_freetickets.layers import CompressedSeparableConv1D
from keras_freetickets.layers import CompressedSeparableConv2D
from keras_freetickets.layers.compressed_kinds import compressed_kind
from keras_freetickets.layers.compressed_kinds import reason_against

if keras.backend.backend() == "torch":
    pytest.skip("no compressed kernels there", allow_module_level=True)
pytest.importorskip("numba")

KINDS = {
    1: (keras.layers.SeparableConv1D, CompressedSeparableConv1D),
    2: (keras.layers.SeparableConv2D, CompressedSeparableConv2D),
}


def case(rank, channels=3, **options):
    """A built layer of Keras, with zeros, and its mask."""
    rng = np.random.default_rng(0)
    layer = KINDS[rank][0](5, 3, **options)
    layer.build((None, *(9, 7)[:rank], channels))
    shape = layer.pointwise_kernel.shape
    mask = rng.random(shape) < 0.4
    layer.pointwise_kernel.assign(rng.standard_normal(shape) * mask)
    if layer.use_bias:
        layer.bias.assign(rng.standard_normal(5))
    x = rng.standard_normal((4, *(9, 7)[:rank], channels)).astype("float32")
    return layer, mask, x


def gradients(layer, variables, x):
    """Gradients of the sum of squares of the output, by the backend."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x) ** 2)
        return tape.gradient(loss, [v.value for v in variables])
    import jax

    trained = layer.trainable_variables
    others = [v.value for v in layer.non_trainable_variables]

    def loss(values):
        return (layer.stateless_call(values, others, x)[0] ** 2).sum()

    found = jax.grad(loss)([v.value for v in trained])
    by_id = dict(zip(map(id, trained), found, strict=True))
    return [by_id[id(v)] for v in variables]


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": "same", "strides": 2, "activation": "relu"},
        {"depth_multiplier": 2, "use_bias": False, "activation": "tanh"},
        {"dilation_rate": 2, "padding": "same"},
    ],
)
def test_values_and_gradients(rank, options):
    dense, mask, x = case(rank, **options)
    layer = KINDS[rank][1].from_dense(dense, mask)
    assert compressed_kind(dense) is type(layer)
    np.testing.assert_allclose(layer(x), dense(x), rtol=1e-5, atol=1e-5)
    assert layer.compute_output_shape(x.shape) == dense(x).shape
    names = ["depthwise_kernel", "pointwise_kernel"]
    names += ["bias"] if dense.use_bias else []
    exact = gradients(dense, [getattr(dense, name) for name in names], x)
    part = layer.pointwise
    mine = [layer.depthwise_kernel, part.values]
    mine += [part.bias] if dense.use_bias else []
    found = gradients(layer, mine, x)
    exact = [keras.ops.convert_to_numpy(one) for one in exact]
    exact[1] = exact[1].reshape(-1, 5).T[mask.reshape(-1, 5).T]
    for one, other in zip(found, exact, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rank", [1, 2])
def test_configuration_and_the_way_back(rank):
    dense, mask, x = case(rank, depth_multiplier=2, padding="same")
    _, kind = KINDS[rank]
    layer = kind.from_dense(dense, mask, active=int(mask.sum()) + 3)
    (record,) = layer.masked_kernels
    assert record.name == f"{layer.name}/pointwise_kernel"
    assert (record.count(), layer.active) == (mask.sum(), mask.sum() + 3)
    np.testing.assert_array_equal(record.mask_array(), mask)
    again = kind.from_config(layer.get_config())
    again.build(x.shape)
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(again(x), layer(x))
    back = layer.to_dense()
    assert back.get_config() == dense.get_config()
    for one, other in zip(back.get_weights(), dense.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"data_format": "channels_first"}, "channels are not last"),
        ({"pointwise_constraint": "non_neg"}, "has a constraint"),
        ({"pointwise_regularizer": "orthogonal_regularizer"}, "not a sum over"),
        ({"dtype": "mixed_bfloat16"}, "does not compute in float32"),
    ],
)
@pytest.mark.parametrize("rank", [1, 2])
def test_what_is_not_compressed(options, reason, rank):
    dense, compressed = KINDS[rank]
    layer = dense(4, 3, **options)
    layer.build((None, *(8,) * rank, 8))
    assert reason in reason_against(layer)
    mask = np.ones(layer.pointwise_kernel.shape, "bool")
    with pytest.raises(ValueError, match=f"{reason}.*: use storage='mask'"):
        compressed.from_dense(layer, mask)


def test_bad_arguments():
    kind = CompressedSeparableConv2D
    with pytest.raises(ValueError, match="`active` must be"):
        kind(4, 3, active=0)
    with pytest.raises(ValueError, match="`data_format` must be"):
        kind(4, 3, active=2, data_format="channels_first")
    with pytest.raises(ValueError, match="storage='mask'"):
        kind(4, 3, active=2, dtype="float16")
    dense, mask, _ = case(2)
    with pytest.raises(ValueError, match=r"\(1, 1, 3, 5\).*\(3, 1, 1, 5\)"):
        kind.from_dense(dense, mask.reshape(3, 1, 1, 5))
    wide = keras.Input((8, 8, 4))
    layer = kind.from_dense(dense, mask)
    with pytest.raises(ValueError, match="expected axis -1"):
        layer(wide)
