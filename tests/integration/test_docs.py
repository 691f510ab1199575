"""The Python of README and docs, run as it stands but for what is named."""

import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft

ROOT = pathlib.Path(__file__).parents[2]
on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the page is TensorFlow's"
)


def blocks_of(page, shorter=()):
    """The blocks of a page, with each of `shorter` replaced in one place."""
    text = (ROOT / page).read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    for given, replacement in dict(shorter).items():
        assert sum(block.count(given) for block in blocks) == 1, given
        blocks = [block.replace(given, replacement) for block in blocks]
    return blocks


def test_files_and_tests_that_the_design_names_exist():
    """The tables of promises and facts: `file.py` or `file.py::test_name`."""
    text = (ROOT / "docs" / "design.md").read_text()
    rows = re.findall(r"^\| [DP]\d+ \|.*$", text, re.M)
    assert len(rows) == 43 + 7
    path = None
    for row in rows:
        for file, name in re.findall(r"`([\w/]*\.py)?(?:::(\w+))?`", row):
            if file:
                path = ROOT / "tests" / file.removeprefix("tests/")
            if file or name:
                assert path.exists(), row
                assert not name or f"def {name}(" in path.read_text(), row


def dense_model():
    return keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(16, activation="relu"),
            layers.Dense(3, activation="softmax"),
        ]
    )


def vectors():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(64, 8)).astype("float32")
    return x, generator.integers(0, 3, 64)


@on_tensorflow
def test_readme(tmp_path, monkeypatch):
    import tensorflow as tf

    monkeypatch.chdir(tmp_path)
    _, code = blocks_of(
        "README.md",
        {
            "exploration_epochs=150": "exploration_epochs=2",
            "refinement_epochs=100": "refinement_epochs=2",
            "update_interval=1000": "update_interval=4",
            "loss=...": "loss='sparse_categorical_crossentropy'",
        },
    )
    x, y = vectors()
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    names = {"build_dense_model": dense_model}
    names.update(train=data, val=data, test=data)
    exec(code, names)
    assert names["ensemble"].num_members == 3
    assert (tmp_path / "run" / "saved_model" / "saved_model.pb").exists()
    probabilities = names["ensemble"].predict(x, verbose=0)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-6)


def test_self_training():
    """Members are made up: the page begins with an ensemble."""
    (code,) = blocks_of(
        "docs/self_training.md",
        {
            "labels_per_class=10, calibration_per_class=5": "2",
            "to_categorical(y[split.labelled], 10)": (
                "to_categorical(y[split.labelled], 3)"
            ),
        },
    )
    x, y = vectors()
    names = {"keras": keras, "kft": kft, "x": x, "y": y}
    names |= {"student": dense_model()}
    names |= {"ensemble": kft.EnsembleModel([dense_model(), dense_model()])}
    exec(code, names)
    assert len(names["split"].labelled) == 6
    assert names["student"].history.history["loss"][0] > 0


@pytest.mark.usefixtures("eagerly")
def test_distilled_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make_model(seed):
        keras.utils.set_random_seed(seed)
        return keras.Sequential(
            [
                keras.Input((4, 4, 1)),
                keras.layers.Conv2D(4, 3, padding="same"),
                keras.layers.GroupNormalization(groups=-1),
                keras.layers.Flatten(),
                keras.layers.Dense(3, activation="softmax"),
            ]
        )

    rng = np.random.default_rng(0)
    x, y = rng.random((24, 4, 4, 1)), np.arange(24) % 3
    names = {"kft": kft, "make_model": make_model, "x": x, "y": y}
    first, sparse, calibrate, tfds = blocks_of(
        "docs/distillation.md",
        {
            "GradientMatching(images_per_class=10, factor=2)": (
                "GradientMatching(images_per_class=2, factor=2, "
                "outer_steps=1, inner_steps=1, train_examples=0)"
            ),
            "range(5)": "range(2)",
        },
    )
    exec(first, names)
    assert len(names["x_small"]) == 24 and len(names["bank"]) == 2
    exec(sparse, names)
    assert len(names["bank"]) == 5
    exec(calibrate, names)
    assert names["calibrated"].calibrators[0].built
    exec(tfds, names)
    assert len(names["train"]) == 24


@pytest.mark.usefixtures("eagerly")
def test_resolution(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = blocks_of(
        "docs/resolution.md",
        {"epochs=10": "epochs=1", "EDST(20, 5, num_tickets=3": "EDST(1, 1, 1"},
    )[:2]
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    x, y = vectors()
    x = np.repeat(x[:, None], 8, axis=1)[..., None]
    names = {"kft": kft, "model": model, "x": x, "y": y}
    exec(first, names)
    sparse = kft.sparsify(names["model"], 0.5)
    sparse.compile("adam", "sparse_categorical_crossentropy")
    names["model"] = sparse
    second = second.replace("directory=", "monitor=None, directory=")
    exec(second, names)
    assert sparse.history.history["reduced_share"] == [0.5, 0.0]


def test_confident_learning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    training, pairs = blocks_of(
        "docs/confident_learning.md",
        {
            "(x, y, nested)": "(x, y, nested, 16)",
            "EDST(8, 8, num_tickets=5": "EDST(1, 1, 2",
        },
    )
    x, y = vectors()
    model = kft.sparsify(dense_model(), 0.5)
    model.compile("adam", "sparse_categorical_crossentropy")
    names = {"kft": kft, "keras": keras, "model": model, "x": x, "y": y}
    exec(training, names)
    assert model.history.history["examples"] == [64, 57, 51]

    def text_tower(text):
        words = layers.Embedding(9, 64)(text)
        return layers.GlobalAveragePooling1D()(words)

    def image_tower(image):
        return layers.Dense(64)(layers.Flatten()(image))

    names |= {"text_tower": text_tower, "image_tower": image_tower}
    exec(pairs, names)
    batch = {"text": np.ones((4, 16)), "image": np.ones((4, 28, 28, 1))}
    assert float(names["model"].train_on_batch(batch)) > 0


def chosen_names():
    """What the pages on search and sampling take for granted."""
    x, y = vectors()
    names = {"network": dense_model(), "x_train": x, "y_train": y}
    for part in ("valid", "test"):
        names.update({f"x_{part}": x, f"y_{part}": y})
    return names


def test_ternary_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, *blocks = blocks_of(
        "docs/ternary_weights.md", {"epochs=20": "epochs=1"}
    )
    names = chosen_names()
    own = names["network"]
    exec(first.replace("(64,)", "(8,)"), names)
    assert (tmp_path / "ternary.keras").exists()
    names["network"] = own
    for block in blocks:
        exec(block, names)
    assert names["scaling"].built


def test_sampling():
    first, *blocks = blocks_of("docs/sampling.md")
    names = chosen_names()
    exec(first, names)
    assert abs(names["samples"].means() - 3 / 8).max() < 0.1
    names["ensemble"] = kft.EnsembleModel([dense_model() for _ in range(4)])
    for block in blocks:
        exec(block, names)
    assert names["probabilities"].shape == (64, 3)
    assert names["keep"].shape == (16,)


def test_first_run(tmp_path, monkeypatch, capsys):
    """It brings its data and its network."""
    monkeypatch.chdir(tmp_path)
    shorter = {
        "epochs=15, refinement_epochs=10": "epochs=1, refinement_epochs=1",
        "verbose=2": "verbose=0",
    }
    code, _ = blocks_of("README.md", shorter)
    names = {}
    exec(code, names)
    assert names["ensemble"].num_members == 3
    assert "mutual_information" in capsys.readouterr().out


@pytest.mark.usefixtures("eagerly")
@on_tensorflow
def test_quick_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shorter = {
        "random((1000,": "random((32,",
        "10, 1000)": "10, 32)",
        "y, epochs=10": "y, epochs=1, verbose=0",
        "update_interval=20, drop": "update_interval=1, drop",
        "exploration_epochs=15": "exploration_epochs=1",
        "refinement_epochs=10": "refinement_epochs=1",
        "    update_interval=20,": "    update_interval=1,",
    }
    names = {}
    for block in blocks_of("docs/quick_start.md", shorter):
        exec(block, names)
    assert names["ensemble"].num_members == 3
    assert not isinstance(names["plain"], kft.SparseModel)


def check_kept_sparse(model, updates):
    assert int(model.update_state.update_count.numpy()) == updates
    for record in model.masked_kernels:
        mask, kernel = record.mask.numpy(), record.kernel.numpy()
        assert kernel[mask].any() and not kernel[~mask].any()


@on_tensorflow
def test_own_training_loop(tmp_path, caplog, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(tf.get_logger(), "propagate", True)
    batches = tf.data.Dataset.from_tensor_slices(vectors()).batch(16)
    names = {"dense": dense_model(), "dataset": batches.repeat(30)}
    loop = blocks_of("docs/own_training_loop.md")[0]
    # Of a file, as AutoGraph warns of functions without source anyway.
    (tmp_path / "loop.py").write_text(loop)
    exec(compile(loop, str(tmp_path / "loop.py"), "exec"), names)
    check_kept_sparse(names["model"], updates=1)
    assert "AutoGraph" not in caplog.text


def own_training_blocks():
    """Those after the loops: class, two steps, distillation, a GAN."""
    shorter = {
        "update_interval=50": "update_interval=1",
        "update_interval=20": "update_interval=1",
    }
    return blocks_of("docs/own_training_loop.md", shorter)[2:]


@pytest.mark.filterwarnings("ignore:.*have lost all their inputs")
def test_a_class_and_a_step_of_your_own():
    own, on_tensorflow, on_jax, *_ = own_training_blocks()
    step = on_jax if keras.backend.backend() == "jax" else on_tensorflow
    names = {"keras": keras, "kft": kft}
    exec(own, names)
    exec(step, names)
    model = names["OwnStep"]()
    model.build((None, 8))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    rigl = kft.callbacks.RigL(update_interval=1)
    model.fit(*vectors(), verbose=0, callbacks=[rigl])
    # RigL's updates take a step each: the first batch is the optimizer's.
    check_kept_sparse(model, updates=1)
    assert model.masked_kernels[0].mask.numpy().sum() == 80  # .1 of 8 x 100


def layers_of(inputs, outputs):
    return keras.Sequential(
        [keras.Input((inputs,)), layers.Dense(16), layers.Dense(outputs)]
    )


@pytest.mark.usefixtures("eagerly")
@pytest.mark.filterwarnings("ignore:.*have lost all their inputs")
def test_distillation():
    *_, distillation, _ = own_training_blocks()
    x, y = vectors()
    names = {"teacher": layers_of(8, 3), "student": layers_of(8, 3)}
    names |= {"x": x, "y": y}
    exec(distillation, names)
    check_kept_sparse(names["distiller"], updates=1)


@pytest.mark.usefixtures("eagerly")
@on_tensorflow
def test_several_optimizers():
    *_, gan = own_training_blocks()
    parts = {
        "generator": kft.sparsify(layers_of(4, 8), sparsity=0.5),
        "discriminator": kft.sparsify(layers_of(8, 1), sparsity=0.5),
    }
    exec(gan, {**parts, "x": vectors()[0]})
    for part in parts.values():
        check_kept_sparse(part, updates=1)


@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="the block is JAX's"
)
def test_own_training_loop_on_jax():
    x, y = vectors()
    batches = [(x[i : i + 16], y[i : i + 16]) for i in range(0, 64, 16)]
    names = {"dense": dense_model(), "dataset": batches * 3}
    _, loop, *_ = blocks_of("docs/own_training_loop.md")
    exec(loop.replace("update_interval=100", "update_interval=4"), names)
    check_kept_sparse(names["model"], updates=2)


@on_tensorflow
@pytest.mark.parametrize(
    "with_files", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_coming_from_tfmot(with_files, tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_model_optimization")
    tf_keras = pytest.importorskip("tf_keras")
    monkeypatch.chdir(tmp_path)
    x, y = vectors()
    shorter = {"end_step=600": "end_step=200"}
    theirs, ours, read, pattern = (
        block.replace("epochs=20", "epochs=1, batch_size=32, verbose=0")
        for block in blocks_of("docs/coming_from_tfmot.md", shorter)
    )
    names = {"x": np.tile(x, (101, 1)), "y": np.tile(y, 101)}
    names["old_model"] = tf_keras.Sequential(
        [
            tf_keras.Input((8,)),
            tf_keras.layers.Dense(16, activation="relu"),
            tf_keras.layers.Dense(3, activation="softmax"),
        ]
    )
    names["dense_model"] = dense_model()
    exec(theirs, names)
    exec(ours, names)
    # Half the weights from the first update on, a tenth at the last.
    assert names["model"].density == pytest.approx(0.1, abs=0.005)
    for kernel, plain in zip(
        names["stripped"].weights[::2], names["plain"].weights[::2], strict=True
    ):
        share = np.count_nonzero(kernel) / np.size(kernel)
        assert np.count_nonzero(plain) == pytest.approx(
            share * np.size(plain), abs=1
        )
    if with_files:  # a process reads them
        exec(read, names)
        assert names["found"].step == 202
        assert names["found"].model.density == pytest.approx(0.1, abs=0.02)
    names["trained_model"] = dense_model()
    exec(pattern, names)
    for record in names["model"].masked_kernels:
        groups = record.mask.numpy().T.reshape(-1, 4)
        assert (groups.sum(axis=-1) == 2).all()


@pytest.mark.usefixtures("eagerly")
@on_tensorflow
@pytest.mark.filterwarnings("ignore:.*never updated the topology")
def test_side_by_side(tmp_path, monkeypatch):
    import tensorflow as tf

    monkeypatch.chdir(tmp_path)
    shorter = {"epochs=30": "epochs=2, verbose=0"}
    same, own = blocks_of("docs/side_by_side.md", shorter)
    data = tf.data.Dataset.from_tensor_slices(vectors()).batch(16)
    names = {"build": dense_model}
    names.update(train=data, val=data)
    exec(same, names)
    assert names["ensemble"].num_members == 4

    def build():
        return kft.applications.lenet_300_100((8, 8, 1))

    names["build"] = build
    exec(same.partition("together =")[0], names)
    exec(own, names)
    steps = int(names["models"][3].optimizer.iterations.numpy())
    assert steps == 2 * len(names["runs"][0].train)


@pytest.mark.usefixtures("eagerly")
@on_tensorflow
@pytest.mark.filterwarnings("ignore:.*never updated the topology")
def test_methods_page():
    import tensorflow as tf

    train = tf.data.Dataset.from_tensor_slices(vectors()).batch(16)
    model = kft.sparsify(dense_model(), 0.5)
    model.compile("sgd", "sparse_categorical_crossentropy")
    held = {"kft": kft, "model": model, "train": train}
    held.update(keras=keras, dense_model=dense_model())
    shorter = {
        "update_interval=100, drop_fraction=0.3\n": "update_interval=2\n"
    }
    for block in blocks_of("docs/methods.md", shorter):
        exec(compile(block, "docs/methods.md", "exec"), held)
    model = held["model"]
    assert int(model.update_state.update_count.numpy()) == 2
    rest = [r.state["rest"].numpy() for r in model.masked_kernels]
    for record, state in zip(model.masked_kernels, rest, strict=True):
        mask = record.mask.numpy()
        assert (state[mask] == 3).all() and (state[~mask] < 3).all()
    assert any((state == 2).any() for state in rest)  # just dropped


def tickets(count, sparsity=0.5):
    for seed in range(count):
        keras.utils.set_random_seed(seed)
        yield kft.sparsify(dense_model(), sparsity, seed=seed)


@pytest.mark.usefixtures("eagerly")
def test_ways_to_make_an_ensemble(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one_run, data, own_data, reopened, own_recipe, single, mimo = blocks_of(
        "docs/making_ensembles.md",
        {
            "exploration_epochs=150": "exploration_epochs=1",
            "refinement_epochs=100": "refinement_epochs=1",
            'load("optdigits"': 'load("optdigits", data_dir="data"',
        },
    )
    x, y = vectors()
    names = {"x": x, "y": y, "x_val": x, "y_val": y}
    names.update(build_dense_model=dense_model)
    exec(one_run, names)
    assert names["ensemble"].num_members == 3
    expected = names["ensemble"].predict_members(x)
    exec(reopened, names)
    np.testing.assert_array_equal(
        names["ensemble"].predict_members(x), expected
    )
    exec(own_data, names)
    for of_member in ("bagging", "cross_validation", "half"):
        given = (7,) if of_member == "bagging" else (7, 0)
        assert len(names[of_member](*given)["x"])
    exec(own_recipe, names)
    assert names["ensemble"].num_members == 2
    exec(single, names)
    assert names["training"].changes_topology
    exec(data, names)
    assert next(iter(names["data"](1)["x"]))[0].shape[1:] == (8, 8, 1)
    names["images"] = np.ones((16, 28, 28, 1), "float32")
    names["labels"] = np.arange(16) % 10
    exec(mimo, names)
    assert names["ensemble"].predict(names["images"]).shape == (16, 10)


def test_ensembles_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, (*models,) in [("tickets", tickets(3)), ("seed_7", tickets(1))]:
        (tmp_path / "run" / name).mkdir(parents=True)
        for i, model in enumerate(models):
            model.save(tmp_path / "run" / name / f"ticket_{i}.keras")
    x, y = vectors()
    names = {"x": x, "x_val": x, "y_val": y, "x_test": x, "y_test": y}
    for block in blocks_of("docs/ensembles.md"):
        exec(block, names)
    found = names["found"]
    np.testing.assert_allclose(
        found["predictive_entropy"],
        found["expected_entropy"] + found["mutual_information"],
        atol=1e-5,
    )
    parts = names["parts"]
    np.testing.assert_allclose(
        parts["variance"],
        parts["expected_variance"] + parts["variance_of_means"],
        rtol=1e-6,
    )
    assert names["robust"].pooling is names["median"]
    assert names["selection"].ensemble.num_members <= 2
    assert names["larger"].num_members == 4
    assert names["smaller"].num_members == 2
    assert isinstance(names["one"], kft.SparseModel)


def variables_of(model):
    """In the order of the page."""
    return [*model.trainable_variables, *model.non_trainable_variables]


@pytest.mark.usefixtures("eagerly")
def test_deploy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shorter = {
        "end_step=2000": "end_step=4, update_interval=2",
        "epochs=10": "epochs=2, verbose=0",
    }
    blocks = blocks_of("docs/deploy.md", shorter)
    first, rest, elsewhere, _, compaction, *_ = blocks
    (model,) = tickets(1)
    x, y = vectors()
    names = {"kft": kft, "x": np.tile(x, (4, 1)), "model": model}
    names["ensemble"] = kft.EnsembleModel(list(tickets(2)))
    exec(first, names)
    exec(rest, names)
    for name in ("model", "model_8", "checked"):
        assert (tmp_path / "run" / f"{name}.keras").exists()
    if keras.backend.backend() == "tensorflow":
        exec(elsewhere, names)  # in this process
    names = {"kft": kft, "x": x, "y": y, "dense_model": dense_model()}
    exec(compaction, names)
    kernels = [layer.kernel.shape for layer in names["small"].layers[1:]]
    # Half of 16 units, less those that have lost all their connections.
    assert kernels[0][1] == kernels[1][0] <= 8
    assert kernels == [(8, kernels[0][1]), (kernels[0][1], 3)]


@on_tensorflow
@pytest.mark.slow
def test_deploy_trains_for_8_bits(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_model_optimization")
    monkeypatch.chdir(tmp_path)
    _, _, _, trained, *_ = blocks_of("docs/deploy.md")
    (model,) = tickets(1)
    x, y = vectors()
    exec(trained, {"kft": kft, "model": model, "x": x, "y": y})
    assert (tmp_path / "run" / "trained_8.tflite").exists()


READER = """
import sys

assert not {"keras", "tensorflow", "jax"} & set(sys.modules)
arrays = read("ensemble.npz")
np.savez("read.npz", *[array for _, array in arrays])
"""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("stored", [None, "float16"])
def test_compact_files_are_read_by_numpy_alone(tmp_path, dtype, stored):
    """Of sparse members, and of stripped ones with places of their own."""
    (block,) = blocks_of("docs/packed_file.md")
    sparsity = 0.9 if stored else 0.5
    keras.config.set_dtype_policy(dtype)
    try:
        members = list(tickets(3, sparsity))
    finally:
        keras.config.set_dtype_policy("float32")
    for kind in (members, [kft.strip(member) for member in members]):
        kft.EnsembleModel(kind).save_packed(tmp_path / "ensemble.npz", stored)
        subprocess.run(
            [sys.executable, "-c", block + READER], cwd=tmp_path, check=True
        )
        with np.load(tmp_path / "ensemble.npz") as archive:
            kinds = {name.partition("_")[0] for name in archive.files}
        assert ("gaps" if stored else "bits") in kinds
        assert ("scales" in kinds) == (stored == "int8")
        ensemble = kft.EnsembleModel.from_packed(tmp_path / "ensemble.npz")
        found = np.load(tmp_path / "read.npz")
        variables = zip(*(variables_of(member) for member in kind), strict=True)
        for i, same in enumerate(variables):
            values = np.stack([v.numpy().astype("float32") for v in same])
            if stored == "int8":
                # What it is rounded to, other tests say.
                values = ensemble.weights[i].numpy().astype("float32")
            elif stored and same[0].dtype == "float32":
                values = values.astype(stored).astype("float32")
            array = found[f"arr_{i}"].astype("float32")
            np.testing.assert_array_equal(array, values)
        assert len(found.files) == i + 1


def test_contributing(tmp_path):
    """The recipe and the metric that it shows how to add."""
    recipe, metric = blocks_of("CONTRIBUTING.md")
    names = {"__name__": __name__}
    exec(recipe, names)
    x, y = vectors()
    ensemble = names["MixedSparsities"](sparsities=(0.5, 0.8), epochs=1).fit(
        lambda seed: dense_model(),
        lambda model: model.compile(
            "sgd", "sparse_categorical_crossentropy", metrics=["accuracy"]
        ),
        {"x": x, "y": y, "validation_data": (x, y)},
        tmp_path,
        verbose=0,
    )
    densities = [ensemble.member(i).density for i in range(2)]
    assert densities == pytest.approx([0.5, 0.2], abs=0.01)
    exec(metric, names)
    margin = names["Margin"]()
    margin.update_state([0, 1], [[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]])
    assert float(margin.result()) == pytest.approx(0.3, abs=1e-6)


def test_adding_a_method():
    """The class, its preset and its test, as the page gives them."""
    names = {}
    for block in blocks_of("docs/adding_a_method.md"):
        exec(block, names)
    names["test_what_changes_the_loss_least_goes"]()
    assert isinstance(kft.topology.get("taylor"), names["Taylor"])
    assert kft.topology.get("taylor").update_interval == 100
    assert isinstance(names["TaylorPreset"]().method, names["Taylor"])


def test_rare_classes():
    blocks = blocks_of("docs/rare_classes.md", {"epochs=100": "epochs=5"})
    names = {}
    for block in blocks[:2]:
        exec(block, names)
    assert names["intervals"].shape == (300, 2) and len(names["unsure"]) == 10
    p = names["left_out"].predictions()[0, :, 1]
    names.update({"p": p, "p_of_another": 0.9 * p})
    for block in blocks[2:]:
        exec(block, names)
    assert names["targets"].shape == (300, 3)


@pytest.mark.usefixtures("eagerly")
def test_image_regression():
    train, *blocks = blocks_of(
        "docs/image_regression.md", {"epochs=100": "epochs=1"}
    )
    names = {}
    exec(train, names)
    names["other"] = names["ticket"]
    for block in blocks:
        exec(block, names)
    assert names["found"].mean.shape == (100, 16, 16, 1)
