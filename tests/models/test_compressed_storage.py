"""Both storages train side by side: the same connections, bit for bit.

All numbers of these runs are small multiples of powers of two, so that sums
are exact in whatever order, and the two storages may not differ in one bit:
Lion changes a weight by a quarter or not at all. Values of few bits are often
equal, so that ties are broken all the time.
"""

import warnings

import keras
import numpy as np
import pytest

import keras_freetickets as kft
from keras_freetickets import topology
from keras_freetickets.topology import schedules

if keras.backend.backend() == "torch":
    pytest.skip("no training there", allow_module_level=True)

# The others are trained one operation at a time.
IN_GRAPHS = ("rigl", "set", "gmp")
# JAX compiles the update of each kernel by itself, which takes long.
SHAPES = [(16, 16), (16, 16), (16, 4)]
if keras.backend.backend() == "jax":
    SHAPES = SHAPES[1:]


@keras.saving.register_keras_serializable(package="tests")
def linear_loss(y, prediction):
    """Its gradient is `y`, exactly."""
    return keras.ops.sum(y * prediction, axis=-1)


def dyadic(rng, shape, size=4, unit=0.25):
    return (rng.integers(-size, size + 1, shape) * unit).astype("float32")


def dense_model(seed=0):
    rng = np.random.default_rng(seed)
    layers = [
        keras.layers.Dense(units, activation="relu", name=f"dense_{i}")
        for i, (_, units) in enumerate(SHAPES)
    ]
    layers[-1].activation = keras.activations.linear
    model = keras.Sequential([keras.Input((SHAPES[0][0],)), *layers])
    for layer in layers:
        layer.kernel.assign(dyadic(rng, layer.kernel.shape))
    return model


def data(batches=8, batch=4):
    rng = np.random.default_rng(7)
    x = dyadic(rng, (batches * batch, SHAPES[0][0]), 2, 1.0)
    return x, dyadic(rng, (batches * batch, SHAPES[-1][1]), 1, 1.0)


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Model '.*' seems to be trained")
        yield


def both(sparsity=0.6, initializer="random", **kwargs):
    """A masked and a compressed model of the same weights and connections."""
    dense = dense_model()
    return [
        kft.sparsify(
            dense,
            sparsity,
            seed=3,
            mask_initializer=initializer,
            storage=storage,
            max_compressed_density=1.0,
            **kwargs,
        )
        for storage in ("mask", "compressed")
    ]


def lion():
    return keras.optimizers.Lion(0.25, beta_1=0.5, beta_2=0.5)


def trained(model, method, callbacks=(), epochs=1, examples=None):
    """Trains on dyadic numbers."""
    model.compile(lion(), linear_loss)
    x, y = examples or data()
    if method is not None:
        callbacks = [kft.callbacks.DropAndGrow(method()), *callbacks]
    model.fit(
        x,
        y,
        batch_size=4,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    return model


def dense_slots(model):
    """Every slot of every sparse kernel as a dense array, 0 elsewhere."""
    kernels = model.masked_kernels
    variables = [one.kernel for one in kernels]
    found = kft.keras_adapter.optimizer_slots(model.optimizer, variables)
    arrays = []
    for one, slots in zip(kernels, found, strict=True):
        for slot, _ in slots:
            value = keras.ops.convert_to_numpy(slot.value)
            if one.compressed:
                structure = one.layer.structure
                value = value[: structure.active]
                value = kft.kernels.decompress(value, structure)
                value = value.reshape(one.shape)
            arrays.append(np.where(one.mask_array(), value, 0))
    return arrays


def assert_same(masked, compressed):
    pairs = zip(masked.masked_kernels, compressed.masked_kernels, strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(one.mask_array(), other.mask_array())
        np.testing.assert_array_equal(one.kernel_array(), other.kernel_array())
        assert one.count() == other.count()
    for slots in zip(dense_slots(masked), dense_slots(compressed), strict=True):
        np.testing.assert_array_equal(*slots)
    states = (m.update_state.get_weights() for m in (masked, compressed))
    for one, other in zip(*states, strict=True):
        np.testing.assert_array_equal(one, other)


METHODS = {
    "static": None,
    "rigl": lambda: topology.RigL(update_interval=2),
    "rigl applied": lambda: topology.RigL(
        update_interval=3, apply_on_update=True, regrown="reset"
    ),
    "set": lambda: topology.SET(update_interval=2),
    "set by magnitude": lambda: topology.SET(
        update_interval=2, drop="magnitude", grown_value=0.25
    ),
    "itop": lambda: topology.ITOP(total_steps=8, update_interval=2),
    "itop by gradient": lambda: topology.ITOP(
        total_steps=8, growth="gradient", update_interval=2
    ),
    "method": lambda: topology.Method(
        update_interval=2, drop_fraction=schedules.Cosine(0.5, 8)
    ),
    "granet": lambda: topology.GraNet(0.8, end_step=6, update_interval=2),
    "gmp": lambda: topology.GMP(0.8, end_step=6, update_interval=2),
    "ndsnn": lambda: topology.NDSNN(0.8, end_step=6, update_interval=2),
    "nothing active": lambda: topology.RigL(
        update_interval=2, drop_fraction=1.0
    ),
}


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_same_connections(name, request):
    if name not in IN_GRAPHS:
        request.getfixturevalue("eagerly")
    uniform = {"distribution": "uniform"} if "gmp" in name else {}
    models = both(**uniform)
    before = [one.mask_array() for one in models[1].masked_kernels]
    for model in models:
        trained(model, METHODS[name])
    assert_same(*models)
    after = [one.mask_array() for one in models[1].masked_kernels]
    moved = any((a != b).any() for a, b in zip(before, after, strict=True))
    assert moved == (METHODS[name] is not None)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("ablation", [0.0, 0.3])
def test_constant_fan_in(ablation):
    initializer = topology.mask_initializers.ConstantFanInMask()
    models = both(initializer=initializer)
    for model in models:
        trained(
            model, lambda: topology.SRigL(ablation=ablation, update_interval=2)
        )
    assert_same(*models)


@pytest.mark.usefixtures("eagerly")
def test_n_of_m():
    initializer = topology.mask_initializers.NMMask(1, 4)
    models = both(0.75, initializer, distribution="uniform")
    for model in models:
        trained(model, lambda: topology.NM(1, 4, update_interval=2))
    assert_same(*models)


@pytest.mark.usefixtures("eagerly")
def test_a_callable_criterion():
    models = both()
    for model in models:
        trained(
            model,
            lambda: topology.Method(
                update_interval=2,
                drop=lambda view: keras.ops.abs(view.kernel * view.gradient),
            ),
        )
    assert_same(*models)


def test_edst_with_its_global_drop(tmp_path):
    models = both()
    for i, model in enumerate(models):
        edst = kft.callbacks.EDST(
            exploration_epochs=1,
            refinement_epochs=2,
            num_tickets=2,
            update_interval=2,
            learning_rate=None,
            monitor=None,
            directory=str(tmp_path / str(i)),
        )
        trained(model, None, callbacks=[edst], epochs=edst.epochs)
    assert_same(*models)


def test_masked_and_compressed_kernels_in_one_model():
    """Those that are too dense keep masks, and say so."""
    dense = dense_model()
    models = [
        kft.sparsify(dense, 0.6, seed=3, storage=storage, **threshold)
        for storage, threshold in (
            ("mask", {}),
            ("compressed", {"max_compressed_density": 0.4}),
        )
    ]
    kinds = [type(la).__name__ for la in models[1].sparse_layers]
    assert set(kinds) == {"Sparse", "CompressedDense"}
    rows = kft.sparsity_summary(models[1], print_fn=False)
    notes = {row.layer: row.note for row in rows}
    for layer in models[1].sparse_layers:
        named = "max_compressed_density" in notes[layer.name]
        assert named == (type(layer).__name__ == "Sparse")
    for model in models:
        trained(model, METHODS["rigl"])
    assert_same(*models)


@pytest.mark.usefixtures("eagerly")
def test_a_layer_that_is_called_twice():
    """The dense gradient is the sum over the calls."""
    dense = keras.layers.Dense(16, activation="relu", name="shared")
    inputs = keras.Input((16,))
    outputs = keras.layers.Dense(4, name="end")(dense(dense(inputs)))
    model = keras.Model(inputs, outputs)
    rng = np.random.default_rng(0)
    for weight in model.weights[::2]:
        weight.assign(dyadic(rng, weight.shape))
    models = [
        kft.sparsify(
            model,
            0.6,
            seed=3,
            mask_initializer="random",
            storage=storage,
            max_compressed_density=1.0,
        )
        for storage in ("mask", "compressed")
    ]
    for one in models:
        trained(one, METHODS["rigl"])
    assert_same(*models)


def attention_models(length):
    """Both storages of an attention and a dense layer."""
    rng = np.random.default_rng(0)
    inputs = keras.Input((length, 8))
    attention = keras.layers.MultiHeadAttention(2, 4, name="attention")
    outputs = keras.layers.Dense(4, name="end")(attention(inputs, inputs))
    dense = keras.Model(inputs, outputs)
    for weight in dense.weights:
        if len(weight.shape) > 2 or "end/kernel" in weight.path:
            weight.assign(dyadic(rng, weight.shape))
    models = [
        kft.sparsify(
            dense,
            0.6,
            "uniform",
            seed=3,
            mask_initializer="random",
            storage=storage,
            max_compressed_density=1.0,
        )
        for storage in ("mask", "compressed")
    ]
    names = [[one.name for one in model.masked_kernels] for model in models]
    assert names[0] == names[1] and len(names[0]) == 5
    return models


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("name", ["rigl", "gmp"])
def test_attention_to_one_step(name):
    """Of a sequence of one step all sums are exact, as its score is 1.

    Gradients of queries and keys are 0, so that all of these are ties, which
    the number of the kernel in the model breaks.
    """
    models = attention_models(1)
    rng = np.random.default_rng(7)
    x = dyadic(rng, (32, 1, 8), 2, 1.0)
    y = dyadic(rng, (32, 1, 4), 1, 1.0)
    before = [one.mask_array() for one in models[1].masked_kernels]
    for model in models:
        model.compile(lion(), linear_loss)
        model.fit(
            x,
            y,
            batch_size=4,
            shuffle=False,
            verbose=0,
            callbacks=[kft.callbacks.DropAndGrow(METHODS[name]())],
        )
    assert_same(*models)
    for mask, one in zip(before, models[1].masked_kernels, strict=True):
        assert (mask != one.mask_array()).any()


@pytest.mark.usefixtures("eagerly")
def test_attention_to_several_steps():
    """Gradients differ in rounding, by which no connection of these moves."""
    models = attention_models(5)
    rng = np.random.default_rng(7)
    x = rng.standard_normal((4, 5, 8)).astype("float32")
    y = rng.standard_normal((4, 5, 4)).astype("float32")
    before = [one.mask_array() for one in models[1].masked_kernels]
    for one in models[0].masked_kernels:
        value = rng.standard_normal(one.shape) * one.mask_array()
        one.kernel.assign(value.astype("float32"))
    models[1] = kft.compress(models[0], max_compressed_density=1.0)
    for model in models:
        model.compile(keras.optimizers.SGD(0.0), "mse")  # kernels stay
        model.attach(topology.Method(update_interval=1, drop_fraction=0.5))
        model.train_on_batch(x, y)
    for mask, one, other in zip(
        before, *(model.masked_kernels for model in models), strict=True
    ):
        np.testing.assert_array_equal(one.mask_array(), other.mask_array())
        np.testing.assert_array_equal(one.kernel_array(), other.kernel_array())
        assert (mask != one.mask_array()).any()


# Their outputs have a power of two of pixels, by which the loss is divided.
CONVOLUTIONS = {
    "images": lambda: [
        keras.Input((4, 6, 2)),
        keras.layers.Conv2D(8, 3, padding="same", activation="relu"),
        keras.layers.Conv2D(4, (2, 3), strides=(2, 1)),
    ],
    "sequences": lambda: [
        keras.Input((16, 2)),
        keras.layers.Conv1D(
            8, 3, strides=2, padding="causal", activation="relu"
        ),
        keras.layers.Conv1D(4, 5, padding="same"),
    ],
    "separable": lambda: [
        keras.Input((4, 4, 4)),
        keras.layers.SeparableConv2D(8, 3, padding="same", activation="relu"),
        keras.layers.Reshape((16, 8)),
        keras.layers.SeparableConv1D(4, 3, strides=2, padding="same"),
    ],
}


@pytest.mark.parametrize("network", sorted(CONVOLUTIONS))
@pytest.mark.parametrize("name", ["rigl", "set", "gmp"])
def test_convolutions(name, network, request):
    if name != "rigl":
        request.getfixturevalue("eagerly")
    dense = keras.Sequential(CONVOLUTIONS[network]())
    rng = np.random.default_rng(0)
    for weight in dense.weights:
        if len(weight.shape) > 1:  # no bias
            weight.assign(dyadic(rng, weight.shape))
    x = dyadic(rng, (32, *dense.input_shape[1:]), 2, 1.0)
    y = dyadic(rng, (32, *dense.output_shape[1:]), 1, 1.0)
    models = [
        kft.sparsify(
            dense,
            0.6,
            seed=3,
            distribution="uniform",
            mask_initializer="random",
            storage=storage,
            max_compressed_density=1.0,
        )
        for storage in ("mask", "compressed")
    ]
    before = [one.mask_array() for one in models[1].masked_kernels]
    for model in models:
        trained(model, METHODS[name], examples=(x, y))
    assert_same(*models)
    after = [one.mask_array() for one in models[1].masked_kernels]
    assert all((a != b).any() for a, b in zip(before, after, strict=True))


def test_a_gradient_that_is_not_finite_postpones_the_update():
    x, y = data(batches=3)
    x[8:] = np.inf  # the batch of the first update
    for model in both():
        before = [one.mask_array() for one in model.masked_kernels]
        model.compile(lion(), linear_loss)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "RigL never updated")
            model.fit(
                x,
                y,
                batch_size=4,
                shuffle=False,
                verbose=0,
                callbacks=[kft.callbacks.RigL(update_interval=2)],
            )
        states = model.update_state
        assert int(keras.ops.convert_to_numpy(states.update_count)) == 0
        assert int(keras.ops.convert_to_numpy(states.next_update)) == 2
        for mask, one in zip(before, model.masked_kernels, strict=True):
            np.testing.assert_array_equal(mask, one.mask_array())


@pytest.mark.parametrize(
    "options", [{"run_eagerly": True}, {"steps_per_execution": 3}]
)
def test_compile_options_change_nothing(options):
    models = both()
    x, y = data()
    for model in models:
        model.compile(lion(), linear_loss, **options)
        model.fit(
            x,
            y,
            batch_size=4,
            shuffle=False,
            verbose=0,
            callbacks=[kft.callbacks.RigL(update_interval=2)],
        )
    assert_same(*models)
