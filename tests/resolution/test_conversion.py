"""Layers and models at two resolutions."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_freetickets as kft
from keras_freetickets import resolution


def network(size=12, end="pool", **arguments):
    keras.utils.set_random_seed(0)
    arguments = {"padding": "same", **arguments}
    inputs = keras.Input((size, size, 2))
    x = layers.Conv2D(6, 3, name="stem", **arguments)(inputs)
    x = layers.BatchNormalization(momentum=0.5)(x)
    x = layers.ReLU()(x)
    x = layers.Conv2D(8, 3, strides=2, name="conv", **arguments)(x)
    pool = layers.GlobalAveragePooling2D()
    x = pool(x) if end == "pool" else layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(3, "softmax")(x))


def images(count=4, size=12):
    generator = np.random.default_rng(0)
    return generator.normal(size=(count, size, size, 2)).astype("float32")


def of_kind(model, kind):
    # In a sparse model the wrapper's inner layer.
    found = [getattr(layer, "layer", layer) for layer in model.layers]
    return [layer for layer in found if isinstance(layer, kind)]


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_shapes_of_same_padding(size, strides, kernel):
    layer = resolution.ReducibleConv2D(
        4, kernel, strides=strides, padding="same"
    )
    x = np.ones((1, size, size, 3), "float32")
    full = layer(x)
    with resolution.reduced():
        reduced = layer(resolution.downsample(x))
    half = -(-size // 2)
    assert full.shape == (1, -(-size // strides), -(-size // strides), 4)
    assert reduced.shape == (1, -(-half // strides), -(-half // strides), 4)


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_constant_images_with_the_exact_gain(kernel):
    layer = resolution.ReducibleConv2D(4, kernel, gain="exact")
    x = np.full((1, 16, 16, 3), 0.7, "float32")
    full = ops.convert_to_numpy(layer(x))
    with resolution.reduced():
        reduced = ops.convert_to_numpy(layer(resolution.downsample(x)))
    interior = np.broadcast_to(full[:, :1, :1], reduced.shape)
    np.testing.assert_allclose(reduced, interior, rtol=1e-5, atol=1e-6)


def test_batch_normalization_has_two_sets_of_statistics():
    layer = resolution.ReducibleBatchNormalization(momentum=0.0)
    x = images()
    layer(x, training=True)
    full = ops.convert_to_numpy(layer.moving_mean.value)
    np.testing.assert_allclose(full, x.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_array_equal(layer.reduced_moving_mean.value, [0, 0])
    with resolution.reduced():
        layer(x + 3.0, training=True)
        shifted = layer(x + 3.0)  # by the second set
    np.testing.assert_array_equal(layer.moving_mean.value, full)
    np.testing.assert_allclose(
        layer.reduced_moving_mean.value, full + 3.0, atol=1e-5
    )
    np.testing.assert_allclose(shifted, layer(x), atol=1e-5)


def test_the_scope_ends_with_an_error():
    with pytest.raises(RuntimeError), resolution.reduced():
        assert resolution.is_reduced()
        raise RuntimeError
    assert not resolution.is_reduced()


@pytest.mark.parametrize("sparsity", [None, 0.6])
def test_a_converted_model_computes_the_same(sparsity):
    model = network()
    x = images()
    model.compile("sgd", "mse")
    model.fit(x, np.eye(3)[[0, 1, 2, 0]], epochs=2, verbose=0)
    if sparsity is not None:
        model = kft.sparsify(model, sparsity, seed=1)
    model.layers[-1].trainable = False
    made = resolution.reducible(model)
    np.testing.assert_array_equal(made(x), model(x))
    assert not made.layers[-1].trainable
    assert len(made.trainable_variables) == len(model.trainable_variables)
    (norm,) = of_kind(made, resolution.ReducibleBatchNormalization)
    np.testing.assert_array_equal(norm.reduced_moving_mean, norm.moving_mean)
    for old, new in zip(
        getattr(model, "masked_kernels", []), made.masked_kernels, strict=True
    ):
        np.testing.assert_array_equal(old.mask_array(), new.mask_array())
        np.testing.assert_array_equal(old.kernel_array(), new.kernel_array())
        assert (old.name, old.active) == (new.name, new.active)
    with resolution.reduced():
        assert made(resolution.downsample(x)).shape == (4, 3)
    back = resolution.plain(made)
    np.testing.assert_array_equal(back(x), model(x))
    assert not of_kind(back, resolution.ReducibleConv2D)
    assert not of_kind(back, resolution.ReducibleBatchNormalization)


def test_masks_come_before_pooling():
    model = resolution.reducible(kft.sparsify(network(), 0.5, seed=1))
    (stem, *_) = of_kind(model, resolution.ReducibleConv2D)
    mask = model.masked_kernels[0].mask_array()
    assert model.masked_kernels[0].kernel is stem.kernel
    x = images(size=6)
    with resolution.reduced():
        found = ops.convert_to_numpy(stem(x))
    by_hand = resolution.pool_kernel(
        ops.convert_to_numpy(stem.kernel) * mask, "area"
    )
    expected = ops.conv(x, by_hand, padding="same")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_order_of_conversions_and_files(tmp_path):
    sparse = kft.sparsify(resolution.reducible(network()), 0.5, seed=1)
    assert len(sparse.sparse_layers) == 3
    path = tmp_path / "model.keras"
    sparse.save(path)
    loaded = keras.models.load_model(path)
    x = images()
    np.testing.assert_array_equal(loaded(x), sparse(x))
    with resolution.reduced():
        half = resolution.downsample(x)
        np.testing.assert_array_equal(loaded(half), sparse(half))


def test_filters_leave_layers_as_they_are():
    made = resolution.reducible(
        network(), gain="exact", filters=lambda layer: layer.name != "stem"
    )
    (only,) = of_kind(made, resolution.ReducibleConv2D)
    assert only.name == "conv" and only.gain == "exact"


def test_sequential_and_nested_models():
    keras.utils.set_random_seed(0)
    body = keras.Sequential(
        [
            keras.Input((12, 12, 2)),
            layers.Conv2D(4, 3),
            layers.GlobalAveragePooling2D(),
        ]
    )
    model = keras.Sequential([keras.Input((12, 12, 2)), body, layers.Dense(2)])
    made = resolution.reducible(model)
    x = images()
    np.testing.assert_array_equal(made(x), model(x))
    with resolution.reduced():
        assert made(resolution.downsample(x)).shape == (4, 2)


def test_statistics_are_estimated_at_full_resolution():
    made = resolution.reducible(network())
    (norm,) = of_kind(made, resolution.ReducibleBatchNormalization)
    before = ops.convert_to_numpy(norm.reduced_moving_mean.value)
    assert kft.reestimate_batch_normalization(made, images(8)) == 1
    np.testing.assert_array_equal(norm.reduced_moving_mean.value, before)
    assert np.abs(ops.convert_to_numpy(norm.moving_mean.value)).max() > 0


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: network(end="flatten"), "half its size.*GlobalAverage"),
        (
            lambda: keras.Sequential(
                [
                    keras.Input((6, 6, 1)),
                    layers.MaxPooling2D(),
                    layers.Conv2D(2, 3, name="conv"),
                    layers.GlobalAveragePooling2D(),
                ]
            ),
            r"half its size.*for images of \(6, 6, 1\)",
        ),
        (
            lambda: keras.Sequential([keras.Input((4,)), layers.Dense(2)]),
            "one input of images",
        ),
        (
            lambda: keras.Sequential(
                [
                    keras.Input((8, 8, 1)),
                    layers.GlobalAveragePooling2D(),
                    layers.Dense(2),
                ]
            ),
            "must have a Conv2D",
        ),
        (
            lambda: keras.Sequential(
                [keras.Input((8, 8, 1)), layers.Conv2D(2, 3, padding="same")]
            ),
            "outputs of one shape",
        ),
    ],
)
def test_models_that_cannot_be_reduced(make, said):
    with pytest.raises(ValueError, match=said):
        resolution.reducible(make())


def test_images_smaller_than_a_pooled_kernel():
    layer = resolution.ReducibleConv2D(2, 5, name="large")
    layer.build((None, None, None, 1))
    with (
        resolution.reduced(),
        pytest.raises(
            ValueError,
            match=r"'large' needs images of \[3, 3\] .*\[2, 2\] pixels",
        ),
    ):
        layer(np.ones((1, 2, 2, 1), "float32"))


def test_costs_count_pooled_taps():
    model = resolution.reducible(
        kft.sparsify(network(16), 0.9, "uniform", seed=1)
    )
    full, reduced = resolution.forward_flops(model, (16, 16, 2))
    stem, conv, dense = model.masked_kernels
    taps = 0
    for masked, places in ((stem, 8 * 8), (conv, 4 * 4)):
        pooled = resolution.pool_kernel(
            masked.mask_array().astype("float32"), "average"
        )
        taps += places * np.count_nonzero(ops.convert_to_numpy(pooled))
    assert reduced == 2 * (taps + dense.count())
    expected = 256 * stem.count() + 64 * conv.count() + dense.count()
    assert full == 2 * expected
    # 1 - (1 - d)^4 of the taps remain, of a quarter of the pixels and 4 / 9
    # of the taps: more than the ninth of a dense network.
    dense_ratio = np.divide(
        *resolution.forward_flops(
            resolution.reducible(network(16)), (16, 16, 2)
        )[::-1]
    )
    assert dense_ratio == pytest.approx(1 / 9, rel=0.01)
    remaining = (1 - 0.9**4) / 0.1
    assert reduced / full == pytest.approx(remaining / 9, rel=0.15)
