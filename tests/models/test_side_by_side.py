import contextlib
import copy

import keras
import numpy as np
import pytest
from backends import ON_NEW_JAX
from keras import layers

import keras_freetickets as kft
from keras_freetickets import topology
from keras_freetickets.models.side_by_side import SideBySide

BACKEND = keras.backend.backend()
pytestmark = pytest.mark.skipif(BACKEND == "torch", reason="has no trainer")
# How the steps of members can be computed on this backend.
WAYS = [False, True] if BACKEND == "jax" else [False]
every_way = pytest.mark.parametrize("vectorize", WAYS)

CLASSES = 3
QUIET = {"verbose": 0, "shuffle": False}


@pytest.fixture
def float64():
    """All weights and data in float64."""
    context = contextlib.nullcontext()
    if BACKEND == "jax":
        import jax

        context = jax.enable_x64(True)
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        with context:
            yield
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")


def dense_network(seed, units=8, dropout=0.0):
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(units, activation="relu"),
            layers.Dropout(dropout, seed=seed),
            layers.Dense(CLASSES),
        ]
    )


def convolutional(seed):
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Reshape((3, 2, 1)),
            layers.Conv2D(4, 2, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dropout(0.2, seed=seed),
            layers.Dense(CLASSES),
        ]
    )


def momentum(rate=0.1):
    return keras.optimizers.SGD(rate, momentum=0.9)


def member(seed, build=dense_network, optimizer=momentum, **options):
    keras.utils.set_random_seed(seed)
    model = kft.sparsify(build(seed), 0.5, "uniform", seed=seed)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    options.setdefault("metrics", ["accuracy"])
    model.compile(optimizer(), loss, **options)
    return model


def members(count=2, *args, **options):
    return [member(seed, *args, **options) for seed in range(count)]


def data(count=24, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(count, 6)).astype(keras.config.floatx())
    return x, generator.integers(0, CLASSES, count)


def variables_of(model):
    return [*model.variables, *model.optimizer.variables]


def assert_same(models, others, tolerance=1e-12):
    """Masks and counters bit for bit, floats within the tolerance."""
    for one, other in zip(models, others, strict=True):
        pairs = zip(variables_of(one), variables_of(other), strict=True)
        for mine, its in pairs:
            assert mine.dtype == its.dtype
            mine, its = [
                keras.ops.convert_to_numpy(v.value) for v in (mine, its)
            ]
            atol = tolerance if mine.dtype.kind == "f" else 0
            np.testing.assert_allclose(
                mine.astype("float64"), its.astype("float64"), 0, atol
            )


def trained_alone(models, method, x, y, **options):
    """Members trained one after another, with seeds of their own."""
    histories = []
    for i, model in enumerate(models):
        own = copy.copy(method)
        own.seed = method.seed + i
        callback = kft.callbacks.DropAndGrow(own)
        batches = (x[:, i], y[:, i]) if x.ndim == 3 else (x, y)
        fitted = model.fit(*batches, callbacks=[callback], **options, **QUIET)
        histories.append(fitted.history)
    return histories


METHODS = {
    "rigl": lambda: topology.RigL(2, 0.4, seed=5),
    "set": lambda: topology.SET(2, 0.4, seed=5),
    "dst_ee": lambda: topology.DSTEE(update_interval=2, drop_fraction=0.4),
}


@every_way
@pytest.mark.parametrize(
    "name, build",
    [
        ("rigl", convolutional),
        pytest.param("set", dense_network, marks=pytest.mark.slow),
        pytest.param("dst_ee", dense_network, marks=pytest.mark.slow),
    ],
)
def test_members_train_as_they_do_alone(name, build, vectorize, float64):
    if ON_NEW_JAX and vectorize:
        pytest.skip("this JAX rounds a part of the step to float32")
    method, (x, y) = METHODS[name](), data()
    alone, models = members(2, build), members(2, build)
    options = {"batch_size": 4, "epochs": 2, "validation_data": data(8, 1)}
    histories = trained_alone(alone, method, x, y, **options)

    together = SideBySide(models, vectorize=vectorize)
    callback = kft.callbacks.DropAndGrow(method)
    fitted = together.fit(x, y, callbacks=[callback], **options, **QUIET)

    assert_same(models, alone)
    counts = [int(m.update_state.update_count.numpy()) for m in models]
    assert min(counts) == max(counts) >= 2
    masks = [[c.mask.numpy() for c in model.masked_kernels] for model in models]
    assert any((a != b).any() for a, b in zip(*masks, strict=True))
    for log in ("loss", "accuracy", "val_loss", "val_accuracy"):
        values = [fitted.history[f"{log}_{i}"] for i in range(2)]
        np.testing.assert_allclose(values, [h[log] for h in histories], 1e-6)
        mean = np.mean(values, axis=0)
        np.testing.assert_allclose(fitted.history[log], mean, 1e-6)
    assert all(model.method is None for model in models)


@every_way
def test_batches_of_their_own(vectorize, float64):
    if ON_NEW_JAX and vectorize:
        pytest.skip("this JAX rounds a part of the step to float32")
    method, own = METHODS["rigl"](), [data(seed=i) for i in range(2)]
    x, y = [np.stack(arrays, axis=1) for arrays in zip(*own, strict=True)]
    alone, models = members(2, convolutional), members(2, convolutional)
    trained_alone(alone, method, x, y, batch_size=4)
    together = SideBySide(models, member_batches=True, vectorize=vectorize)
    together.fit(
        x,
        y,
        batch_size=4,
        validation_data=own[0],
        callbacks=[kft.callbacks.DropAndGrow(method)],
        **QUIET,
    )
    assert_same(models, alone)
    for wrong in ({"class_weight": {0: 2.0}}, {"validation_split": 0.5}):
        with pytest.raises(
            ValueError, match=f"`{next(iter(wrong))}`.*Received"
        ):
            together.fit(x, y, **wrong)


@pytest.mark.slow
@every_way
def test_options_of_compile(vectorize, float64):
    """Accumulated gradients, averaged weights, several steps at once."""

    def optimizer():
        return keras.optimizers.Adam(
            0.05, use_ema=True, gradient_accumulation_steps=2
        )

    method, (x, y) = METHODS["rigl"](), data()
    both = [members(2, dense_network, optimizer, steps_per_execution=3)]
    both.append(members(2, dense_network, optimizer, steps_per_execution=3))
    trained_alone(both[0], method, x, y, batch_size=2, epochs=2)
    together = SideBySide(both[1], vectorize=vectorize)
    callback = kft.callbacks.DropAndGrow(method)
    together.fit(x, y, batch_size=2, epochs=2, callbacks=[callback], **QUIET)
    assert_same(*both)


@every_way
def test_one_batch_at_a_time(vectorize):
    x, y = data(4)
    batch = x, y, np.array([1.0, 0.5, 2.0, 0.0])
    models, alone = members(), members()
    together = SideBySide(models, vectorize=vectorize)
    together.attach(topology.SET(1, 0.4, seed=3))
    for i, model in enumerate(alone):
        model.attach(topology.SET(1, 0.4, seed=3 + i))
    for _ in range(3):
        logs = together.train_on_batch(*batch, return_dict=True)
        own = [m.train_on_batch(*batch, return_dict=True) for m in alone]
        np.testing.assert_allclose(
            [logs["loss_0"], logs["loss_1"], logs["loss"]],
            [
                own[0]["loss"],
                own[1]["loss"],
                (own[0]["loss"] + own[1]["loss"]) / 2,
            ],
            rtol=1e-5,
        )
    assert_same(models, alone, 1e-6)
    together.detach()
    assert [model.method for model in models] == [None, None]
    mean = np.stack([m.predict(x, verbose=0) for m in models], axis=1)
    np.testing.assert_allclose(together.predict(x, verbose=0), mean, atol=1e-6)


def test_a_step_that_is_not_due_computes_no_update():
    """What decides on it is one value for all members, no choice of each."""
    if BACKEND != "jax":
        pytest.skip("about vmap")
    import jax

    together = SideBySide(members(), vectorize=True)
    together.attach(topology.RigL(1, 0.4))
    x, y = data(4)
    together.train_on_batch(x, y)
    state = together._get_jax_state(
        trainable_variables=True,
        non_trainable_variables=True,
        optimizer_variables=True,
        metrics_variables=True,
    )
    program = jax.make_jaxpr(together.train_step)(state, (x, y))
    loops = [e for e in program.jaxpr.eqns if e.primitive.name == "while"]
    assert loops, program
    for loop in loops:
        (decides,) = loop.params["cond_jaxpr"].jaxpr.outvars
        assert decides.aval.shape == ()
    # The update is in one of the loops, and nowhere else.
    outside = [e.primitive.name for e in program.jaxpr.eqns]
    assert "population_count" not in outside
    inner = [str(loop.params["body_jaxpr"]) for loop in loops]
    assert sum("while" in text for text in inner) == 1


@every_way
def test_a_gradient_that_is_not_finite_concerns_its_member(vectorize):
    x, y = data(4)
    own = np.stack([x, x], axis=1)
    labels = np.stack([y, y], axis=1)
    broken = own.copy()
    broken[0, 1] = np.nan
    models = members()
    together = SideBySide(models, member_batches=True, vectorize=vectorize)
    together.attach(topology.SET(2, 0.4))
    masks = [[c.mask.numpy() for c in m.masked_kernels] for m in models]

    def changed():
        return [
            any(
                (c.mask.numpy() != old).any()
                for c, old in zip(m.masked_kernels, o, strict=True)
            )
            for m, o in zip(models, masks, strict=True)
        ]

    together.train_on_batch(own, labels)
    assert changed() == [False, False]
    together.train_on_batch(broken, labels)
    assert changed() == [True, False]
    assert int(models[0].update_state.update_count.numpy()) == 1
    # Batches that are finite for none postpone the next update.
    masks = [[c.mask.numpy() for c in m.masked_kernels] for m in models]
    counts = [int(m.update_state.update_count.numpy()) for m in models]
    for _ in range(2):
        together.train_on_batch(own, labels, np.full((4, 2), np.inf))
    assert changed() == [False, False]
    assert counts == [int(m.update_state.update_count.numpy()) for m in models]


@every_way
def test_learning_rates_of_callbacks_reach_every_member(vectorize):
    models = members(2, optimizer=lambda: momentum(0.1))
    together = SideBySide(models, vectorize=vectorize)
    schedule = keras.callbacks.LearningRateScheduler(
        lambda epoch, rate: rate * 0.5
    )
    plateau = keras.callbacks.ReduceLROnPlateau("loss", 0.1, 1, min_delta=1e9)
    x, y = data(8)
    together.fit(x, y, epochs=3, callbacks=[schedule, plateau], **QUIET)
    rates = [float(m.optimizer.learning_rate.numpy()) for m in models]
    np.testing.assert_allclose(rates, 2 * [0.1 * 0.5**3 * 0.1**2], rtol=1e-5)


@every_way
def test_tickets_of_all_members(vectorize, tmp_path):
    models = members()
    together = SideBySide(models, vectorize=vectorize)
    dst = kft.callbacks.DST(tmp_path, update_interval=2, seed=1)
    x, y = data()
    fitted = together.fit(
        x,
        y,
        batch_size=4,
        epochs=4,
        validation_data=data(16, 1),
        callbacks=[dst],
        **QUIET,
    )
    entries = dst.store.read()
    assert list(entries) == [f"ticket_{i}.keras" for i in range(2)]
    for i, entry in enumerate(entries.values()):
        values = fitted.history[f"val_accuracy_{i}"]
        assert entry["epoch"] == int(np.argmax(values))
        np.testing.assert_allclose(entry["value"], max(values), rtol=1e-6)
    ensemble = kft.EnsembleModel.from_tickets(tmp_path)
    assert ensemble.num_members == dst.ensemble().num_members == 2
    for i, entry in enumerate(entries.values()):
        if entry["epoch"] == 3:
            expected = models[i].predict(x, verbose=0)
            mine = ensemble.member(i).predict(x, verbose=0)
            np.testing.assert_allclose(mine, expected, atol=1e-6)


def test_ensemble_of_members():
    models = members(3)
    together = SideBySide(models)
    x, _ = data()
    np.testing.assert_array_equal(
        together.ensemble().predict(x, verbose=0),
        kft.EnsembleModel(models).predict(x, verbose=0),
    )


class KilledError(Exception):
    pass


@every_way
def test_a_killed_run_goes_on(vectorize, tmp_path):
    x, y = data()

    def run(directory, kill=None):
        models = members(2, lambda seed: dense_network(seed, dropout=0.3))
        together = SideBySide(models, vectorize=vectorize)

        def end(epoch, logs):
            if epoch == kill:
                raise KilledError

        callbacks = [
            kft.callbacks.DST(
                directory / "tickets", update_interval=4, monitor="accuracy"
            ),
            kft.callbacks.Backup(directory / "backup"),
            keras.callbacks.LambdaCallback(on_epoch_end=end),
        ]
        options = {"batch_size": 4, "epochs": 4, "callbacks": callbacks}
        try:
            history = together.fit(x, y, **options, **QUIET).history
        except KilledError:
            history = None
        return models, history

    expected, history = run(tmp_path / "whole")
    assert run(tmp_path / "killed", kill=1)[1] is None
    resumed, again = run(tmp_path / "killed")
    assert again == history
    assert_same(resumed, expected, 0)
    whole, killed = [
        kft.ensembles.TicketStore(tmp_path / name / "tickets").read()
        for name in ("whole", "killed")
    ]
    assert whole == killed


def test_saved_and_loaded(tmp_path):
    x, y = data()
    together = SideBySide(members())
    together.fit(x, y, **QUIET)
    together.save(tmp_path / "together.keras")
    loaded = keras.saving.load_model(tmp_path / "together.keras")
    assert_same(loaded.members, together.members, 0)
    loaded.fit(x, y, **QUIET)
    together.fit(x, y, **QUIET)
    assert_same(loaded.members, together.members, 1e-6)


def test_mixed_float16():
    """Each member scales its own loss; steps of one may be skipped."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        together = SideBySide(members(2, metrics=[]))
        x, y = data()
        together.fit(
            x, y, callbacks=[kft.callbacks.SET(update_interval=1)], **QUIET
        )
        if BACKEND == "jax":
            with pytest.raises(ValueError, match=r"`vectorize`.*Received"):
                SideBySide(members(), vectorize=True)
    finally:
        keras.config.set_dtype_policy("float32")
    assert not together.vectorize


def test_an_exception_leaves_nothing_attached():
    def fail(batch, logs):
        raise KilledError

    models = members()
    together = SideBySide(models)
    failing = keras.callbacks.LambdaCallback(on_train_batch_end=fail)
    with pytest.raises(KilledError):
        together.fit(
            *data(), callbacks=[kft.callbacks.RigL(), failing], **QUIET
        )
    assert [model.method for model in models] == [None, None]
    assert np.isfinite(together.predict(data()[0], verbose=0)).all()


def shared_optimizer():
    optimizer = momentum()
    return members(2, optimizer=lambda: optimizer)


def shared_metric():
    metric = keras.metrics.SparseCategoricalAccuracy()
    return members(2, metrics=[metric])


def attached():
    models = members()
    models[1].attach(topology.SET(2))
    return models


def uncompiled():
    first, second = dense_network(0), dense_network(1)
    return [member(0), kft.sparsify(second, 0.5), kft.sparsify(first, 0.5)]


def further_on():
    models = members()
    models[0].train_on_batch(*data(4))
    return models


def unbuilt():
    model = keras.Sequential([layers.Dense(3)])
    sparse = kft.SparseModel()
    sparse.inner = model
    sparse.compile("sgd", "mse")
    return [sparse]


@pytest.mark.parametrize(
    "make, message",
    [
        (list, r"list of one or more SparseModels.*Received: members=\[\]"),
        (lambda: member(0), "list of one or more SparseModels.*Received"),
        (unbuilt, "built. Received: member 0"),
        (uncompiled, "compiled:.*Received: member 1"),
        (attached, "not have a method attached.*Received: member 1 with SET"),
        (
            lambda: [member(0), member(1, lambda s: dense_network(s, 9))],
            "the same architecture. Received: member 1",
        ),
        (
            lambda: [member(0), member(1, lambda s: dense_network(s, 8, 0.1))],
            "the same architecture. Received: member 1",
        ),
        (
            lambda: [member(0), member(1, optimizer=lambda: momentum(0.2))],
            "the same arguments. Received: member 1 with optimizer=",
        ),
        (
            lambda: [member(0), member(1, metrics=[])],
            "the same arguments. Received: member 1 with metrics=",
        ),
        (shared_optimizer, "its own optimizer. Received"),
        (shared_metric, "its own metric. Received"),
        (lambda: 2 * [member(0)], "its own optimizer. Received"),
        (
            further_on,
            r"the same number of steps. Received: members with \[1, 0\]",
        ),
    ],
)
def test_bad_members(make, message):
    with pytest.raises(ValueError, match=f"`members` must.*{message}"):
        SideBySide(make())


def test_bad_arguments(tmp_path):
    together = SideBySide(members())
    with pytest.raises(ValueError, match=r"`method` must.*Received: method=1"):
        together.attach(1)
    with pytest.raises(ValueError, match=r"one by one. Received: method=AGENT"):
        together.attach(topology.AGENT())
    edst = kft.callbacks.EDST(1, 1, directory=tmp_path)
    with pytest.raises(ValueError, match=r"EDST trains one SparseModel.*Rec"):
        together.fit(*data(), epochs=4, callbacks=[edst], **QUIET)
    if BACKEND == "tensorflow":
        with pytest.raises(
            ValueError, match=r"`vectorize`.*Received: vec.*True"
        ):
            SideBySide(members(), vectorize=True)


@pytest.mark.skipif(BACKEND != "jax", reason="about JAX's distributions")
def test_distributions_are_refused():
    together = SideBySide(members())
    devices = keras.distribution.list_devices()[:1]
    spread = keras.distribution.DataParallel(devices=devices)
    keras.distribution.set_distribution(spread)
    try:
        with pytest.raises(ValueError, match=r"one by one. Rec.*DataParallel"):
            together.fit(*data(), **QUIET)
    finally:
        keras.distribution.set_distribution(None)


def test_vectorized_members_have_equally_many_connections():
    if BACKEND != "jax":
        pytest.skip("about vmap")
    denser = kft.sparsify(dense_network(1), 0.3, "uniform", seed=1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    denser.compile(momentum(), loss, metrics=["accuracy"])
    method = topology.SET(2)
    with pytest.raises(
        ValueError, match=r"the same number of connections.*Received"
    ):
        SideBySide([member(0), denser], vectorize=True).attach(method)
    SideBySide([member(0), denser], vectorize=False).attach(method)


def test_batches_for_another_number_of_members():
    together = SideBySide(members(2), member_batches=True)
    x, y = np.ones((8, 3, 6)), np.zeros((8, 3))
    with pytest.raises(ValueError, match="2 entries on its second axis"):
        together.fit(x, y, **QUIET)
    with pytest.raises(ValueError, match=r"of shape \((8|None),\)"):
        together.fit(x[:, :2], y[:, :2], sample_weight=np.ones(8), **QUIET)


def test_a_member_that_is_not_a_sparse_model():
    with pytest.raises(TypeError, match="member 0 is a Sequential"):
        kft.SideBySide([dense_network(0)])
