"""What of Keras works with sparse models: the rows of docs/fit_options.md.

Quantization and LoRA have a file of their own, as have checkpoints.
"""

import copy
import pickle

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


def sparse(**arguments):
    return kft.sparsify(dense(**arguments), 0.6, "uniform", seed=2)


def array(tensor):
    return ops.convert_to_numpy(tensor)


def predicted(model):
    return array(model(data()[0], training=False))


def masks_of(model):
    return [array(record.mask.value) for record in model.masked_kernels]


def check_same(model, other):
    for mask, same in zip(masks_of(model), masks_of(other), strict=True):
        np.testing.assert_array_equal(mask, same)
    np.testing.assert_array_equal(predicted(model), predicted(other))


def test_tensorboard_draws_masks(tmp_path):
    from tensorboard.backend.event_processing import event_accumulator

    model = sparse()
    model.compile("sgd", LOSS)
    board = keras.callbacks.TensorBoard(
        tmp_path, histogram_freq=1, write_images=True, write_graph=True
    )
    for _ in range(2):  # the callback may be used again
        model.fit(*data(), verbose=0, callbacks=[board])
    events = event_accumulator.EventAccumulator(
        str(tmp_path / "train"), size_guidance={"tensors": 0}
    )
    events.Reload()
    tags = set(events.Tags()["tensors"])
    paths = [weight.path for weight in model.weights]
    for layer in model.sparse_layers:
        for weight in layer.weights:
            assert weight.path in paths
            assert f"{weight.path}/histogram" in tags
            assert f"{weight.path}/image" in tags
    # A mask of zeros and ones: a picture of black and white.
    mask = model.masked_kernels[0].mask.path
    picture = events.Tensors(f"{mask}/image")[0].tensor_proto.string_val[2]
    import tensorflow as tf

    pixels = np.unique(tf.io.decode_png(picture).numpy())
    assert pixels.tolist() == [0, 255]


@pytest.mark.skipif(
    keras.backend.backend() != "jax",
    reason="Keras 3.15.1 trains no model in a RematScope on TensorFlow",
)
def test_rematerialized_layers_train_alike():
    found = []
    for mode in (None, "full"):
        with keras.RematScope(mode=mode):
            model = sparse()
        model.compile("sgd", LOSS)
        rigl = kft.callbacks.RigL(update_interval=1, stop_step=None)
        model.fit(*data(), shuffle=False, verbose=0, callbacks=[rigl])
        found.append(model)
    check_same(*found)


def test_policies_by_path_stay(tmp_path):
    policies = keras.dtype_policies.DTypePolicyMap(default_policy="float32")
    policies["net/hidden"] = "mixed_bfloat16"
    policies["net/last.*"] = "bfloat16"
    model = keras.Sequential(
        [
            keras.Input((10,)),
            layers.Dense(8, name="hidden", dtype=policies),
            layers.Dense(8, name="middle", dtype=policies),
            layers.Dense(3, name="last_one", dtype=policies),
        ],
        name="net",
    )

    def dtypes(model):
        return {
            part.name: (part.compute_dtype, part.variable_dtype)
            for part in keras_adapter.sublayers(model)
            if isinstance(part, layers.Dense)
        }

    wanted = dtypes(model)
    assert wanted == {
        "hidden": ("bfloat16", "float32"),
        "middle": ("float32", "float32"),
        "last_one": ("bfloat16", "bfloat16"),
    }
    made = kft.sparsify(model, 0.5, seed=0)
    assert dtypes(made) == wanted
    assert dtypes(kft.strip(made)) == wanted
    made.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert dtypes(loaded) == wanted


def test_copies_of_a_whole_model(tmp_path):
    model = sparse()
    check_same(model, copy.deepcopy(model))
    check_same(model, pickle.loads(pickle.dumps(model)))
    # With the masks of its seed, but values of its own.
    clone = keras.models.clone_model(model)
    assert isinstance(clone, kft.SparseModel)
    for mask, same in zip(masks_of(model), masks_of(clone), strict=True):
        np.testing.assert_array_equal(mask, same)
    from_json = keras.models.model_from_json(model.to_json())
    assert from_json.density == model.density
    path = tmp_path / "model.weights.json"
    model.save_weights(path, max_shard_size=1e-6)
    clone.load_weights(path)
    check_same(model, clone)


class Distilled(kft.SparseModel):
    """The class in docs/fit_options.md."""

    def __init__(self, student, teacher):
        super().__init__()
        teacher.trainable = False
        self.student = student
        self.teacher = teacher

    def call(self, inputs, training=None):
        return self.student(inputs, training=training)

    def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        if training:
            taught = self.teacher(x, training=False)
            loss += ops.mean(keras.losses.kl_divergence(taught, y_pred))
        return loss


def test_a_sparse_student_is_distilled():
    student, teacher = sparse(), dense()
    teacher.get_layer("head").kernel.assign(np.ones((12, 3)) * [3, 0, -3])
    x, y = data()
    taught, probabilities = predicted(teacher), predicted(student)
    wanted = -np.log(probabilities[np.arange(16), y]).mean()
    divergence = taught * np.log(taught / probabilities)
    wanted += divergence.sum(axis=1).mean()
    before, fixed = masks_of(student), teacher.get_weights()
    model = Distilled(student, teacher)
    model.compile(keras.optimizers.SGD(0.1), LOSS)
    rigl = kft.callbacks.RigL(update_interval=1, stop_step=None)
    fitted = model.fit(
        x, y, batch_size=16, epochs=2, verbose=0, callbacks=[rigl]
    )
    assert fitted.history["loss"][0] == pytest.approx(wanted, rel=1e-4)
    for record, mask in zip(student.masked_kernels, before, strict=True):
        now = array(record.mask.value)
        assert (now != mask).any() and now.sum() == mask.sum()
        assert not array(record.kernel.value)[~now].any()
    for old, new in zip(fixed, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def exported(kind):
    model = sparse()
    if kind == "ensemble":
        return kft.EnsembleModel([model, sparse()])
    if kind == "quantized":
        plain = kft.strip(model)
        plain.quantize("int8")
        return plain
    if kind == "float8":
        model.quantize("float8")
    return model


def serve(path, x):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    return loaded.serve(x).numpy()


@pytest.mark.parametrize("kind", ["sparse", "ensemble", "quantized", "float8"])
def test_saved_models(kind, tmp_path):
    model = exported(kind)
    model.export(tmp_path / "saved", verbose=False)
    found = serve(tmp_path / "saved", data()[0])
    np.testing.assert_allclose(found, predicted(model), atol=1e-6)


def test_an_endpoint_of_ones_own(tmp_path):
    model = sparse()
    archive = keras.export.ExportArchive()
    archive.track(model)
    spec = keras.InputSpec(shape=(None, 10), dtype="float32")
    archive.add_endpoint("serve", lambda x: 2.0 * model(x), [spec])
    archive.write_out(tmp_path / "saved", verbose=False)
    found = serve(tmp_path / "saved", data()[0])
    np.testing.assert_allclose(found, 2 * predicted(model), atol=1e-6)


def test_mimo_is_exported_as_its_predictor(tmp_path):
    body = keras.Sequential(
        [keras.Input((4, 4, 2)), layers.Flatten(), layers.Dense(6)]
    )
    mimo = kft.MIMO(kft.sparsify(body, 0.5), num_members=2)
    mimo.export(tmp_path / "saved", verbose=False)
    x = np.random.default_rng(0).normal(size=(5, 4, 4, 1)).astype("float32")
    found = serve(tmp_path / "saved", x)
    np.testing.assert_allclose(found, array(mimo(x)), atol=1e-6)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="Keras' own limit"
)
@pytest.mark.parametrize(
    "kind", ["sparse", pytest.param("ensemble", marks=pytest.mark.slow)]
)
def test_litert(kind, tmp_path):
    import tensorflow as tf

    model, (x, _) = exported(kind), data()
    path = str(tmp_path / "model.tflite")
    model.export(path, format="litert", verbose=False)
    runner = tf.lite.Interpreter(model_path=path)
    place = runner.get_input_details()[0]["index"]
    runner.resize_tensor_input(place, x.shape)
    runner.allocate_tensors()
    runner.set_tensor(place, x)
    runner.invoke()
    found = runner.get_tensor(runner.get_output_details()[0]["index"])
    np.testing.assert_allclose(found, predicted(model), atol=1e-6)
