"""Models and ensembles of compressed kernels: files, conversion, refusals."""

import os
import pickle
import re
import signal

import forked
import keras
import killable
import numpy as np
import pytest
from killable import compressed_network

import keras_freetickets as kft
from keras_freetickets import topology

if keras.backend.backend() == "torch":
    pytest.skip("no compressed layers there", allow_module_level=True)


def dense_model(seed=0):
    keras.utils.set_random_seed(seed)
    layers = [
        keras.layers.Dense(32, activation="relu", name="first"),
        keras.layers.Reshape((4, 8), name="steps"),
        keras.layers.EinsumDense(
            "abc,cd->abd", (4, 6), bias_axes="d", name="second"
        ),
        keras.layers.Reshape((2, 2, 6), name="image"),
        keras.layers.Conv2D(8, 1, activation="tanh", name="third"),
        keras.layers.Conv2D(8, 2, padding="same", name="window"),
        keras.layers.SeparableConv2D(8, 2, padding="same", name="separable"),
        keras.layers.Reshape((4, 8), name="row"),
        keras.layers.Conv1D(8, 3, padding="causal", name="sequence"),
        keras.layers.SeparableConv1D(8, 2, padding="same", name="separable_1"),
        keras.layers.Reshape((2, 2, 8), name="square"),
        keras.layers.Conv2D(8, 2, groups=2, name="fourth"),
        keras.layers.Flatten(name="flat"),
        keras.layers.Dense(3, activation="softmax", name="last"),
    ]
    return keras.Sequential([keras.Input((20,)), *layers])


def sparse(seed=0, storage="compressed", sparsity=0.8):
    model = kft.sparsify(
        dense_model(seed),
        sparsity,
        distribution="uniform",
        mask_initializer="random",
        seed=seed,
        storage=storage,
        max_compressed_density=0.5,
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def data():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 20)).astype("float32")
    return x, rng.integers(0, 3, 64)


def outputs(model):
    return model.predict(data()[0], verbose=0)


def assert_same_kernels(one, other):
    for a, b in zip(one.masked_kernels, other.masked_kernels, strict=True):
        np.testing.assert_array_equal(a.mask_array(), b.mask_array())
        np.testing.assert_array_equal(a.kernel_array(), b.kernel_array())


def test_the_same_masks_and_values_as_with_masks():
    masked, compressed = sparse(storage="mask"), sparse()
    kinds = [type(layer).__name__ for layer in compressed.sparse_layers]
    assert kinds == [
        "CompressedDense",
        "CompressedEinsumDense",
        "CompressedConv2D",
        "CompressedConv2D",
        "CompressedSeparableConv2D",
        "CompressedConv1D",
        "CompressedSeparableConv1D",
        "Sparse",
        "CompressedDense",
    ]
    assert_same_kernels(masked, compressed)
    np.testing.assert_allclose(
        outputs(masked), outputs(compressed), rtol=1e-4, atol=1e-6
    )
    assert masked.density == compressed.density
    names = [one.name for one in masked.masked_kernels]
    assert names == [one.name for one in compressed.masked_kernels]


def test_summary():
    rows = kft.sparsity_summary(sparse(), print_fn=False)
    named = {row.layer: row for row in rows if row.shape}
    # 128 of 640 weights: values, columns, places of 4, 2 and 2 bytes, 33
    # pointers by output and 21 by input (one block) of 4.
    assert named["first"].nbytes == 128 * 8 + 4 * (33 + 21)
    assert (named["first"].active, named["first"].total) == (128, 640)
    assert named["first"].flops == 2 * 128
    assert named["second"].dense_flops == 2 * 4 * 48
    assert named["third"].dense_flops == 2 * 4 * 48
    assert named["fourth"].storage == "mask"
    assert named["window"].dense_flops == 2 * 4 * 4 * 8 * 8
    assert named["separable"].kernel == "pointwise_kernel"
    assert named["separable"].dense_flops == 2 * 4 * 8 * 8
    assert named["sequence"].dense_flops == 2 * 4 * 3 * 8 * 8
    assert named["fourth"].note == "masked: it has several groups"
    of_masks = kft.sparsity_summary(sparse(storage="mask"), print_fn=False)
    for row, other in zip(rows, of_masks, strict=True):
        told = ("layer", "kernel", "active", "total", "flops", "dense_flops")
        for name in told:
            assert getattr(row, name) == getattr(other, name), name
    (alone,) = (r for r in rows if r.layer == "separable" and not r.shape)
    assert "depthwise_kernel is masked only if" in alone.note
    assert (alone.total, alone.dense_flops) == (2 * 2 * 8, 2 * 4 * 32)
    assert "kernels with masks save no time" in str(rows)
    model = sparse()
    assert model.count_params() == sum(
        int(np.prod(v.shape)) for v in model.trainable_variables
    )


def test_conversion_loses_nothing():
    compressed = sparse()
    x, y = data()
    compressed.fit(x, y, verbose=0)
    masked = kft.decompress(compressed)
    assert {type(la).__name__ for la in masked.sparse_layers} == {"Sparse"}
    assert_same_kernels(compressed, masked)
    again = kft.compress(masked, max_compressed_density=0.5)
    assert_same_kernels(compressed, again)
    np.testing.assert_array_equal(outputs(again), outputs(compressed))
    np.testing.assert_allclose(
        outputs(masked), outputs(compressed), rtol=1e-4, atol=1e-6
    )
    plain = kft.strip(compressed)
    assert not isinstance(plain, kft.SparseModel)
    kinds = {type(la).__name__ for la in plain.layers}
    assert {"Dense", "EinsumDense", "Conv1D", "Conv2D"} <= kinds
    assert {"SeparableConv1D", "SeparableConv2D"} <= kinds
    np.testing.assert_array_equal(outputs(plain), outputs(masked))
    masked.compile("adam", "sparse_categorical_crossentropy")
    masked.fit(x, y, verbose=0)


def test_by_default_what_is_dense_keeps_its_mask():
    model = kft.compress(sparse(storage="mask", sparsity=0.5))
    assert {type(la).__name__ for la in model.sparse_layers} == {"Sparse"}
    notes = {r.note for r in kft.sparsity_summary(model, print_fn=False)}
    assert any("density 0.5 is above 0.2" in note for note in notes)


def test_files(tmp_path):
    model = sparse()
    x, y = data()
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same_kernels(model, loaded)
    np.testing.assert_array_equal(outputs(loaded), outputs(model))
    loaded.fit(x, y, verbose=0)  # with the optimizer's slots
    model.save_weights(tmp_path / "model.weights.h5")
    loaded.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(outputs(loaded), outputs(model))


def test_weights_file_is_small(tmp_path):
    """Of 160,000 weights at S = .95: 8,000 values and their columns."""
    inputs = keras.Input((400,))
    dense = keras.Model(inputs, keras.layers.Dense(400)(inputs))
    sizes = {}
    for storage in ("mask", "compressed"):
        path = tmp_path / f"{storage}.weights.h5"
        model = kft.sparsify(dense, 0.95, seed=1, storage=storage)
        model.save_weights(path)
        sizes[storage] = os.path.getsize(path)
    # 4 and 2 bytes a weight, pointers and the file's own.
    assert sizes["compressed"] < 8000 * 6 + 401 * 4 + 1600 + 30000
    assert sizes["mask"] > 160_000 * 5


@pytest.mark.usefixtures("eagerly")
def test_ensemble(tmp_path):
    """Members of different counts, as global pruning leaves them."""
    masked = [sparse(i, "mask") for i in range(2)]
    masked = [kft.prune(one, 0.85) for one in masked]
    counts = [[k.count() for k in one.masked_kernels] for one in masked]
    assert counts[0] != counts[1]
    for one in masked:
        one.compile("adam", "sparse_categorical_crossentropy")
    whole = kft.EnsembleModel(masked)
    fast = kft.compress(whole, max_compressed_density=0.5)
    np.testing.assert_allclose(
        outputs(fast), outputs(whole), rtol=1e-4, atol=1e-6
    )
    for i, one in enumerate(masked):
        assert_same_kernels(fast.member(i), one)
    fast.save(tmp_path / "fast.keras")
    loaded = keras.models.load_model(tmp_path / "fast.keras")
    np.testing.assert_array_equal(outputs(loaded), outputs(fast))
    fast.save_packed(tmp_path / "fast.npz")
    packed = kft.EnsembleModel.from_packed(tmp_path / "fast.npz")
    np.testing.assert_array_equal(outputs(packed), outputs(fast))
    back = kft.decompress(fast)
    np.testing.assert_array_equal(outputs(back), outputs(whole))


def with_attention(seed=0, storage="compressed", **kwargs):
    """Two attentions, one of them in a nested model, and a dense layer."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((4, 8))
    x = keras.layers.MultiHeadAttention(2, 4, name="inner")(inputs, inputs)
    encoder = keras.Model(inputs, x, name="encoder")
    inputs = keras.Input((20,))
    x = keras.layers.Dense(32, name="first")(inputs)
    x = encoder(keras.layers.Reshape((4, 8), name="steps")(x))
    x = keras.layers.GroupQueryAttention(4, 4, 2, name="outer")(
        query=x, value=x, use_causal_mask=True
    )
    x = keras.layers.Flatten(name="flat")(x)
    x = keras.layers.Dense(3, activation="softmax", name="last")(x)
    model = kft.sparsify(
        keras.Model(inputs, x),
        0.8,
        "uniform",
        mask_initializer="random",
        seed=seed,
        storage=storage,
        **{"max_compressed_density": 0.5, **kwargs},
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def test_attention_has_the_same_masks_and_values_as_with_masks():
    masked, compressed = with_attention(storage="mask"), with_attention()
    kinds = [type(layer).__name__ for layer in compressed.sparse_layers]
    assert kinds == [
        "CompressedDense",
        "CompressedMultiHeadAttention",
        "CompressedGroupQueryAttention",
        "CompressedDense",
    ]
    assert_same_kernels(masked, compressed)
    names = [one.name for one in masked.masked_kernels]
    assert names == [one.name for one in compressed.masked_kernels]
    assert names[1:5] == [
        f"inner/{name}/kernel"
        for name in ("query", "key", "value", "attention_output")
    ]
    np.testing.assert_allclose(
        outputs(masked), outputs(compressed), rtol=1e-4, atol=1e-6
    )
    rows = [
        kft.sparsity_summary(model, print_fn=False)
        for model in (masked, compressed)
    ]
    for one, other in zip(*rows, strict=True):
        told = ("layer", "kernel", "shape", "active", "total", "flops")
        for name in (*told, "dense_flops"):
            assert getattr(one, name) == getattr(other, name), name
        assert other.storage == ("compressed" if other.shape else "")
        assert not other.shape or other.nbytes > 8 * other.active
    assert masked.count_params() > compressed.count_params()
    assert compressed.count_params() == sum(
        int(np.prod(v.shape)) for v in compressed.trainable_variables
    )


@pytest.mark.usefixtures("eagerly")
def test_conversion_of_attention_loses_nothing():
    compressed = with_attention()
    compressed.fit(*data(), verbose=0)
    masked = kft.decompress(compressed)
    assert {type(la).__name__ for la in masked.sparse_layers} == {"Sparse"}
    assert_same_kernels(compressed, masked)
    again = kft.compress(masked, max_compressed_density=0.5)
    assert_same_kernels(compressed, again)
    np.testing.assert_array_equal(outputs(again), outputs(compressed))
    plain = kft.strip(compressed)
    kinds = [type(la).__name__ for la in plain.layers]
    assert "GroupedQueryAttention" in kinds
    attention = plain.get_layer("encoder").get_layer("inner")
    assert type(attention) is keras.layers.MultiHeadAttention
    np.testing.assert_array_equal(outputs(plain), outputs(masked))
    masked.compile("adam", "sparse_categorical_crossentropy")
    masked.fit(*data(), verbose=0)


def test_files_of_attention(tmp_path):
    model = with_attention()
    model.fit(*data(), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same_kernels(model, loaded)
    np.testing.assert_array_equal(outputs(loaded), outputs(model))
    loaded.fit(*data(), verbose=0)  # with the optimizer's slots
    model.save_weights(tmp_path / "model.weights.h5")
    loaded.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(outputs(loaded), outputs(model))
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(outputs(clone), outputs(model))
    with pytest.raises(ValueError, match=r"keras_freetickets.export"):
        model.export(tmp_path / "exported")


@pytest.mark.usefixtures("eagerly")
def test_ensemble_with_attention(tmp_path):
    """Members of different counts have the room of the higher one."""
    masked = [with_attention(i, "mask") for i in range(2)]
    masked = [kft.prune(one, 0.85) for one in masked]
    counts = [[k.count() for k in one.masked_kernels] for one in masked]
    assert counts[0] != counts[1]
    whole = kft.EnsembleModel(masked)
    fast = kft.compress(whole, max_compressed_density=0.6)
    np.testing.assert_allclose(
        outputs(fast), outputs(whole), rtol=1e-4, atol=1e-6
    )
    for i, one in enumerate(masked):
        assert_same_kernels(fast.member(i), one)
    fast.save(tmp_path / "fast.keras")
    loaded = keras.models.load_model(tmp_path / "fast.keras")
    np.testing.assert_array_equal(outputs(loaded), outputs(fast))
    fast.save_packed(tmp_path / "fast.npz")
    packed = kft.EnsembleModel.from_packed(tmp_path / "fast.npz")
    np.testing.assert_array_equal(outputs(packed), outputs(fast))
    back = kft.decompress(fast)
    np.testing.assert_array_equal(outputs(back), outputs(whole))


def test_attention_keeps_masks_if_a_projection_is_too_dense():
    model = with_attention(storage="mask")
    value = model.masked_kernels[3]
    assert value.name == "inner/value/kernel"
    value.mask.assign(np.ones(value.shape, "bool"))
    for most, kind in ((0.5, "Sparse"), (1.0, "CompressedMultiHeadAttention")):
        made = kft.compress(model, max_compressed_density=most)
        inner = made.get_layer("encoder").get_layer("inner")
        assert type(inner).__name__ == kind
        assert_same_kernels(model, made)
    rows = kft.sparsity_summary(
        kft.compress(model, max_compressed_density=0.5), print_fn=False
    )
    notes = {row.note for row in rows if row.layer == "encoder/inner"}
    (note,) = notes
    assert note.startswith(
        "masked: in projection 'value', density 1 is above 0.5"
    )
    value.mask.assign(np.zeros(value.shape, "bool"))
    value.kernel.assign(np.zeros(value.shape))
    rows = kft.sparsity_summary(kft.compress(model, 1.0), print_fn=False)
    notes = {row.note for row in rows if row.layer == "encoder/inner"}
    assert notes == {"masked: in projection 'value', it has no active weight"}


def test_refusals_for_attention():
    model = with_attention()
    with pytest.raises(ValueError, match="keeps a state of every connection"):
        model.attach(topology.DSTEE())
    with pytest.raises(ValueError, match=re.escape("decompress(model)")):
        kft.SideBySide([model])
    query = model.get_layer("encoder").get_layer("inner").query_dense
    pointers = keras.ops.convert_to_numpy(query.row_pointers)
    query.row_pointers.assign(pointers[::-1].copy())
    with pytest.raises(ValueError, match="'encoder/inner/query' are wrong"):
        model.fit(*data(), verbose=0)
    model.compile(keras.optimizers.Muon(), "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="optimizer=Muon"):
        model.fit(*data(), verbose=0)


OPTIMIZERS = sorted(
    name
    for name, kind in vars(keras.optimizers).items()
    if isinstance(kind, type)
    and issubclass(kind, keras.optimizers.Optimizer)
    and name
    not in ("Optimizer", "Muon", "LossScaleOptimizer", "MultiOptimizer")
)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_slots_are_of_the_active_size(name):
    model = sparse()
    # The default makes NaN of masks with empty rows, as of the fourth layer.
    given = {"epsilon_1": 1e-16} if name == "Adafactor" else {}
    optimizer = getattr(keras.optimizers, name)(**given)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    model.fit(*data(), verbose=0)
    # Dense, the first kernel has 640 entries; the masked one has 256.
    assert max(int(np.prod(v.shape)) for v in optimizer.variables) <= 256
    assert np.isfinite(outputs(model)).all()


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        (lambda: topology.DSTEE(), "keeps a state of every connection"),
        (lambda: topology.SNFS(), "looks at all weights in every step"),
        (lambda: topology.CigL(), "looks at all weights in every step"),
        (lambda: topology.AGENT(), "looks at all weights in every step"),
        (lambda: topology.RigL(scope="global"), "between kernels"),
        (
            lambda: topology.Chase(
                0.5,
                [{"producers": [0], "readers": [1]}],
                end_step=200,
                scope="layer",
            ),
            "overrides how many connections",
        ),
    ],
)
def test_methods_that_need_masks_are_refused_by_name(method, reason):
    method = method()
    name = type(method).__name__
    with pytest.raises(ValueError, match=reason) as caught:
        sparse().attach(method)
    assert f"Received: method={name}" in str(caught.value)
    assert "storage='mask'" in str(caught.value)


class MoreEachTime(topology.Method):
    def budget(self, views, fraction):
        dropped, grown = super().budget(views, fraction)
        return dropped, [count + 1 for count in grown]


def test_a_method_of_ones_own_says_that_counts_do_not_rise():
    with pytest.raises(ValueError, match="counts_never_rise"):
        sparse().attach(MoreEachTime())


def test_refusals():
    model = sparse()
    x, y = data()
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.Muon(), loss)
    with pytest.raises(ValueError, match="optimizer=Muon"):
        model.fit(x, y, verbose=0)
    accumulating = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    model.compile(accumulating, loss)
    with pytest.raises(ValueError, match="gradient_accumulation_steps=2"):
        model.attach(topology.RigL())
    model.attach(topology.SET(update_interval=1000))
    model.fit(x, y, verbose=0)
    with pytest.raises(ValueError, match="storage='mask'"):
        model.run.track_ever_active()
    model.compile("sgd", loss)
    with pytest.raises(ValueError, match=re.escape("decompress(model)")):
        kft.SideBySide([model])
    with pytest.raises(ValueError, match=re.escape("decompress(model)")):
        kft.prune(model, 0.9)
    with pytest.raises(TypeError, match="functional SparseModel"):
        kft.compress(dense_model())
    with pytest.raises(ValueError, match="storage='dense'"):
        kft.sparsify(dense_model(), 0.9, storage="dense")
    with pytest.raises(ValueError, match="max_compressed_density=0"):
        kft.sparsify(
            dense_model(), 0.9, storage="compressed", max_compressed_density=0
        )


def test_wrong_positions_raise_before_a_step():
    model = sparse()
    weights = model.get_weights()
    layer = model.get_layer("first")
    place = [id(w) for w in model.weights].index(id(layer.column_indices))
    broken = [w.copy() for w in weights]
    broken[place][0] = 60_000
    with pytest.raises(ValueError, match="layer 'first' are wrong"):
        model.set_weights(broken)
    model.fit(*data(), verbose=0)
    model.set_weights(weights)
    assert layer.structure.active == 128


def test_an_update_that_nothing_noted_gradients_for():
    model = sparse()
    model.attach(topology.RigL(update_interval=1))
    gradients = [np.zeros(v.shape) for v in model.trainable_variables]
    with pytest.raises(ValueError, match="training_scope"):
        model.apply_gradients(gradients)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="a tape of TensorFlow"
)
def test_a_loop_of_ones_own():
    """In `training_scope` products note what growth reads."""
    import tensorflow as tf

    model = sparse()
    model.attach(topology.RigL(update_interval=1))
    x, y = data()
    loss = keras.losses.SparseCategoricalCrossentropy()
    for _ in range(2):
        with model.training_scope(), tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
            gradients = tape.gradient(value, model.trainable_variables)
            model.apply_gradients(gradients)
    assert int(model.update_state.update_count) == 1


def test_numba_missing(monkeypatch):
    import importlib

    real = importlib.import_module

    def missing(name, *args):
        if name.partition(".")[0] == "numba":
            raise ModuleNotFoundError("No module named 'numba'", name="numba")
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"keras_freetickets\[compressed\]"):
        kft.sparsify(dense_model(), 0.9, storage="compressed")


def test_a_killed_run_resumes_bit_for_bit(tmp_path):
    """SIGKILL in the third of five epochs, then the same command again.

    Where nothing is compiled yet, the first run compiles the kernels and the
    others find them.
    """
    assert {type(la).__name__ for la in compressed_network().sparse_layers} == {
        "CompressedConv1D",
        "CompressedConv2D",
        "CompressedDense",
        "CompressedSeparableConv1D",
        "CompressedSeparableConv2D",
        "Sparse",
    }

    def start(directory, *steps):
        return forked.run(
            [killable.__file__, directory, "compressed", *steps]
        ).returncode

    def result(directory):
        with open(directory / "result.pickle", "rb") as file:
            return pickle.load(file)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole) == 0
    assert start(killed, "11") == -signal.SIGKILL
    assert start(killed) == 0
    whole, resumed = result(whole), result(killed)
    for mine, other in zip(resumed[0], whole[0], strict=True):
        np.testing.assert_array_equal(mine, other)
    for mine, other in zip(resumed[1], whole[1], strict=True):
        for a, b in zip(mine, other, strict=True):
            np.testing.assert_array_equal(a, b)
    assert resumed[2:] == whole[2:]
