import keras
import numpy as np
import pytest

from keras_freetickets.layers import CompressedDense
from keras_freetickets.layers.compressed_kinds import compressed_kind
from keras_freetickets.layers.compressed_kinds import reason_against

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
    layer = model.layers[0]
    pointers = keras.ops.convert_to_numpy(layer.row_pointers)
    layer.row_pointers.assign(pointers[::-1].copy())
    model.save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(ValueError, match="row_pointers"):
        models()[1].load_weights(tmp_path / "model.weights.h5")


def broken(weights, which):
    """Weights of a layer with wrong positions; names of what is wrong."""
    pointers, columns, by_input, units = (w.copy() for w in weights[-4:])
    first = slice(*pointers[:2])
    if which == "column_indices` must be in":
        columns[0] = 1000
    elif which == "unsorted":
        columns[first] = columns[first][::-1]
    elif which == "repeated":
        columns[1] = columns[0]
    elif which == "row_pointers":
        pointers[1] = 10**6
    elif which == "beyond":
        pointers[-1] += 1
    elif which == "by input":
        units[:] = 400
    else:
        by_input[1:] = 10**6
    return [*weights[:-4], pointers, columns, by_input, units]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("column_indices` must be in", "column_indices` must be in"),
        ("unsorted", "column_indices` must rise"),
        ("repeated", "column_indices` must rise"),
        ("row_pointers", "row_pointers` must rise"),
        ("beyond", "row_pointers` must end within"),
        ("by input", "by input"),
        ("pointers by input", "by input"),
    ],
)
def test_wrong_positions_never_reach_a_kernel(which, message, whole):
    """They are refused by name, and the layer still computes."""
    _, model, _ = models()
    x, _ = data()
    layer = model.layers[0]
    weights = [keras.ops.convert_to_numpy(w) for w in layer.weights]
    wrong = broken(weights, which)
    owner = model if whole else layer
    rest = [keras.ops.convert_to_numpy(w) for w in model.layers[1].weights]
    with pytest.raises(ValueError, match=message) as caught:
        owner.set_weights([*wrong, *rest] if whole else wrong)
    assert f"layer '{layer.name}'" in str(caught.value)
    assert np.isfinite(model.predict(x, verbose=0)).all()
    owner.set_weights([*weights, *rest] if whole else weights)
    np.testing.assert_array_equal(layer.structure.active, layer.active)


def test_room_for_more_weights():
    """Half of the weights in the room of all compute the same."""
    layer, mask = masked()
    exact = CompressedDense.from_dense(layer, mask)
    roomy = CompressedDense.from_dense(layer, mask, active=2 * exact.active)
    assert roomy.structure == exact.structure
    assert roomy.masked_kernels[0].count() == exact.active
    x = np.random.default_rng(0).standard_normal((40, 10)).astype("float32")
    y = np.random.default_rng(1).standard_normal((40, 6)).astype("float32")
    weights = []
    for compressed in (exact, roomy):
        model = keras.Sequential([keras.Input((10,)), compressed])
        model.compile("adam", "mse")
        model.fit(x, y, verbose=0, shuffle=False)
        weights.append(keras.ops.convert_to_numpy(compressed.values))
    np.testing.assert_array_equal(weights[1][: exact.active], weights[0])
    np.testing.assert_array_equal(weights[1][exact.active :], 0.0)


def einsum(equation, shape, output_shape, bias_axes=None):
    layer = keras.layers.EinsumDense(
        equation, output_shape, activation="relu", bias_axes=bias_axes
    )
    layer.build(shape)
    return layer


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: einsum("ab,bc->ac", (None, 6), 5, "c"), (3, 6)),
        (lambda: einsum("...x,xy->...y", (None, 6), 5), (3, 6)),
        (
            lambda: einsum("abc,cde->abde", (None, 4, 6), (4, 2, 3), "de"),
            (3, 4, 6),
        ),
        (
            lambda: einsum("abcd,cde->abe", (None, 4, 2, 3), (4, 6), "e"),
            (3, 4, 2, 3),
        ),
        (lambda: keras.layers.Conv2D(5, 1, strides=(2, 3)), (2, 5, 7, 3)),
        (
            lambda: keras.layers.Conv2D(
                5, 1, strides=2, padding="same", use_bias=False
            ),
            (2, 4, 4, 3),
        ),
    ],
)
def test_other_layers(make, shape):
    """Outputs, a config that rebuilds, and the dense layer back."""
    rng = np.random.default_rng(0)
    layer = make()
    if not layer.built:
        layer.build((None, *shape[1:]))
    mask = rng.random(layer.kernel.shape) < 0.5
    layer.kernel.assign(np.where(mask, layer.kernel, 0))
    if layer.bias is not None:
        layer.bias.assign(rng.standard_normal(layer.bias.shape))
    kind = compressed_kind(layer)
    compressed = kind.from_dense(layer, mask)
    x = rng.standard_normal(shape).astype("float32")
    expected = keras.ops.convert_to_numpy(layer(x))
    np.testing.assert_allclose(compressed(x), expected, rtol=1e-5, atol=1e-5)
    assert compressed.compute_output_shape(shape) == expected.shape
    (record,) = compressed.masked_kernels
    np.testing.assert_array_equal(record.mask_array(), mask)
    np.testing.assert_array_equal(record.kernel_array(), layer.kernel)
    again = kind.from_config(compressed.get_config())
    again.build((None, *shape[1:]))
    again.set_weights(compressed.get_weights())
    np.testing.assert_array_equal(again(x), compressed(x))
    dense = compressed.to_dense()
    assert type(dense) is type(layer)
    np.testing.assert_array_equal(dense(x), expected)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: keras.layers.Dense(3, kernel_constraint="max_norm"), "cons"),
        (
            lambda: keras.layers.Dense(
                3, kernel_regularizer="orthogonal_regularizer"
            ),
            "regularizer",
        ),
        (lambda: keras.layers.Dense(3, dtype="float64"), "float32"),
        (lambda: keras.layers.Dense(3, dtype="mixed_bfloat16"), "float32"),
        (
            lambda: keras.layers.Conv1DTranspose(3, 1),
            "no compressed Conv1DTranspose",
        ),
        (
            lambda: keras.layers.EinsumDense("abc,bd->acd", (None, 3)),
            "product of matrices",
        ),
        (
            lambda: keras.layers.EinsumDense("abc,cd->abd", (6, 3), None, "bd"),
            "bias",
        ),
    ],
)
def test_what_cannot_be_compressed_says_why(make, reason):
    layer = make()
    layer.build((None, 6, 3))
    assert reason in reason_against(layer)


@pytest.mark.parametrize("shape", [(2, 20), (4, 5), (2, 3, 5), (10,)])
def test_inputs_of_another_width_are_refused(shape):
    """Twenty numbers would else be two rows of ten."""
    compressed = CompressedDense.from_dense(*masked())
    with pytest.raises(ValueError, match="incompatible with the layer"):
        compressed(np.zeros(shape, "float32"))


def test_inputs_of_an_einsum_are_those_of_its_equation():
    layer = keras.layers.EinsumDense("abcd,cde->abe", (None, 6))
    layer.build((None, 2, 3, 4))
    kernel = np.zeros((3, 4, 6), "float32")
    kernel[0, 1, :] = 1
    layer.kernel.assign(kernel)
    compressed = compressed_kind(layer).from_dense(layer, kernel != 0)
    x = np.arange(24.0, dtype="float32").reshape(1, 2, 3, 4)
    np.testing.assert_allclose(compressed(x), layer(x))
    with pytest.raises(ValueError, match="incompatible with the layer"):
        compressed(x.reshape(1, 2, 4, 3))


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
