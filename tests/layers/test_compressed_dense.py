import keras
import numpy as np
import pytest

from keras_freetickets.layers import CompressedDense

if keras.backend.backend() == "torch":
    pytest.skip("no compressed layers there", allow_module_level=True)


def masked(units=6, inputs=10, activation="relu", name="dense"):
    """A dense layer whose kernel is zero outside a mask, and the mask."""
    rng = np.random.default_rng(units)
    layer = keras.layers.Dense(units, activation=activation, name=name)
    layer.build((None, inputs))
    mask = rng.random((inputs, units)) < 0.4
    layer.kernel.assign(np.where(mask, layer.kernel, 0))
    layer.bias.assign(rng.standard_normal(units))
    return layer, mask


def models():
    """A masked model, the compressed one, and the masks."""
    layers = [masked(20, 10, name="a"), masked(3, 20, None, name="b")]
    dense = keras.Sequential([keras.Input((10,)), *(la for la, _ in layers)])
    compressed = keras.Sequential(
        [
            keras.Input((10,)),
            *(CompressedDense.from_dense(*la) for la in layers),
        ]
    )
    return dense, compressed, [mask for _, mask in layers]


def data():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((32, 10)).astype("float32")
    return x, rng.standard_normal((32, 3)).astype("float32")


@pytest.mark.parametrize("activation", ["relu", "tanh", None])
@pytest.mark.parametrize("shape", [(5, 10), (2, 3, 10)])
def test_computes_what_the_masked_layer_does(shape, activation):
    layer, mask = masked(activation=activation)
    compressed = CompressedDense.from_dense(layer, mask)
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    np.testing.assert_allclose(compressed(x), layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam"])
def test_trains_as_the_masked_model(optimizer):
    """Slots are of the active size; weights agree to float32's rounding."""
    dense, compressed, masks = models()
    x, y = data()
    for model in (dense, compressed):
        model.compile(optimizer, "mse")
    for _ in range(5):
        dense.train_on_batch(x, y)
        for layer, mask in zip(dense.layers, masks, strict=True):
            layer.kernel.assign(np.where(mask, layer.kernel, 0))
        compressed.train_on_batch(x, y)
    for layer, own, mask in zip(
        dense.layers, compressed.layers, masks, strict=True
    ):
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        np.testing.assert_allclose(
            own.values, kernel.T[mask.T], rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(own.bias, layer.bias, rtol=1e-4, atol=1e-5)
    sizes = [v.shape for v in compressed.optimizer.variables if len(v.shape)]
    assert {shape[0] for shape in sizes} == {
        *(layer.active for layer in compressed.layers),
        *(layer.units for layer in compressed.layers),
    }


def test_save_and_load(tmp_path):
    _, model, _ = models()
    x, y = data()
    model.compile("adam", "mse")
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))
    assert loaded.layers[0].structure == model.layers[0].structure
    loaded.fit(x, y, verbose=0)


def test_a_file_of_other_positions_is_refused(tmp_path):
    _, model, _ = models()
    pointers = model.layers[0]._positions[0]
    pointers.assign(pointers.numpy()[::-1].copy())
    model.save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(ValueError, match="row_pointers"):
        models()[1].load_weights(tmp_path / "model.weights.h5")


def test_bad_arguments():
    layer, mask = masked()
    with pytest.raises(ValueError, match="active=0"):
        CompressedDense(3, 0)
    with pytest.raises(ValueError, match="storage='mask'"):
        CompressedDense(3, 2, dtype="mixed_bfloat16")
    with pytest.raises(ValueError, match="at most 6, all weights"):
        CompressedDense(3, 7).build((None, 2))
    compressed = CompressedDense.from_dense(layer, mask)
    other, mask = masked(7)
    structure = CompressedDense.from_dense(other, mask).structure
    with pytest.raises(ValueError, match="structure=<CompressedStructure"):
        compressed.set_structure(structure)
