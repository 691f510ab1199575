"""Packed files: exact, small, and refused when they are anything else."""

import copy
import os
import pickle

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from keras import layers
from keras import ops
from packed_files import assert_same
from packed_files import contents
from packed_files import network
from packed_files import refused
from packed_files import sealed
from packed_files import ticket

import keras_freetickets as kft
from keras_freetickets import packed_file
from keras_freetickets import packed_values


@pytest.fixture(scope="module")
def ensemble():
    return kft.EnsembleModel([ticket(seed) for seed in (1, 2, 3)])


@pytest.fixture(scope="module")
def file(ensemble, tmp_path_factory):
    path = tmp_path_factory.mktemp("compact") / "ensemble.npz"
    ensemble.save_packed(path)
    return path


@pytest.fixture(scope="module")
def x():
    generator = np.random.default_rng(0)
    return generator.normal(size=(10, 6, 6, 1)).astype("float32")


def test_every_bit_comes_back(ensemble, file, x):
    loaded = kft.EnsembleModel.from_packed(file)
    assert_same(loaded, ensemble, x)
    assert isinstance(loaded.member(0), kft.SparseModel)
    scores = loaded.evaluate(x, np.zeros(10), verbose=0, return_dict=True)
    assert set(scores) == {"accuracy", "loss", "nll"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("stripped", [False, True])
def test_dtypes_and_stripped_members(dtype, stripped, x, tmp_path):
    members = [ticket(seed, dtype=dtype) for seed in (1, 2)]
    if stripped:
        members = [kft.strip(member) for member in members]
    ensemble = kft.EnsembleModel(members)
    ensemble.save_packed(tmp_path / "e.npz")
    loaded = kft.EnsembleModel.from_packed(tmp_path / "e.npz")
    assert_same(loaded, ensemble, x)
    kernels = [w for w in loaded.weights if w.path.endswith("kernel")]
    assert {kernel.dtype for kernel in kernels} == {dtype}


def test_float16_rounds_and_keeps_masks(ensemble, x, tmp_path):
    ensemble.save_packed(tmp_path / "e.npz", dtype="float16")
    loaded = kft.EnsembleModel.from_packed(tmp_path / "e.npz")
    for old, new in zip(ensemble.weights, loaded.weights, strict=True):
        old, new = ops.convert_to_numpy(old), ops.convert_to_numpy(new)
        assert old.dtype == new.dtype
        rounded = old.astype("float16") if old.dtype.kind == "f" else old
        np.testing.assert_array_equal(new, rounded.astype(old.dtype))
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), ensemble.predict(x, verbose=0), atol=1e-2
    )


def test_int8_rounds_kernels_and_keeps_masks(ensemble, x, tmp_path):
    ensemble.save_packed(tmp_path / "e.npz", dtype="int8")
    loaded = kft.EnsembleModel.from_packed(tmp_path / "e.npz")
    rounded = 0
    for old, new in zip(ensemble.weights, loaded.weights, strict=True):
        old, new = ops.convert_to_numpy(old), ops.convert_to_numpy(new)
        assert old.dtype == new.dtype
        if old.dtype.kind != "f" or old.ndim < 3:
            np.testing.assert_allclose(new, old, rtol=1e-3, atol=1e-6)
            continue
        rounded += 1
        wanted = packed_values.from_8_bits(*packed_values.in_8_bits(old, "w"))
        np.testing.assert_array_equal(new, wanted)
        assert not new[old == 0].any()
    assert rounded == 3
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), ensemble.predict(x, verbose=0), atol=2e-2
    )
    # Rounding what is rounded changes nothing.
    loaded.save_packed(tmp_path / "again.npz", dtype="int8")
    again = kft.EnsembleModel.from_packed(tmp_path / "again.npz")
    for one, other in zip(loaded.weights, again.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("stripped", [False, True])
def test_int8_of_half_precision(dtype, stripped, x, tmp_path):
    members = [ticket(seed, dtype=dtype) for seed in (1, 2)]
    if stripped:
        members = [kft.strip(member) for member in members]
    ensemble = kft.EnsembleModel(members)
    ensemble.save_packed(tmp_path / "e.npz", dtype="int8")
    loaded = kft.EnsembleModel.from_packed(tmp_path / "e.npz")
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), ensemble.predict(x, verbose=0), atol=5e-2
    )


def test_float16_refuses_what_it_cannot_hold(ensemble, tmp_path):
    path = tmp_path / "e.npz"
    ensemble.save_packed(path)
    before = path.read_bytes()
    model = ticket(4)
    (norm,) = (la for la in model.layers if "normalization" in la.name)
    norm.moving_variance.assign(np.full(4, 65_520.0))
    large = kft.EnsembleModel([model])
    with pytest.raises(ValueError, match=r"must not be 'float16' .*65520"):
        large.save_packed(path, dtype="float16")
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["e.npz"]
    large.save_packed(path)
    norm.moving_variance.assign(np.full(4, 65_504.0))
    kft.EnsembleModel([model]).save_packed(path, dtype="float16")


def test_what_is_not_zero_outside_a_mask_survives(x, tmp_path):
    """-0.0 too, which equals zero."""
    model = ticket(1)
    record = model.masked_kernels[1]
    mask = record.mask.numpy()
    kernel = record.kernel.numpy()
    stray = tuple(np.argwhere(~mask)[0])
    kernel[stray] = -0.0
    record.kernel.assign(kernel)
    ensemble = kft.EnsembleModel([model, kft.sparsify(network(2), 0.8)])
    ensemble.save_packed(tmp_path / "e.npz")
    loaded = kft.EnsembleModel.from_packed(tmp_path / "e.npz")
    assert_same(loaded, ensemble, x)
    again = loaded.member(0).masked_kernels[1].kernel.numpy()
    assert again[stray] == 0 and np.signbit(again[stray])


def test_a_layer_adapted_to_data(x, tmp_path):
    def adapted(seed):
        keras.utils.set_random_seed(seed)
        norm = layers.Normalization()
        norm.adapt(5 + 3 * x[:, 0, :, 0])
        inputs = keras.Input((6,))
        outputs = layers.Dense(3, activation="softmax")(norm(inputs))
        return keras.Model(inputs, outputs)

    ensemble = kft.EnsembleModel([adapted(1), adapted(2)])
    ensemble.save_packed(tmp_path / "e.npz")
    loaded = kft.EnsembleModel.from_packed(tmp_path / "e.npz")
    assert_same(loaded, ensemble, x[:, 0, :, 0])
    x = x[:, 0, :, 0]
    np.testing.assert_array_equal(
        loaded.member(1).predict(x, verbose=0),
        ensemble.member(1).predict(x, verbose=0),
    )


def test_a_method_leaves_its_state(tmp_path, x):
    """Integers for each connection, of which few are not zero."""
    model = ticket(1)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.run.track_ever_active()
    ensemble = kft.EnsembleModel([model])
    ensemble.save_packed(tmp_path / "e.npz")
    loaded = kft.EnsembleModel.from_packed(tmp_path / "e.npz")
    assert_same(loaded, ensemble, x)
    assert loaded.member(0).run.ever_active() == model.run.ever_active() > 0


@pytest.mark.parametrize("stripped", [False, True])
def test_three_tickets_are_smaller_than_one_dense_model(stripped, tmp_path):
    build = kft.applications.lenet_300_100
    build().save(tmp_path / "dense.keras")  # not compiled: without slots
    members = [kft.sparsify(build(), 0.8, seed=seed) for seed in range(3)]
    if stripped:
        members = [kft.strip(member) for member in members]
    ensemble = kft.EnsembleModel(members)
    ensemble.save_packed(tmp_path / "exact.npz")
    ensemble.save_packed(tmp_path / "rounded.npz", dtype="float16")
    size = {p.name: p.stat().st_size for p in tmp_path.iterdir()}
    # Of 32 bits a weight 3 times 0.2 * 32 + 1, or 0.2 * 16 + 1.
    weights = 4 * 266_200
    assert size["exact.npz"] < 3 * 7.4 / 32 * weights < size["dense.keras"]
    assert size["rounded.npz"] < 3 * 4.2 / 32 * weights


@pytest.mark.parametrize("stripped", [False, True])
def test_three_tickets_at_a_tenth_of_the_weights(stripped, tmp_path):
    """The sizes that docs/deploy.md gives, to the last digit but one."""
    build = kft.applications.lenet_300_100
    build().save(tmp_path / "dense.keras")
    members = [kft.sparsify(build(), 0.9, seed=seed) for seed in range(3)]
    if stripped:
        members = [kft.strip(member) for member in members]
    ensemble = kft.EnsembleModel(members)
    dense = (tmp_path / "dense.keras").stat().st_size
    for dtype, share in ((None, 0.33), ("float16", 0.2), ("int8", 0.12)):
        ensemble.save_packed(tmp_path / "e.npz", dtype=dtype)
        assert (tmp_path / "e.npz").stat().st_size < share * dense


def test_files_of_version_1_are_read(ensemble, file, x, tmp_path, monkeypatch):
    """They have bits alone, however few are set."""
    monkeypatch.setattr(packed_values, "DENSEST_GAPS", 0.0)
    ensemble.save_packed(tmp_path / "e.npz")
    config, entries = contents(tmp_path / "e.npz")
    assert not any(name.startswith("gaps") for name in entries)
    config["version"] = 1
    sealed(tmp_path / "e.npz", config, entries)
    loaded = kft.EnsembleModel.from_packed(tmp_path / "e.npz")
    assert_same(loaded, ensemble, x)


def test_the_same_ensemble_gives_the_same_file(ensemble, file, tmp_path):
    ensemble.save_packed(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == file.read_bytes()


@pytest.mark.parametrize("path", [None, 3, "e.keras", "e", ".npz/e"])
def test_paths_are_checked(ensemble, path):
    with pytest.raises(ValueError, match="`path` must be a path that ends wit"):
        ensemble.save_packed(path)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", 16])
def test_dtypes_are_checked(ensemble, tmp_path, dtype):
    with pytest.raises(ValueError, match="`dtype` must be None"):
        ensemble.save_packed(tmp_path / "e.npz", dtype=dtype)
    assert not os.listdir(tmp_path)


def test_damage_is_noticed(file, tmp_path):
    """A bit anywhere: in headers, contents or the checksum itself."""
    whole = file.read_bytes()
    path = tmp_path / "damaged.npz"
    for i in [*range(0, len(whole), 17), *range(-64, 0, 9)]:
        damaged = bytearray(whole)
        damaged[i] ^= 1 << i % 8
        path.write_bytes(damaged)
        refused(path, "truncated, altered or another kind")
    for size in (0, 1, 63, 64, 65, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        refused(path, "truncated, altered or another kind")
    path.write_bytes(whole + b"\0")
    refused(path, "truncated, altered or another kind")


def test_other_files(ensemble, tmp_path):
    refused(tmp_path / "none.npz", "FileNotFoundError")
    ensemble.save(tmp_path / "e.keras")
    refused(tmp_path / "e.keras", "another kind of file")
    np.savez(tmp_path / "other.npz", config=np.zeros(3))
    refused(tmp_path / "other.npz", "another kind of file")
    os.mkfifo(tmp_path / "pipe.npz")
    refused(tmp_path / "pipe.npz", "not a regular file")
    refused(tmp_path, "not a regular file")
    with pytest.raises(ValueError, match="`path` must be a file"):
        kft.EnsembleModel.from_packed(None)


def test_files_of_others_are_read(ensemble, file, x, tmp_path):
    """The helper above makes files, or the tests below would say nothing."""
    sealed(tmp_path / "e.npz", *contents(file))
    loaded = kft.EnsembleModel.from_packed(tmp_path / "e.npz")
    assert_same(loaded, ensemble, x)


def other_format(config, entries):
    config["format"] = "tickets"


def other_version(config, entries):
    config["version"] = 5


def no_version(config, entries):
    del config["version"]


def no_variables(config, entries):
    config["variables"] = []


def fewer_members(config, entries):
    config["ensemble"]["num_members"] = 2


def a_missing_entry(config, entries):
    del entries[config["variables"][0]["values"]]


def too_few_bits(config, entries):
    name = next(name for name in entries if name.startswith("bits"))
    entries[name] = entries[name][:-1]


def other_bits(config, entries):
    name = next(v["bits"] for v in config["variables"] if "values" in v)
    entries[name] = np.bitwise_not(entries[name])


def is_whole(record):
    """Whether all values of a variable are stored."""
    return "values" in record and not {"bits", "gaps"} & set(record)


def another_shape(config, entries):
    (name, *_) = (v["values"] for v in config["variables"] if is_whole(v))
    entries[name] = entries[name][..., None]


def another_dtype(config, entries):
    (name, *_) = (v["values"] for v in config["variables"] if is_whole(v))
    entries[name] = entries[name].astype("int32")


def values_for_a_mask(config, entries):
    record = next(v for v in config["variables"] if v["dtype"] == "bool")
    shape = (3, *record["shape"])
    entries["more"] = np.ones(shape, "float32")
    record["values"] = "more"
    for kind in ("bits", "gaps"):
        record.pop(kind, None)


def zeros_of_another_shape(config, entries):
    record = next(v for v in config["variables"] if "zeros" in v)
    record["shape"] = [7, 7]


def nothing_for_a_variable(config, entries):
    del config["variables"][0]["values"]
    for kind in ("bits", "gaps"):
        config["variables"][0].pop(kind, None)


def other_gaps(config, entries):
    name = next(name for name in entries if name.startswith("gaps"))
    entries[name] = packed_values.gaps_of(np.ones(10**5, bool))


def no_gaps(config, entries):
    name = next(name for name in entries if name.startswith("gaps"))
    entries[name] = entries[name][:-5]


def an_unknown_class(config, entries):
    layer = config["ensemble"]["template"]["config"]["layers"][1]
    layer.update(class_name="Nowhere", module=None, registered_name="a>B")


def no_template(config, entries):
    config["ensemble"]["template"] = 3


def no_object(config, entries):
    config.clear()


@pytest.mark.parametrize(
    "change, match",
    [
        (other_format, "of the format 'tickets'"),
        (other_version, "has version 5 .* reads 1, 2, 3, 4"),
        (no_version, "KeyError: 'version'"),
        (no_variables, "it holds 0 variables for a model of"),
        (fewer_members, "variable '.*' has"),
        (a_missing_entry, "KeyError"),
        (too_few_bits, "variable '.*' has not .* bits"),
        (other_bits, "variable '.*' has other bits set"),
        (other_gaps, "variable '.*' has other places"),
        (no_gaps, "variable '.*' has other places"),
        (another_shape, "variable '.*' has another shape or dtype"),
        (another_dtype, "variable '.*' has another shape or dtype"),
        (values_for_a_mask, "variable '.*' has another shape or dtype"),
        (zeros_of_another_shape, "variable '.*' has another shape or dtype"),
        (nothing_for_a_variable, "variable '.*' has another shape or dtype"),
        (an_unknown_class, "Could not locate class 'Nowhere'"),
        (no_template, "Error"),
        (no_object, "KeyError: 'format'"),
    ],
)
def test_contents_are_checked(file, tmp_path, change, match):
    config, entries = contents(file)
    change(config, entries)
    sealed(tmp_path / "e.npz", config, entries)
    refused(tmp_path / "e.npz", match)


class Touch:
    """What a pickle can do: it makes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_no_pickle_is_read(file, tmp_path):
    evil = np.array([Touch(tmp_path / "touched")], object)
    pickle.loads(pickle.dumps(evil))  # it would work
    (tmp_path / "touched").unlink()
    config, entries = contents(file)
    entries["bits_evil"] = evil
    config["variables"][0]["bits"] = "bits_evil"
    sealed(tmp_path / "e.npz", config, entries)
    refused(tmp_path / "e.npz", "allow_pickle=False")
    assert not (tmp_path / "touched").exists()


def test_a_lambda_is_not_run(file, tmp_path):
    config, entries = contents(file)
    model = network(1, middle=layers.Lambda(lambda tensor: 2 * tensor))
    template = keras.saving.serialize_keras_object(model)
    config["ensemble"]["template"] = template
    sealed(tmp_path / "e.npz", config, entries)
    refused(tmp_path / "e.npz", "deserialization of a `Lambda` layer")


kinds = st.sampled_from(["bool", "float32", "float16", "float64", "int32"])
shapes = arrays_of.array_shapes(min_dims=1, max_dims=4, max_side=9)


@st.composite
def stacks_of(draw):
    """An array full of zeros, some negative, and a mask of it or none."""
    shape = draw(shapes)
    array = draw(arrays_of.arrays(draw(kinds), shape, fill=st.just(0)))
    if array.dtype.kind == "f" and draw(st.booleans()):
        array = -array
    if not draw(st.booleans()):
        return [packed_file.Stack("a", array)]
    mask = draw(arrays_of.arrays("bool", shape))
    if draw(st.booleans()):
        array = np.where(mask, array, np.zeros_like(array))
    return [packed_file.Stack("a", array, 1), packed_file.Stack("mask", mask)]


@settings(deadline=None, max_examples=60)
@given(stacks=stacks_of(), repeated=st.sampled_from([1, 300]))
def test_any_array_comes_back(tmp_path_factory, stacks, repeated):
    """Small ones as they are, large ones by their bits."""
    for stack in stacks:
        # The first axis, that of the members, may be of any length.
        stack.values = np.concatenate([stack.values] * repeated)
    path = tmp_path_factory.mktemp("any") / "a.npz"
    config = {"name": "a"}
    packed_file.write(path, copy.deepcopy(config), stacks)
    found, records = packed_file.read(path)
    assert found == config
    likes = [np.empty_like(stack.values) for stack in stacks]
    for array, stack in zip(
        packed_file.decoded(records, likes), stacks, strict=True
    ):
        assert array.dtype == stack.values.dtype
        assert array.tobytes() == stack.values.tobytes()


@pytest.mark.parametrize("written", ["uint32", "int64", "int32"])
@pytest.mark.parametrize("wanted", ["uint32", "int64", "int32"])
def test_integers_of_another_backend(tmp_path, written, wanted):
    """Seeds are `uint32` on JAX, `int64` on TensorFlow, `int32` on PyTorch."""
    path, state = tmp_path / "e.npz", np.array([[7, 2], [8, 0]])
    stack = packed_file.Stack("seed_generator_state", state.astype(written))
    packed_file.write(path, {}, [stack])
    _, records = packed_file.read(path)
    (found,) = packed_file.decoded(records, [np.zeros((2, 2), wanted)])
    assert found.dtype == wanted
    np.testing.assert_array_equal(found, state)


@pytest.mark.parametrize(
    "values, written, wanted",
    [
        ([[3_000_000_000]], "uint32", "int32"),
        ([[2**40]], "int64", "int32"),
        ([[-1]], "int64", "uint32"),
        ([[1]], "int32", "float32"),
        ([[1.0]], "float32", "int32"),
    ],
)
def test_numbers_that_another_type_cannot_hold(
    tmp_path, values, written, wanted
):
    path = tmp_path / "e.npz"
    packed_file.write(
        path, {}, [packed_file.Stack("v", np.array(values, written))]
    )
    _, records = packed_file.read(path)
    with pytest.raises(ValueError, match="variable 'v' has another"):
        packed_file.decoded(records, [np.zeros((1, 1), wanted)])
