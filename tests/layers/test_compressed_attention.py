"""Attention with compressed projections computes what a masked one does."""

import keras
import numpy as np
import pytest

from keras_freetickets.layers import CompressedMultiHeadAttention
from keras_freetickets.layers.compressed_kinds import compressed_kind
from keras_freetickets.layers.compressed_kinds import reason_against

if keras.backend.backend() == "torch":
    pytest.skip("no compressed layers there", allow_module_level=True)

LENGTH, FEATURES = 5, 8


def projections(layer):
    names = ("query", "key", "value", "output")
    return [getattr(layer, f"{name}_dense") for name in names]


def multi_head(**kwargs):
    return keras.layers.MultiHeadAttention(2, 4, **kwargs)


def group_query(**kwargs):
    return keras.layers.GroupQueryAttention(4, 4, 2, **kwargs)


def masked(make=multi_head, widths=(FEATURES,) * 3, **kwargs):
    """An attention with zeros outside of masks, and the masks by name.

    Args:
        make: Function that makes the layer.
        widths: Features of queries, values and keys.
        **kwargs: Arguments of the layer.
    """
    rng = np.random.default_rng(1)
    layer = make(name="attention", **kwargs)
    query, value, key = ((None, LENGTH, width) for width in widths)
    layer.build(query, value, key)
    masks = {}
    for dense in compressed_kind(layer).dense_layers_of(layer):
        mask = rng.random(dense.kernel.shape) < 0.4
        dense.kernel.assign(np.where(mask, dense.kernel, 0))
        if dense.bias is not None:
            dense.bias.assign(rng.standard_normal(dense.bias.shape))
        masks[dense.name] = mask
    return layer, masks


def compressed(layer, masks, **kwargs):
    return compressed_kind(layer).from_dense(layer, masks, **kwargs)


def inputs(width=FEATURES, length=LENGTH, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((3, length, width)).astype("float32")


def assert_close(one, other):
    one, other = (keras.ops.convert_to_numpy(y) for y in (one, other))
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


CALLS = {
    "self": lambda x: ((x, x), {}),
    "query, value, key": lambda x: ((x, inputs(seed=1), inputs(seed=2)), {}),
    "other length": lambda x: ((x, inputs(length=7)), {}),
    "mask": lambda x: (
        (x, x),
        {"attention_mask": np.tri(LENGTH, dtype="bool")[None]},
    ),
    "causal": lambda x: ((x, x), {"use_causal_mask": True}),
    "scores": lambda x: ((x, x), {"return_attention_scores": True}),
    "causal scores": lambda x: (
        (x, x),
        {"return_attention_scores": True, "use_causal_mask": True},
    ),
}
OPTIONS = [
    {},
    {"use_bias": False},
    {"use_gate": True},
    {"sliding_window": 2},
]


@pytest.mark.parametrize("call", sorted(CALLS))
@pytest.mark.parametrize("make", [multi_head, group_query])
def test_computes_what_the_masked_layer_does(make, call):
    layer, masks = masked(make)
    args, kwargs = CALLS[call](inputs())
    expected = layer(*args, **kwargs)
    found = compressed(layer, masks)(*args, **kwargs)
    if not isinstance(expected, tuple):
        expected, found = [expected], [found]
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("make", [multi_head, group_query])
def test_options_config_and_the_dense_layer_back(make, options):
    layer, masks = masked(make, **options)
    own = compressed(layer, masks)
    x = inputs()
    expected = keras.ops.convert_to_numpy(layer(x, x))
    assert_close(own(x, x), expected)
    kinds = {type(part).__name__ for part in own.kernel_layers}
    assert kinds == {"CompressedEinsumDense"}
    # Nothing dense stays: the largest variable has the active weights.
    most = max(int(mask.sum()) for mask in masks.values())
    assert max(int(np.prod(v.shape)) for v in own.variables) == most
    for record, mask in zip(own.masked_kernels, masks.values(), strict=True):
        np.testing.assert_array_equal(record.mask_array(), mask)
    again = type(own).from_config(own.get_config())
    again.build_from_config(own.get_build_config())
    again.set_weights(own.get_weights())
    np.testing.assert_array_equal(again(x, x), own(x, x))
    dense = own.to_dense()
    assert type(dense) is type(layer)
    np.testing.assert_array_equal(dense(x, x), expected)


@pytest.mark.parametrize(
    ("options", "widths"),
    [
        # Keras' own product on JAX needs keys and values of one width; that
        # with dropout does not.
        ({"value_dim": 3, "output_shape": 6, "dropout": 0.1}, (8, 6, 5)),
        ({"output_shape": (2, 3)}, (8, 8, 8)),
    ],
)
def test_other_widths(options, widths):
    layer, masks = masked(widths=widths, **options)
    args = [inputs(width) for width in widths]
    own = compressed(layer, masks)
    expected = layer(*args)
    assert_close(own(*args), expected)
    assert own.compute_output_shape(*(x.shape for x in args)) == expected.shape


def test_attention_over_two_axes():
    layer = multi_head(attention_axes=(1, 2))
    x = inputs(2 * 3 * FEATURES).reshape(3, LENGTH, 6, FEATURES)
    layer.build(x.shape, x.shape)
    masks = {}
    for dense in projections(layer):
        mask = np.random.default_rng(0).random(dense.kernel.shape) < 0.4
        dense.kernel.assign(np.where(mask, dense.kernel, 0))
        masks[dense.name] = mask
    assert_close(compressed(layer, masks)(x, x), layer(x, x))


def test_masks_of_sequences():
    """Keras' mask of padded steps goes through."""
    tokens = np.array([[1, 2, 3, 0, 0], [4, 5, 6, 7, 0]])
    embedding = keras.layers.Embedding(9, FEATURES, mask_zero=True)
    layer, masks = masked()
    own = compressed(layer, masks)
    # Embedded once more for each: an attention takes the mask off its input.
    (one, other), unmasked = (
        [la(*[embedding(tokens)] * 2) for la in (own, layer)],
        layer(*[keras.ops.convert_to_numpy(embedding(tokens))] * 2),
    )
    assert_close(one, other)
    assert not np.allclose(one, unmasked)


def test_dropout():
    """The same entries drop out, by the seed; none in prediction."""
    layer, masks = masked(dropout=0.5, seed=3)
    own = compressed(layer, masks)
    x = inputs()
    assert_close(own(x, x), layer(x, x))
    found = own(x, x, training=True)
    assert_close(found, layer(x, x, training=True))
    assert not np.allclose(found, own(x, x))


def test_trains_as_the_masked_layer():
    """Gradients of all kernels and biases, by one step of SGD."""
    layer, masks = masked(use_gate=True)
    own = compressed(layer, masks)
    x, y = inputs(), inputs(seed=5)
    for attention in (layer, own):
        inp = keras.Input((LENGTH, FEATURES))
        model = keras.Model(inp, attention(inp, inp))
        model.compile(keras.optimizers.SGD(0.5), "mse")
        model.train_on_batch(x, y)
    dense_layers = type(own).dense_layers_of(layer)
    for part, dense in zip(own.kernel_layers, dense_layers, strict=True):
        (record,) = part.masked_kernels
        kernel = keras.ops.convert_to_numpy(dense.kernel)
        kernel = np.where(masks[dense.name], kernel, 0)
        assert_close(record.kernel_array(), kernel)
        assert_close(part.bias, dense.bias)


def test_frozen_projections_stay_frozen():
    layer, masks = masked()
    layer.key_dense.trainable = False
    own = compressed(layer, masks)
    names = [part.name for part in own.kernel_layers if part.trainable]
    assert names == ["query", "value", "attention_output"]
    assert len(own.trainable_variables) == 6
    back = own.to_dense()
    assert not back.key_dense.trainable and back.query_dense.trainable
    assert len(back.trainable_variables) == 6


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"kernel_constraint": "max_norm"},
            "in projection 'query', its kernel has a con",
        ),
        ({"dtype": "mixed_bfloat16"}, "does not compute in float32"),
        ({"dtype": "float16"}, "does not compute in float32"),
        ({"kernel_regularizer": "orthogonal_regularizer"}, "not a sum over"),
    ],
)
def test_what_cannot_be_compressed_says_why(options, reason):
    layer, masks = masked(**options)
    assert reason in reason_against(layer)
    with pytest.raises(
        ValueError, match="compressed, as in projection 'query'"
    ):
        CompressedMultiHeadAttention.from_dense(layer, masks)


def test_a_subclass_may_compute_something_else():
    class Own(keras.layers.MultiHeadAttention):
        pass

    assert reason_against(Own(2, 4)) == "there is no compressed Own"


def test_bad_arguments():
    layer, masks = masked()
    active = dict.fromkeys(masks, 3)
    with pytest.raises(ValueError, match="active\\['key'\\]=0"):
        CompressedMultiHeadAttention(2, 4, active={**active, "key": 0})
    with pytest.raises(ValueError, match="storage='mask'"):
        CompressedMultiHeadAttention(2, 4, active=active, dtype="float16")
    shape = (None, LENGTH, FEATURES)
    gated = CompressedMultiHeadAttention(2, 4, active=active, use_gate=True)
    with pytest.raises(ValueError, match="a number for each projection"):
        gated.build(shape, shape)
    del masks["key"]
    with pytest.raises(ValueError, match="the shapes of the kernels"):
        compressed(layer, masks)
    with pytest.raises(ValueError, match="no state for each connection"):
        gated.add_state("age", "int32")
