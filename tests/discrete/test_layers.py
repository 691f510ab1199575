"""Codes of a few bits and the layers that predict from them."""

import keras
import numpy as np
import pytest

from keras_freetickets.discrete import DiscreteConv2D
from keras_freetickets.discrete import DiscreteDense
from keras_freetickets.discrete import save
from keras_freetickets.discrete import storage


@pytest.mark.parametrize(
    "count, bits", [(2, 1), (3, 2), (4, 2), (5, 4), (17, 8)]
)
@pytest.mark.parametrize("size", [1, 7, 16, 33])
def test_packing_round_trip(count, bits, size):
    values = storage.check_values(list(range(-1, count - 1)))
    random = np.random.default_rng(0)
    weights = random.choice(values, size)
    packed = storage.pack(weights, values)
    assert packed.dtype == np.uint8
    assert len(packed) == -(-size * bits // 8)
    assert len(packed) == storage.num_bytes(size, count)
    found = storage.unpack(packed, values, (size,))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(found), weights)


def test_a_ternary_weight_takes_two_bits():
    layer = DiscreteDense(100, bias="none")
    layer.build((None, 300))
    assert [tuple(w.shape) for w in layer.weights] == [(7500,)]
    assert layer.packed_kernel.dtype == "uint8"
    assert not layer.trainable_weights


def test_foreign_weights_are_refused():
    with pytest.raises(ValueError, match="`weights` must be of the values"):
        storage.pack([0.5], (-1.0, 0.0, 1.0))


@pytest.mark.parametrize("bias", ["discrete", "float", "none"])
def test_dense_computes_what_a_dense_layer_does(bias):
    random = np.random.default_rng(0)
    kernel = random.choice([-1.0, 0.0, 1.0], (5, 4))
    codes = random.choice([-1.0, 0.0, 1.0], 4) if bias != "none" else None
    layer = DiscreteDense(4, scale=0.25, bias=bias, activation="relu")
    layer.build((None, 5))
    layer.set_codes(kernel, codes)
    x = random.normal(size=(3, 5)).astype("float32")
    shift = 0 if codes is None else codes * (0.25 if bias == "discrete" else 1)
    expected = np.maximum(x @ (0.25 * kernel) + shift, 0)
    found = keras.ops.convert_to_numpy(layer(x))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    copy = DiscreteDense.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()


@pytest.mark.parametrize(
    "settings",
    [
        {"padding": "same", "strides": 2},
        {"dilation_rate": (2, 1)},
        {"strides": (1, 2)},
    ],
)
def test_convolution_computes_what_conv2d_does(settings):
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 8, 7, 3)).astype("float32")
    kernel = random.choice([-1.0, 0.0, 1.0], (3, 2, 3, 4))
    plain = keras.layers.Conv2D(4, (3, 2), use_bias=False, **settings)
    plain.build(x.shape)
    plain.kernel.assign(0.5 * kernel)
    layer = DiscreteConv2D(4, (3, 2), scale=0.5, bias="none", **settings)
    layer.build(x.shape)
    layer.set_codes(kernel)
    expected = keras.ops.convert_to_numpy(plain(x))
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(layer(x)), expected, atol=1e-6
    )
    assert layer.compute_output_shape(x.shape) == expected.shape
    free = layer.compute_output_shape((None, None, None, 3))
    assert free == (None, None, None, 4)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: DiscreteDense(0), "`units` must be a positive integer"),
        (lambda: DiscreteDense(2, scale=0), "`scale` must be positive"),
        (lambda: DiscreteDense(2, bias="yes"), "`bias` must be one of"),
        (lambda: DiscreteDense(2, values=[1]), "`values` must be 2 to 256"),
        (lambda: DiscreteConv2D(2, (1, 2, 3)), "`kernel_size` must be one"),
        (lambda: DiscreteConv2D(2, 0), "`kernel_size` must be a positive"),
        (lambda: DiscreteConv2D(2, 1, padding="full"), "`padding` must be"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_wrong_codes():
    layer = DiscreteDense(2)
    layer.build((None, 3))
    with pytest.raises(ValueError, match="`kernel` must have the shape"):
        layer.set_codes(np.zeros((2, 3)), np.zeros(2))
    with pytest.raises(ValueError, match="`bias` must have the shape"):
        layer.set_codes(np.zeros((3, 2)))


def test_a_file_ends_in_keras(tmp_path):
    model = keras.Sequential([keras.Input((2,)), DiscreteDense(2)])
    with pytest.raises(ValueError, match=r"must end in '\.keras'"):
        save(model, tmp_path / "model.h5")


def check_equal(variables, others):
    for one, other in zip(variables, others, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(
            *(
                keras.ops.convert_to_numpy(keras.ops.cast(v, "float32"))
                for v in (one, other)
            )
        )


def ternary_network(inputs, units, zeros, seed=0):
    """Random ternary layers with so many zeros; and float ones."""
    random = np.random.default_rng(seed)
    shares = [(1 - zeros) / 2, zeros, (1 - zeros) / 2]
    plain = keras.Sequential([keras.Input((inputs,))])
    model = keras.Sequential([keras.Input((inputs,))])
    for count in units:
        plain.add(keras.layers.Dense(count, activation="relu"))
        model.add(DiscreteDense(count, scale=0.3, activation="relu"))
        layer = model.layers[-1]
        codes = [
            random.choice([-1.0, 0.0, 1.0], shape, p=shares)
            for shape in (layer.kernel_shape, count)
        ]
        layer.set_codes(*codes)
    return model, plain


@pytest.mark.parametrize(
    "inputs, units, zeros",
    [(784, (300, 100, 10), 1 / 3), (64, (64, 10), 0.2)],
    ids=["LeNet-300-100 without a mask", "what a search of digits finds"],
)
def test_the_file_is_a_sixteenth_of_the_float_one(
    inputs, units, zeros, tmp_path
):
    model, plain = ternary_network(inputs, units, zeros)
    plain.save(tmp_path / "float.keras")
    save(model, tmp_path / "discrete.keras")
    sizes = [
        (tmp_path / name).stat().st_size
        for name in ("float.keras", "discrete.keras")
    ]
    assert 16 * sizes[1] <= sizes[0]
    loaded = keras.saving.load_model(tmp_path / "discrete.keras")
    check_equal(loaded.weights, model.weights)


def test_files_of_other_models_keep_all_that_is_read(tmp_path):
    """A dtype that HDF5 does not have, nested layers, an optimizer."""
    part = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    last = keras.layers.Dense(2, dtype="bfloat16")
    model = keras.Sequential([keras.Input((3,)), part, last])
    model.compile("adam", "mse")
    x, y = np.ones((8, 3), "float32"), np.zeros((8, 2), "float32")
    model.fit(x, y, verbose=0)
    save(model, tmp_path / "other.keras")
    loaded = keras.saving.load_model(tmp_path / "other.keras")
    check_equal(loaded.weights, model.weights)
    check_equal(loaded.optimizer.variables, model.optimizer.variables)


def test_five_networks_in_a_packed_file_are_a_sixteenth(tmp_path):
    """Small ones, whose single files are mostly descriptions."""
    import keras_freetickets as kft

    made = [ternary_network(64, (64, 10), 1 / 3, seed) for seed in range(5)]
    made[0][1].save(tmp_path / "float.keras")
    members = [model for model, _ in made]
    ensemble = kft.EnsembleModel(members, from_logits=True)
    ensemble.save_packed(tmp_path / "five.npz")
    size = (tmp_path / "five.npz").stat().st_size
    assert 16 * size <= 5 * (tmp_path / "float.keras").stat().st_size
    loaded = kft.EnsembleModel.from_packed(tmp_path / "five.npz")
    x = np.random.default_rng(0).normal(size=(3, 64)).astype("float32")
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), ensemble.predict(x, verbose=0), atol=1e-6
    )
