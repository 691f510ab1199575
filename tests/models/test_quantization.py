"""Quantization and LoRA of Keras, with models that are sparse or become so."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_freetickets as kft
from keras_freetickets import keras_adapter

LOSS = "sparse_categorical_crossentropy"


def data(count=16):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(count, 10)).astype("float32")
    return x, np.arange(count) % 3


def dense(**arguments):
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((10,)),
            layers.Dense(12, activation="relu", name="hidden", **arguments),
            layers.Dense(3, activation="softmax", name="head"),
        ]
    )


def sparse(filters=None):
    return kft.sparsify(dense(), 0.6, "uniform", filters=filters, seed=2)


def array(tensor):
    return ops.convert_to_numpy(tensor)


def predicted(model):
    return array(model(data()[0], training=False))


def check_equal(model, other):
    np.testing.assert_allclose(predicted(model), predicted(other), atol=1e-6)


def policies(model):
    parts = [layer for layer in model.layers if layer.weights]
    parts = [getattr(layer, "layer", layer) for layer in parts]
    return [p.quantization_mode for p in parts if isinstance(p, layers.Dense)]


def kernel_by_probing(layer):
    """The kernel that a quantized Dense multiplies by, one row at a time."""
    layer.activation = keras.activations.linear
    rows = layer(np.eye(layer.input.shape[-1], dtype="float32"))
    return array(rows) - array(layer.bias)


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_modes_for_prediction_are_refused_and_nothing_is_changed(mode):
    model = sparse(filters="head")
    before = predicted(model)
    message = "quantize the result of `keras_freetickets.strip`.*mode='" + mode
    with pytest.raises(ValueError, match=message):
        model.quantize(mode)
    assert policies(model) == [None, None]
    np.testing.assert_array_equal(predicted(model), before)
    # The layer refuses too, whichever model or user asks.
    with pytest.raises(ValueError, match=message):
        keras.Model(model.inputs, model.outputs).quantize(mode, filters="head")
    with pytest.raises(ValueError, match=message):
        model.get_layer("head").layer.quantize(mode)


def gptq(kind, *blocks):
    """Settings that calibrate blocks on what `data` returns."""
    structure = {"pre_block_layers": [], "sequential_blocks": list(blocks)}
    return kind(
        dataset=[data()[0]],
        tokenizer=lambda text: text,
        num_samples=2,
        sequence_length=10,
        group_size=-1,
        quantization_layer_structure=structure,
    )


@pytest.mark.parametrize(
    "make, mode",
    [
        (keras.quantizers.Int8QuantizationConfig, "int8"),
        (lambda: gptq(keras.quantizers.GPTQConfig), "gptq"),
        (lambda: gptq(keras.quantizers.AWQConfig), "awq"),
    ],
)
def test_a_config_is_refused_as_its_mode_is(make, mode):
    with pytest.raises(ValueError, match=f"float kernel.*mode='{mode}'"):
        sparse().quantize(config=make())


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_layers_without_masks_can_be_quantized(mode, tmp_path):
    model = sparse(filters="hidden")
    model.quantize(mode, filters="head")
    assert policies(model) == [None, mode]
    model.save(tmp_path / "model.keras")
    check_equal(model, keras.saving.load_model(tmp_path / "model.keras"))
    check_equal(model, kft.strip(model))
    check_equal(model, kft.EnsembleModel([model, model]))
    check_equal(model, kft.prune(model, 0.6))
    # The kernel of the head, which is no float any more, stays as it is.
    x, y = data()
    model.compile("sgd", LOSS)
    head = model.get_layer("head")
    before = array(head.kernel)
    model.fit(x, y, verbose=0)
    np.testing.assert_array_equal(array(head.kernel), before)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_a_stripped_model_quantizes_and_keeps_its_zeros(mode, tmp_path):
    model = sparse()
    plain = kft.strip(model)
    plain.quantize(mode)
    ensemble = kft.EnsembleModel([plain, plain])
    check_equal(plain, ensemble)
    ensemble.save_packed(tmp_path / "ensemble.npz")
    read = kft.EnsembleModel.from_packed(tmp_path / "ensemble.npz")
    check_equal(plain, read)
    check_equal(plain, ensemble.member(1))
    calibrated = kft.calibration.calibrate(ensemble, *data())
    assert predicted(calibrated).shape == (16, 3)
    for record in model.masked_kernels:
        mask = array(record.mask.value)
        kernel = kernel_by_probing(plain.get_layer(record.name.split("/")[0]))
        assert not kernel[~mask].any()
        found = np.abs(kernel - array(record.kernel.value)).max()
        assert 0 < found < 0.1


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("mode", ["gptq", "awq"])
def test_calibration_keeps_zeros_of_a_stripped_model(mode):
    configs = {
        "gptq": keras.quantizers.GPTQConfig,
        "awq": keras.quantizers.AWQConfig,
    }
    model = sparse()
    plain = kft.strip(model)
    hidden = plain.get_layer("hidden")
    settings = gptq(configs[mode], hidden)
    plain.quantize(mode, config=settings, filters="hidden")
    (record,) = (r for r in model.masked_kernels if "hidden" in r.name)
    mask, kernel = array(record.mask.value), kernel_by_probing(hidden)
    assert not kernel[~mask].any()
    found = np.abs(kernel - array(record.kernel.value)).max()
    assert 0 < found < 0.1


def test_members_with_other_values_stay_apart():
    members = []
    for seed in range(2):
        member = dense()
        head = member.get_layer("head")
        head.kernel.assign(seed + np.arange(36).reshape(12, 3) / 36)
        # In place: the order of its weights is not that of a new layer.
        member.quantize("float8")
        members.append(member)
    ensemble = kft.EnsembleModel(members)
    mean = (predicted(members[0]) + predicted(members[1])) / 2
    np.testing.assert_allclose(predicted(ensemble), mean, atol=1e-6)
    check_equal(ensemble.member(1), members[1])


def float8_run(**arguments):
    model = sparse()
    model.quantize("float8")
    model.compile(keras.optimizers.Adam(0.01), LOSS)
    model.fit(*data(), batch_size=4, epochs=2, verbose=0, **arguments)
    return model


def test_float8_trains_with_masks_that_change(tmp_path):
    rigl = kft.callbacks.RigL(update_interval=2, stop_step=None)
    model = float8_run(callbacks=[rigl])
    masks = [array(record.mask.value) for record in model.masked_kernels]
    before = [array(record.mask.value) for record in sparse().masked_kernels]
    assert all((a != b).any() for a, b in zip(masks, before, strict=True))
    kernels = [record.kernel for record in model.masked_kernels]
    slots = keras_adapter.optimizer_slots(model.optimizer, kernels)
    for record, mask, found in zip(
        model.masked_kernels, masks, slots, strict=True
    ):
        assert mask.sum() == record.active
        assert len(found) == 2
        for variable in [record.kernel, *(slot for slot, _ in found)]:
            assert not array(variable.value)[~mask].any()
    scales = [v for v in model.weights if v.name == "kernel_scale"]
    assert len(scales) == 2 and all(float(v.value) != 1 for v in scales)
    check_equal(model, kft.strip(model))
    check_equal(model, kft.prune(model, 0.6, scope="layer"))
    check_equal(model, kft.EnsembleModel([model, model]))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x, y = data()
    for one in (model, loaded):
        one.train_on_batch(x, y)
    check_equal(model, loaded)


def test_a_float8_model_is_made_sparse():
    model = dense()
    model.quantize("float8")
    made = kft.sparsify(model, 0.5, seed=0)
    assert made.density == 0.5
    check_equal(kft.sparsify(model, 0.0), model)
    assert kft.prune(model, 0.5).density == 0.5


def test_corrected_gradients_leave_the_scales_of_float8_alone():
    class Shift(kft.topology.RigL):
        def transform_gradients(self, gradients, context):
            return [g if g is None else g + 1e6 for g in gradients]

    method = kft.callbacks.DropAndGrow(Shift(update_interval=100))
    model = float8_run(callbacks=[method])
    scales = [v for v in model.weights if v.name.endswith("_scale")]
    assert len(scales) == 6
    assert all(float(v.value) < 1e3 for v in scales)


def test_lora_on_a_sparse_layer_is_refused():
    model = sparse(filters="hidden")
    message = "the product of LoRA would make its kernel dense"
    with pytest.raises(ValueError, match=message):
        model.get_layer("hidden").layer.enable_lora(2)
    assert not any("lora" in weight.path for weight in model.weights)
    # Layers without a mask take it.
    model.get_layer("head").enable_lora(2)
    model.compile("sgd", LOSS)
    model.fit(*data(), verbose=0)
    check_equal(model, kft.strip(model))
    check_equal(model, kft.EnsembleModel([model, model]))
    check_equal(model, kft.prune(model, 0.6))


def test_lora_of_a_stripped_model():
    plain = kft.strip(sparse())
    plain.get_layer("hidden").enable_lora(2)
    names = {weight.name for weight in plain.trainable_weights}
    assert {"lora_kernel_a", "lora_kernel_b"} <= names


def with_lora():
    model = dense()
    model.get_layer("hidden").enable_lora(2)
    model.get_layer("hidden").lora_kernel_b.assign(np.full((2, 12), 0.1))
    return model


@pytest.mark.parametrize("make", [kft.sparsify, kft.prune])
def test_lora_is_merged_before_masks_are_made(make, tmp_path):
    model = with_lora()
    with pytest.raises(ValueError, match=r"hidden' has LoRA.*merge it first"):
        make(model, 0.5)
    assert make(model, 0.5, filters="head").density == 0.5
    # What the message says to do.
    model.save_weights(tmp_path / "merged.weights.h5")
    merged = dense()
    merged.load_weights(tmp_path / "merged.weights.h5")
    check_equal(model, merged)
    assert make(merged, 0.5).density == 0.5


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_quantized_layers_are_not_made_sparse(mode):
    model = dense()
    model.quantize(mode, filters="hidden")
    message = f"hidden' is quantized.*quantization_mode='{mode}'"
    for make in (kft.sparsify, kft.prune):
        with pytest.raises(ValueError, match=message):
            make(model, 0.5)
        check_equal(make(model, 0.0, filters="head"), model)
    left_alone = kft.sparsify(
        model, lambda layer: 0.5 if layer.name == "head" else None
    )
    assert left_alone.density == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lora_rank": 2}, "has LoRA"),
        ({"dtype": "int8_from_float32"}, "is quantized"),
        ({"dtype": "int4/128_from_float32"}, "is quantized"),
    ],
)
def test_a_layer_made_with_lora_or_quantized_is_refused(arguments, message):
    layer = kft.layers.Sparse(layers.Dense(3, **arguments), 0.5)
    with pytest.raises(ValueError, match=message):
        layer(np.ones((2, 4), "float32"))


@pytest.mark.parametrize(
    "make, shape",
    [
        (lambda: layers.Conv2D(4, 3), (8, 8, 2)),
        (lambda: layers.EinsumDense("abc,cd->abd", (None, 4)), (3, 5)),
        (lambda: layers.MultiHeadAttention(2, 3), None),
    ],
    ids=["conv", "einsum", "attention"],
)
def test_other_layers_refuse_alike(make, shape):
    layer = kft.layers.Sparse(make(), 0.5)
    if shape is None:
        layer(np.ones((1, 3, 4)), value=np.ones((1, 3, 4)))
    else:
        layer(np.ones((1, *shape)))
    parts = [p for p in keras_adapter.sublayers(layer.layer) if p.weights]
    for part in parts[-1:]:
        with pytest.raises(ValueError, match="is sparse, and the product"):
            part.enable_lora(2)
        if not isinstance(part, layers.Conv2D):
            with pytest.raises(ValueError, match="its mask needs a float"):
                part.quantize("int8")


def test_embeddings_with_a_mask_refuse_alike():
    layer = kft.layers.Sparse(
        layers.Embedding(9, 4), 0.5, kernels=("embeddings",)
    )
    layer(np.zeros((1, 2), "int32"))
    with pytest.raises(ValueError, match="is sparse, and the product"):
        layer.layer.enable_lora(2)
    with pytest.raises(ValueError, match="its mask needs a float"):
        layer.layer.quantize("int8")


def test_an_ensemble_says_to_quantize_its_members():
    ensemble = kft.EnsembleModel([dense(), dense()])
    with pytest.raises(ValueError, match="quantize the members"):
        ensemble.quantize("int8")
    calibrated = kft.calibration.calibrate(ensemble, *data())
    with pytest.raises(ValueError, match="quantize the members"):
        calibrated.quantize("int8")


def test_layers_quantized_by_calibration_are_not_copied():
    model = dense()
    settings = gptq(keras.quantizers.GPTQConfig, model.get_layer("hidden"))
    model.quantize("gptq", config=settings, filters="hidden")
    message = "hidden' is quantized by calibration and cannot be copied"
    with pytest.raises(ValueError, match=message):
        kft.EnsembleModel([model])
    with pytest.raises(ValueError, match=message):
        kft.sparsify(model, 0.5, filters="head")


def test_lora_members_of_an_ensemble():
    members = [with_lora(), with_lora()]
    members[1].get_layer("hidden").lora_kernel_b.assign(np.full((2, 12), -0.3))
    mean = (predicted(members[0]) + predicted(members[1])) / 2
    ensemble = kft.EnsembleModel(members)
    np.testing.assert_allclose(predicted(ensemble), mean, atol=1e-6)
    check_equal(ensemble.member(1), members[1])


def body_of():
    return keras.Sequential(
        [keras.Input((4, 4, 2)), layers.Flatten(), layers.Dense(6, name="all")]
    )


@pytest.mark.usefixtures("eagerly")
def test_mimo_quantizes_as_its_body_allows():
    images = np.random.default_rng(0).normal(size=(4, 4, 4, 1))
    mimo = kft.MIMO(body_of(), num_members=2)
    before = array(mimo(images))
    mimo.quantize("int8")
    after = array(mimo(images))
    assert 0 < np.abs(after - before).max() < 0.05
    mimo = kft.MIMO(kft.sparsify(body_of(), 0.5), num_members=2)
    with pytest.raises(ValueError, match="its mask needs a float kernel"):
        mimo.quantize("int8")
