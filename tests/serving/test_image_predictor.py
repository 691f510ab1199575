"""`SparsePredictor` of convolutional networks beside Keras."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft
from keras_freetickets.serving import SparsePredictor


def shaken(model, seed):
    """The model with other values in its biases and normalizations."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        name = variable.path.split("/")[-1]
        if name in ("bias", "beta", "moving_mean"):
            variable.assign(rng.normal(0, 0.3, variable.shape))
        if name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def members_of(model, storage="mask", count=1):
    return [
        shaken(kft.sparsify(model, 0.85, "uniform", storage=storage, seed=i), i)
        for i in range(count)
    ]


def images(model, batch):
    rng = np.random.default_rng(3)
    shape = (batch, *model.input_shape[1:])
    return rng.standard_normal(shape).astype("float32")


def check(members, batches=(1, 5)):
    ensemble = kft.EnsembleModel(members, pooling="mean")
    predictor = SparsePredictor.from_ensemble(ensemble)
    for batch in batches:
        x = images(members[0], batch)
        found = predictor.predict_members(x)
        for member, y in zip(members, found, strict=True):
            wanted = keras.ops.convert_to_numpy(member(x, training=False))
            np.testing.assert_allclose(y, wanted, rtol=2e-5, atol=2e-5)
    return predictor


def sequential(*chain, shape=(9, 11, 3)):
    return keras.Sequential([keras.Input(shape), *chain])


@pytest.mark.parametrize("kernel", range(1, 8))
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_convolutions(kernel, strides, padding):
    model = sequential(
        layers.Conv2D(12, kernel, strides, padding, activation="relu"),
        layers.Conv2D(12, 2, padding=padding),
        layers.GlobalAveragePooling2D(),
        shape=(19, 17, 1 if kernel % 2 else 3),
    )
    check(members_of(model))


def residual(shape=(12, 10, 3)):
    """Shortcuts of both kinds, and normalization wherever it may stand."""
    given = keras.Input(shape)
    x = layers.Rescaling(2.0, offset=-0.5)(given)
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    for channels, strides in ((8, 1), (16, 2), (16, 1)):
        shortcut = x
        y = layers.ReLU()(layers.BatchNormalization()(x))
        if strides == 2:
            shortcut = layers.Conv2D(channels, 1, 2, "same")(y)
        y = layers.Conv2D(channels, 3, strides, "same", use_bias=False)(y)
        y = layers.ReLU()(layers.BatchNormalization(scale=False)(y))
        y = layers.Dropout(0.3)(y)
        y = layers.Conv2D(channels, 3, padding="same")(y)
        x = layers.Add()([y, shortcut])
    x = layers.Activation("relu")(x)
    x = layers.Add()([x, layers.Conv2D(16, 5, padding="same")(x), x])
    x = layers.MaxPooling2D(3, 2, "same")(layers.SpatialDropout2D(0.5)(x))
    x = layers.BatchNormalization()(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(given, layers.Dense(4)(x))


@pytest.mark.parametrize("storage", ["mask", "compressed"])
def test_three_residual_members(storage):
    predictor = check(members_of(residual(), storage, 3), (1, 4))
    assert predictor.num_members == 3
    assert predictor.input_shape == (12, 10, 3)


def test_weights_that_count():
    members = members_of(residual(), count=2)
    counts = [
        np.count_nonzero(keras.ops.convert_to_numpy(record.mask))
        for member in members
        for record in member.masked_kernels
    ]
    assert check(members).active == sum(counts)


@pytest.mark.parametrize(
    "kind, settings",
    [
        (layers.MaxPooling2D, {}),
        (layers.MaxPooling2D, {"pool_size": 3, "strides": 2}),
        (layers.MaxPooling2D, {"pool_size": (2, 3), "strides": 1}),
        (
            layers.MaxPooling2D,
            {"pool_size": 3, "strides": 2, "padding": "same"},
        ),
        (
            layers.AveragePooling2D,
            {"pool_size": 3, "strides": 1, "padding": "same"},
        ),
        (layers.AveragePooling2D, {"pool_size": 2, "strides": 3}),
    ],
)
def test_poolings(kind, settings):
    model = sequential(
        kind(**settings),
        layers.Conv2D(8, 3, padding="same"),
        kind(**settings),
        layers.Flatten(),
        layers.Dense(5),
        shape=(19, 17, 3),
    )
    check(members_of(model))


@pytest.mark.parametrize("name", ["gelu", "softmax", "leaky_relu", "tanh"])
def test_activations_between_convolutions(name):
    model = sequential(
        layers.Conv2D(8, 3, activation=name),
        layers.ELU(),
        layers.Conv2D(8, 3, padding="same"),
        layers.GlobalMaxPooling2D(),
        layers.Dense(6, "silu"),
        layers.Dense(4, "softmax"),
    )
    check(members_of(model))


def test_applications():
    for model in (
        kft.applications.wide_resnet(10, 1, (16, 16, 3)),
        kft.applications.small_cnn((12, 12, 1), 4),
    ):
        check(members_of(model, count=2))


def test_stripped_and_dense_members():
    member = kft.strip(members_of(residual())[0])
    check([member])
    check([shaken(residual(), 0)])


@pytest.mark.parametrize("dtype", [None, "float16", "int8"])
def test_packed_file(dtype, tmp_path):
    members = members_of(residual(), "compressed", 2)
    path = tmp_path / "ensemble.npz"
    kft.EnsembleModel(members, from_logits=True).save_packed(path, dtype)
    predictor = SparsePredictor.load(path)
    x = images(members[0], 3)
    wanted = kft.EnsembleModel.from_packed(path).predict(x, verbose=0)
    np.testing.assert_allclose(predictor.predict(x), wanted, 2e-5, 2e-6)


def test_images_of_integers():
    model = sequential(
        layers.Rescaling(1 / 255),
        layers.Conv2D(8, 3),
        layers.GlobalAveragePooling2D(),
    )
    members = members_of(model)
    ensemble = kft.EnsembleModel(members, pooling="mean")
    x = np.random.default_rng(0).integers(0, 256, (2, 9, 11, 3), "uint8")
    found = SparsePredictor.from_ensemble(ensemble).predict(x)
    wanted = members[0](x.astype("float32"))
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5)


def unequal():
    given = keras.Input((8, 8, 3))
    y = layers.Conv2D(4, 3, padding="same")(given)
    y = layers.Add()([y, layers.Conv2D(1, 3, padding="same")(given)])
    return keras.Model(given, layers.GlobalMaxPooling2D()(y))


def two_images():
    one, other = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    y = layers.Conv2D(4, 3)(layers.Add()([one, other]))
    return keras.Model([one, other], layers.Flatten()(y))


def joined():
    given = keras.Input((8, 8, 3))
    y = layers.Concatenate()([given, layers.Conv2D(4, 1)(given)])
    return keras.Model(given, layers.Flatten()(y))


def called_twice():
    given = keras.Input((8, 8, 3))
    layer = layers.Conv2D(3, 3, padding="same")
    return keras.Model(given, layers.Flatten()(layer(layer(given))))


REFUSED = {
    "groups": (
        lambda: sequential(layers.Conv2D(6, 3, groups=3), layers.Flatten()),
        "'conv2d.*': it must have one group",
    ),
    "dilation": (
        lambda: sequential(
            layers.Conv2D(6, 3, dilation_rate=2), layers.Flatten()
        ),
        "'conv2d.*': it must have a dilation_rate of 1",
    ),
    "channels first": (
        lambda: sequential(
            layers.MaxPooling2D(data_format="channels_first"), layers.Flatten()
        ),
        "must have data_format='channels_last'",
    ),
    "kept axes": (
        lambda: sequential(layers.GlobalMaxPooling2D(keepdims=True)),
        "must have keepdims=False",
    ),
    "depthwise": (
        lambda: sequential(
            layers.Conv2D(4, 3), layers.DepthwiseConv2D(3), layers.Flatten()
        ),
        "'depthwise_conv2d.*' is of another kind",
    ),
    "concatenation": (joined, "'concatenate.*' has 2 inputs"),
    "an image as output": (
        lambda: sequential(layers.Conv2D(4, 3)),
        "the last layer must return a vector",
    ),
    "unequal sums": (unequal, "'add.*': its inputs must have one shape"),
    "two inputs": (two_images, "this model has several inputs"),
    "called twice": (called_twice, "'conv2d.*' is called several times"),
    "dense layer of images": (
        lambda: sequential(
            layers.Conv2D(4, 3), layers.Dense(4), layers.Flatten()
        ),
        r"'dense.*' gets examples of shape \(7, 9, 4\)",
    ),
    "other axis": (
        lambda: sequential(
            layers.Conv2D(4, 3), layers.BatchNormalization(1), layers.Flatten()
        ),
        "must normalize over the last axis",
    ),
    "unknown size": (
        lambda: sequential(
            layers.Conv2D(4, 3),
            layers.GlobalMaxPooling2D(),
            shape=(None, None, 3),
        ),
        "the shape of an example must be known",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_models(name):
    make, message = REFUSED[name]
    ensemble = kft.EnsembleModel([make()], pooling="mean")
    with pytest.raises(ValueError, match=message) as caught:
        SparsePredictor.from_ensemble(ensemble)
    assert "Predict with keras_freetickets.EnsembleModel" in str(caught.value)
    assert "Received: " in str(caught.value)
