"""Compressed convolutions against Keras' and against sums in float64."""

import itertools

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

import keras_freetickets as kft
from keras_freetickets.layers import CompressedConv1D
from keras_freetickets.layers import CompressedConv2D
from keras_freetickets.layers.compressed_kinds import reason_against

if keras.backend.backend() == "torch":
    pytest.skip("no compressed kernels there", allow_module_level=True)
pytest.importorskip("numba")


KINDS = {
    1: (keras.layers.Conv1D, CompressedConv1D),
    2: (keras.layers.Conv2D, CompressedConv2D),
}


def convolved(x, kernel, bias, strides, padding):
    """The convolution of Keras, by sums over windows, and its windows."""
    size = kernel.shape[:2]
    made, before, after = [], [], []
    for length, width, stride in zip(x.shape[1:3], size, strides, strict=True):
        if padding == "same":
            made.append(-(-length // stride))
            total = max((made[-1] - 1) * stride + width - length, 0)
            before.append(total // 2)
            after.append(total - total // 2)
        elif padding == "causal":
            made.append(-(-length // stride))
            before.append(width - 1)
            after.append(0)
        else:
            made.append((length - width) // stride + 1)
            before.append(0)
            after.append(0)
    pads = [(0, 0), *zip(before, after, strict=True), (0, 0)]
    padded = np.pad(x, pads)
    windows = np.zeros((len(x), *made, *size, x.shape[-1]), x.dtype)
    for r, q in itertools.product(*map(range, made)):
        top, left = r * strides[0], q * strides[1]
        windows[:, r, q] = padded[:, top : top + size[0], left : left + size[1]]
    y = np.einsum("nrqijc,ijco->nrqo", windows, kernel) + bias
    return y, windows, padded.shape, (before, made)


def exact_gradients(x, kernel, bias, strides, padding, dy):
    """Gradients of the sum of the output times `dy`."""
    _, windows, shape, (before, made) = convolved(
        x, kernel, bias, strides, padding
    )
    dkernel = np.einsum("nrqijc,nrqo->ijco", windows, dy)
    of_windows = np.einsum("nrqo,ijco->nrqijc", dy, kernel)
    dx = np.zeros(shape, x.dtype)
    height, width = kernel.shape[:2]
    for r, q in itertools.product(*map(range, made)):
        top, left = r * strides[0], q * strides[1]
        dx[:, top : top + height, left : left + width] += of_windows[:, r, q]
    ends = [b + n for b, n in zip(before, x.shape[1:3], strict=True)]
    dx = dx[:, before[0] : ends[0], before[1] : ends[1]]
    return dx, dkernel, dy.sum(axis=(0, 1, 2))


def gradients(layer, x, dy):
    """Output, and gradients of the input, values and bias."""
    x, dy = map(keras.ops.convert_to_tensor, (x, dy))
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        given = [x, layer.values.value, layer.bias.value]
        return [y, *tape.gradient(y, given, output_gradients=dy)]
    import jax

    others = [v.value for v in layer.non_trainable_variables]

    def output(x, values, bias):
        return layer.stateless_call([values, bias], others, x)[0]

    y, back = jax.vjp(output, x, layer.values.value, layer.bias.value)
    return [y, *back(dy)]


def case(shape, channels, filters, size, strides, padding, density, seed):
    """A layer and its kernel, bias and mask."""
    rng = np.random.default_rng(seed)
    dense, _ = KINDS[len(shape)]
    layer = dense(filters, size, strides, padding)
    layer.build((None, *shape, channels))
    mask = rng.random(layer.kernel.shape) < density
    mask.flat[0] = True
    kernel = rng.standard_normal(mask.shape) * mask
    bias = rng.standard_normal(filters)
    layer.set_weights([kernel, bias])
    return layer, mask, kernel, bias, rng


def check(
    shape, channels, filters, size, strides, padding, batch, density=0.4, seed=0
):
    dense, mask, kernel, bias, rng = case(
        shape, channels, filters, size, strides, padding, density, seed
    )
    layer = KINDS[len(shape)][1].from_dense(dense, mask)
    x = rng.standard_normal((batch, *shape, channels))
    images, strides = x, tuple(strides)
    if len(shape) == 1:  # a sequence is an image of one row
        images, kernel, strides = x[:, None], kernel[None], (1, *strides)
    y, *_ = convolved(images, kernel, bias, strides, padding)
    made = layer.compute_output_shape((None, *shape, channels))
    assert made == (None, *y.shape[3 - len(shape) :])
    dy = rng.standard_normal(y.shape)
    dx, dkernel, dbias = exact_gradients(
        images, kernel, bias, strides, padding, dy
    )
    dy = dy.reshape(batch, *made[1:])
    found = gradients(layer, x.astype("float32"), dy.astype("float32"))
    matrix = (-1, filters)
    columns = mask.reshape(matrix).T
    dvalues = dkernel.reshape(matrix).T[columns]
    for one, exact in zip(found, (y, dx, dvalues, dbias), strict=True):
        one = keras.ops.convert_to_numpy(one).reshape(exact.shape)
        np.testing.assert_allclose(one, exact, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", range(1, 8))
def test_values_and_gradients(size, stride, padding):
    channels = 1 if size % 2 else 3
    check((9, 8), channels, 4, (size, size), (stride, stride), padding, 3)


@pytest.mark.parametrize("padding", ["same", "valid", "causal"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
def test_sequences(size, stride, padding):
    check((21,), 1 if size % 2 else 17, 5, (size,), (stride,), padding, 3)


@pytest.mark.parametrize(
    ("shape", "channels", "filters", "size", "strides", "batch"),
    [
        ((17, 40), 16, 5, (3, 3), (1, 1), 2),  # whole tiles of 16 pixels
        ((33, 21), 20, 17, (3, 5), (2, 1), 1),
        ((4, 4), 2, 300, (3, 3), (1, 1), 2),  # more than a block of filters
        ((5, 5), 1, 1, (5, 5), (3, 3), 4),
        ((2, 3), 3, 2, (3, 3), (2, 2), 2),  # kernels larger than images
    ],
)
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_other_sizes(shape, channels, filters, size, strides, batch, padding):
    if padding == "valid" and any(
        n < k for n, k in zip(shape, size, strict=True)
    ):
        pytest.skip("Keras refuses it")
    check(shape, channels, filters, size, strides, padding, batch)


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(1, 4),
    st.integers(1, 4),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(1, 3),
    st.floats(0.0, 1.0),
    st.integers(0, 2**20),
)
def test_any_sizes(
    shape, channels, filters, size, strides, batch, density, seed
):
    check(
        *(shape, channels, filters, size, strides, "same", batch),
        density=density,
        seed=seed,
    )


@settings(max_examples=20, deadline=None)
@given(
    *(st.integers(1, 40), st.integers(1, 4), st.integers(1, 4)),
    *(st.integers(1, 6), st.integers(1, 4), st.integers(1, 3)),
    *(st.sampled_from(["same", "causal"]), st.integers(0, 2**20)),
)
def test_any_sequence(
    length, channels, filters, size, stride, batch, padding, seed
):
    check(
        *((length,), channels, filters, (size,), (stride,), padding, batch),
        seed=seed,
    )


def test_relu_and_no_bias():
    dense = keras.layers.Conv2D(
        5, 3, padding="same", activation="relu", use_bias=False
    )
    dense.build((None, 8, 8, 3))
    rng = np.random.default_rng(0)
    mask = rng.random(dense.kernel.shape) < 0.3
    dense.kernel.assign(rng.standard_normal(mask.shape) * mask)
    layer = CompressedConv2D.from_dense(dense, mask)
    x = rng.standard_normal((2, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(layer(x), dense(x), rtol=1e-5, atol=1e-5)
    assert (np.asarray(layer(x)) == 0).any()
    again = CompressedConv2D.from_config(layer.get_config())
    again.build((None, 8, 8, 3))
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(again(x), layer(x))
    back = layer.to_dense()
    assert back.get_config() == {**dense.get_config(), "name": back.name}
    np.testing.assert_array_equal(back.kernel, dense.kernel)


def test_sequences_of_any_length():
    dense, mask, *_, rng = case((None,), 2, 4, 3, 2, "causal", 0.5, 0)
    inputs = keras.Input((None, 2))
    layer = CompressedConv1D.from_dense(dense, mask)
    again = CompressedConv1D.from_config(layer.get_config())
    model = keras.Model(inputs, again(inputs))
    assert model.output_shape == (None, None, 4)
    again.set_weights(layer.get_weights())
    for length in (6, 9):
        x = rng.standard_normal((3, length, 2)).astype("float32")
        np.testing.assert_allclose(
            model.predict(x, verbose=0), dense(x), rtol=1e-5, atol=1e-5
        )
    back = layer.to_dense()
    assert back.get_config() == {**dense.get_config(), "name": back.name}
    np.testing.assert_array_equal(back.kernel, dense.kernel)


def test_images_of_any_size():
    dense, mask, *_, rng = case((None, None), 2, 4, 3, 2, "same", 0.5, 0)
    inputs = keras.Input((None, None, 2))
    model = keras.Model(
        inputs, CompressedConv2D.from_dense(dense, mask)(inputs)
    )
    assert model.output_shape == (None, None, None, 4)
    for shape in ((6, 7), (9, 4)):
        x = rng.standard_normal((3, *shape, 2)).astype("float32")
        np.testing.assert_allclose(
            model.predict(x, verbose=0), dense(x), rtol=1e-5, atol=1e-5
        )


def test_rows_of_what_was_noted():
    """A dense gradient is rows, transposed, times that of the output."""
    for shape, size, strides, padding in (
        ((6, 5), (3, 2), (2, 1), "same"),
        ((6, 5), (2, 2), (1, 1), "valid"),
        ((7,), (3,), (2,), "causal"),
        ((7,), (2,), (1,), "same"),
    ):
        dense, mask, kernel, bias, rng = case(
            shape, 3, 4, size, strides, padding, 0.5, 0
        )
        layer = KINDS[len(shape)][1].from_dense(dense, mask)
        if len(shape) == 1:
            shape, kernel, strides = (1, *shape), kernel[None], (1, *strides)
        x = rng.standard_normal((2, *shape, 3))
        _, windows, *_ = convolved(x, kernel, bias, strides, padding)
        rows = keras.ops.convert_to_numpy(layer.rows_of(x.astype("float32")))
        np.testing.assert_allclose(
            rows, windows.reshape(-1, layer.num_inputs), rtol=1e-6
        )


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"groups": 2}, "several groups"),
        ({"dilation_rate": 2}, "dilated"),
        ({"data_format": "channels_first"}, "channels are not last"),
        ({"kernel_constraint": "non_neg"}, "has a constraint"),
    ],
)
@pytest.mark.parametrize("rank", [1, 2])
def test_what_is_not_compressed(arguments, reason, rank):
    dense, compressed = KINDS[rank]
    layer = dense(4, 3, **arguments)
    layer.build((None, *(8,) * rank, 4))
    assert reason in reason_against(layer)
    with pytest.raises(ValueError, match=f"{reason}: use storage='mask'"):
        compressed.from_dense(layer, np.ones(layer.kernel.shape, "bool"))


@pytest.mark.parametrize(
    ("kind", "arguments", "match"),
    [
        (
            CompressedConv2D,
            {"kernel_size": (3, 3, 3)},
            "`kernel_size` must be an integer or a pair of integers",
        ),
        (
            CompressedConv1D,
            {"strides": (3, 3)},
            "`strides` must be an integer or a tuple of one",
        ),
        (CompressedConv2D, {"kernel_size": 0}, "`kernel_size` must be"),
        (CompressedConv2D, {"strides": (1, -1)}, "`strides` must be"),
        (CompressedConv2D, {"padding": "causal"}, "`padding` must be"),
        (CompressedConv1D, {"padding": "full"}, "`padding` must be"),
    ],
)
def test_bad_arguments(kind, arguments, match):
    with pytest.raises(ValueError, match=match):
        kind(4, 10, **arguments)


def test_a_mask_of_another_shape():
    layer = keras.layers.Conv1D(4, 3)
    layer.build((None, 8, 2))
    with pytest.raises(ValueError, match=r"\(3, 2, 4\).*\(2, 3, 4\)"):
        CompressedConv1D.from_dense(layer, np.ones((2, 3, 4), "bool"))


def test_images_of_another_size_than_traced():
    """The operation looks at the sizes that it is given."""
    dense, mask, *_ = case((8, 8), 2, 4, 3, 1, "same", 0.5, 0)
    layer = CompressedConv2D.from_dense(dense, mask)
    with pytest.raises(ValueError, match=r"expected axis -1 .* value 2"):
        layer(np.zeros((1, 8, 8, 3), "float32"))


def test_a_network_predicts_as_its_masked_one():
    keras.utils.set_random_seed(0)
    dense = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            keras.layers.Conv2D(32, 3, padding="same", use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Conv2D(32, 3, strides=2, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(4),
        ]
    )
    masked = kft.sparsify(dense, 0.9, seed=0)
    fast = kft.compress(masked, max_compressed_density=0.9)
    kinds = [type(layer).__name__ for layer in fast.layers]
    assert kinds.count("CompressedConv2D") == 2
    x = np.random.default_rng(0).normal(size=(4, 12, 12, 3)).astype("float32")
    np.testing.assert_allclose(
        fast.predict(x, verbose=0),
        masked.predict(x, verbose=0),
        rtol=1e-4,
        atol=1e-5,
    )
