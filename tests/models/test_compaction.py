"""Units that nothing feeds or reads go, and outputs stay."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_freetickets as kft


def images(shape=(8, 8, 3), count=6):
    generator = np.random.default_rng(0)
    return generator.normal(size=(count, *shape)).astype("float32")


def randomize(model):
    """Gives all weights values, those of batch normalization too."""
    generator = np.random.default_rng(1)
    for weight in model.weights:
        if weight.dtype == "float32":
            values = generator.uniform(0.2, 1.0, weight.shape)
            signs = generator.choice([-1, 1], weight.shape)
            positive = "variance" in weight.path
            weight.assign(values if positive else values * signs)


def cut(layer, unfed=(), units_unread=(), positions=1):
    """Zeros columns of a kernel, or rows (by the channel of the input)."""
    kernel = ops.convert_to_numpy(layer.kernel).copy()
    kernel[..., list(unfed)] = 0
    rows = kernel.reshape(positions, -1, kernel.shape[-1])
    if kernel.ndim > 2:
        rows = kernel.reshape(-1, *kernel.shape[-2:])
    rows[:, list(units_unread)] = 0
    layer.kernel.assign(rows.reshape(kernel.shape))


def same(model, x, sizes):
    """Compacts; checks outputs and the units of each layer."""
    small = kft.compact(model)
    np.testing.assert_allclose(
        small.predict(x, verbose=0),
        model.predict(x, verbose=0),
        atol=1e-6,
        rtol=1e-5,
    )
    found = {
        layer.name: layer.kernel.shape[-1]
        for layer in small.layers
        if hasattr(layer, "kernel")
    }
    assert found == sizes
    return small


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("activation", ["relu", "sigmoid", "gelu"])
def test_units_of_a_perceptron(activation, use_bias):
    model = keras.Sequential(
        [
            keras.Input((24,)),
            layers.Dense(
                10, activation=activation, name="a", use_bias=use_bias
            ),
            layers.Dropout(0.5),
            layers.Dense(8, activation="relu", name="b", use_bias=use_bias),
            layers.Dense(3, activation="softmax", name="c", use_bias=use_bias),
        ]
    )
    randomize(model)
    a, b, c = (model.get_layer(name) for name in "abc")
    cut(a, unfed=[0, 4])
    cut(b, unfed=[2], units_unread=[4, 5])
    cut(c, units_unread=[2, 7])
    x = images((24,))
    small = same(model, x, {"a": 7, "b": 6, "c": 3})
    assert small.count_params() < model.count_params()


def test_what_is_left_alone_does_more():
    """A unit of which all readers go, goes too."""
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, activation="relu", name="a"),
            layers.Dense(4, activation="relu", name="b"),
            layers.Dense(2, name="c"),
        ]
    )
    randomize(model)
    kernel = np.ones((5, 4), "float32")
    kernel[3, :3] = 0  # unit 3 of `a` feeds only unit 3 of `b`
    model.get_layer("b").kernel.assign(kernel)
    cut(model.get_layer("c"), units_unread=[3])
    same(model, images((6,)), {"a": 4, "b": 3, "c": 2})


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("end", ["flatten", "average", "maximum"])
def test_channels_of_a_convolutional_network(padding, end):
    ends = {
        "flatten": layers.Flatten,
        "average": layers.GlobalAveragePooling2D,
        "maximum": layers.GlobalMaxPooling2D,
    }
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(6, 3, padding=padding, use_bias=False, name="a"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(2),
            layers.Conv2D(5, 2, padding=padding, activation="tanh", name="b"),
            layers.AveragePooling2D(2),
            ends[end](),
            layers.Dense(3, name="c"),
        ]
    )
    randomize(model)
    a, b, c = (model.get_layer(name) for name in "abc")
    cut(a, unfed=[1, 2])
    cut(b, unfed=[0], units_unread=[3])
    positions = c.kernel.shape[0] // 5
    cut(c, units_unread=[4], positions=positions)
    norm = model.layers[1]
    # Channel 1 gives a constant, channel 2 zeros behind the ReLU.
    norm.beta.assign([0.1, 2.0, -3.0, 0.1, 0.1, 0.1])
    norm.moving_mean.assign(np.zeros(6))
    sizes = {"a": 3 if padding == "valid" else 4, "b": 3, "c": 3}
    same(model, images(), sizes)


def residual(width=6):
    """Blocks whose outputs are added, one of them depthwise."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(width, 3, padding="same", name="a")(inputs)
    y = layers.BatchNormalization()(x)
    y = layers.Conv2D(5, 3, padding="same", activation="relu", name="b")(y)
    y = layers.Conv2D(width, 3, padding="same", name="c")(y)
    x = layers.ReLU()(layers.Add()([x, y]))
    y = layers.DepthwiseConv2D(3, padding="same", name="w")(x)
    x = layers.Add()([x, layers.Conv2D(width, 1, name="d")(y)])
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(3, name="e")(x))
    randomize(model)
    return model


def test_channels_that_are_added():
    """They go if no layer reads them, from all that make them."""
    model = residual()
    for name in "bde":
        cut(model.get_layer(name), units_unread=[2])
    for name in "de":
        cut(model.get_layer(name), units_unread=[4])  # `b` reads it
    cut(model.get_layer("c"), units_unread=[0])
    sizes = {"a": 5, "b": 4, "c": 5, "w": 1, "d": 5, "e": 3}
    same(model, images(), sizes)


def test_a_layer_keeps_one_unit():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, name="a"),
            layers.Dense(2, name="b"),
        ]
    )
    randomize(model)
    cut(model.get_layer("b"), units_unread=[0, 1, 2])
    same(model, images((4,)), {"a": 1, "b": 2})


def test_what_several_layers_read_stays():
    inputs = keras.Input((6,))
    x = layers.Dense(6, name="a")(inputs)
    y = layers.Dense(6, name="b")(x)
    outputs = layers.Dense(2, name="c")(layers.Add()([x, y]))
    model = keras.Model(inputs, outputs)
    randomize(model)
    for name in "ab":
        cut(model.get_layer(name), unfed=[0])
    same(model, images((6,)), {"a": 6, "b": 6, "c": 2})


@pytest.mark.parametrize(
    "kind", ["softmax", "shared", "output", "norm", "shape"]
)
def test_other_graphs_stay(kind):
    inputs = keras.Input((4, 6))
    first = layers.Dense(
        6, name="a", activation=kind if kind == "softmax" else None
    )
    x = first(inputs)
    if kind == "shared":
        x = first(x)
    if kind == "norm":
        x = layers.LayerNormalization()(x)
    if kind == "shape":
        x = layers.Reshape((6, 4))(x)
    outputs = layers.Dense(3, name="b")(x)
    model = keras.Model(inputs, [outputs, x] if kind == "output" else outputs)
    randomize(model)
    cut(first, unfed=[0])
    small = kft.compact(model)
    assert small.count_params() == model.count_params()
    x = images((4, 6))
    for one, other in zip(
        keras.tree.flatten(small.predict(x, verbose=0)),
        keras.tree.flatten(model.predict(x, verbose=0)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("sparsity, least", [(0.9, 0.99), (0.99, 0.4)])
def test_how_little_it_gives(sparsity, least):
    """784-300-100-10 keeps nearly all until hardly a weight is left."""
    model = kft.sparsify(kft.applications.lenet_300_100(), sparsity, seed=0)
    small = kft.compact(model)
    share = small.count_params() / kft.strip(model).count_params()
    assert least < share <= 1
    x = images((28, 28, 1))
    np.testing.assert_allclose(
        small.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6
    )
    assert not isinstance(small, kft.SparseModel)


def test_the_model_stays_and_layers_have_its_names():
    model = kft.sparsify(kft.applications.small_cnn((32, 32, 3), 10), 0.98)
    before = [weight.numpy() for weight in model.weights]
    small = kft.compact(model)
    for old, weight in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, weight)
    names = [layer.name for layer in kft.strip(model).layers]
    assert [layer.name for layer in small.layers][-3:] == names[-3:]
    x = images((32, 32, 3), 2)
    np.testing.assert_allclose(
        small.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6
    )


def test_other_models():
    with pytest.raises(TypeError, match=r"`model` must be a keras\.Model"):
        kft.compact("model")
    model = kft.sparsify(kft.applications.lenet_300_100(), 0.9)
    with pytest.raises(ValueError, match="members of an ensemble one by one"):
        kft.compact(kft.EnsembleModel([model]))
