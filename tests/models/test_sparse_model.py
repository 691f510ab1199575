import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_freetickets as kft
from keras_freetickets import keras_adapter
from keras_freetickets.layers import Sparse
from keras_freetickets.topology import SET
from keras_freetickets.topology import Method
from keras_freetickets.topology import RigL


class Drifting(keras.optimizers.SGD):
    """A user's own, which moves every weight in every step."""

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient, variable, learning_rate)
        self.assign_add(variable, 0.01 + 0 * variable)


optimizers = keras.optimizers
OPTIMIZERS = {
    "sgd": lambda: optimizers.SGD(0.1),
    "momentum": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "decay": lambda: optimizers.SGD(0.1, momentum=0.9, weight_decay=0.01),
    "clipnorm": lambda: optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.1),
    "ema": lambda: optimizers.Adam(use_ema=True, ema_overwrite_frequency=3),
    "accumulated": lambda: optimizers.Adam(gradient_accumulation_steps=2),
    "scaled": lambda: optimizers.LossScaleOptimizer(optimizers.Adam(0.01)),
    "adam": lambda: optimizers.Adam(0.01),
    "amsgrad": lambda: optimizers.Adam(0.01, amsgrad=True),
    "adamw": lambda: optimizers.AdamW(0.01),
    "adagrad": lambda: optimizers.Adagrad(0.01),
    "adadelta": lambda: optimizers.Adadelta(0.01),
    "adamax": lambda: optimizers.Adamax(0.01),
    "adafactor": lambda: optimizers.Adafactor(0.01, epsilon_1=1e-16),
    "ftrl": lambda: optimizers.Ftrl(0.01),
    "lamb": lambda: optimizers.Lamb(0.01),
    "lion": lambda: optimizers.Lion(0.01),
    "muon": lambda: optimizers.Muon(0.01),
    "multi": lambda: optimizers.MultiOptimizer(
        optimizers.OptimizerMap(
            optimizers.Adam(0.01), {".*dense.*": optimizers.SGD(0.1, 0.9)}
        )
    ),
    "nadam": lambda: optimizers.Nadam(0.01),
    "schedule_free": lambda: optimizers.ScheduleFreeAdamW(0.01),
    "rmsprop": lambda: optimizers.RMSprop(0.01, momentum=0.9, centered=True),
    "own": lambda: Drifting(0.1, momentum=0.9),
}


def data(count=48, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(count, 10)).astype("float32")
    return x, generator.integers(0, 3, count)


def network(optimizer="adam", sparsity=0.7, **arguments):
    keras.utils.set_random_seed(1)
    dense = keras.Sequential(
        [
            keras.Input((10,)),
            layers.Dense(20, activation="relu"),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model = kft.sparsify(dense, sparsity, "uniform", seed=2)
    model.compile(optimizer, "sparse_categorical_crossentropy", **arguments)
    return model


def state(model):
    return [
        (r.kernel.numpy().copy(), r.mask.numpy().copy())
        for r in model.masked_kernels
    ]


def check_p1(model):
    records = model.masked_kernels
    kernels = [record.kernel for record in records]
    found = keras_adapter.optimizer_slots(model.optimizer, kernels)
    for record, slots in zip(records, found, strict=True):
        mask = record.mask.numpy()
        assert mask.sum() == record.active
        assert not record.kernel.numpy()[~mask].any()
        for slot, initial in slots:
            off = slot.numpy()[~mask]
            np.testing.assert_array_equal(off, np.float32(initial))


def test_all_optimizers_of_keras_are_tried():
    shipped = {
        kind
        for kind in vars(optimizers).values()
        if isinstance(kind, type)
        and issubclass(kind, optimizers.Optimizer)
        and kind is not optimizers.Optimizer
    }
    assert shipped <= {type(make()) for make in OPTIMIZERS.values()}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_promise_1_after_every_step(name):
    model = network(OPTIMIZERS[name]())
    x, y = data(16)
    model.attach(SET(update_interval=3, drop_fraction=0.4))
    steps = 14 if name == "accumulated" else 7
    for _ in range(steps):
        before = state(model)
        model.train_on_batch(x, y)
        check_p1(model)
    assert int(model.update_state.update_count.numpy()) == 2
    # The last step was none of the topology: all that lives has moved.
    for (kernel, mask), record in zip(
        before, model.masked_kernels, strict=True
    ):
        moved = record.kernel.numpy() != kernel
        assert not moved[~mask].any()
        if name not in ("lion", "accumulated"):
            assert moved[mask].mean() > 0.2  # some units are dead
    # What a callback assigns outside the masks is gone after a step.
    for record in model.masked_kernels:
        record.kernel.assign(np.ones(record.kernel.shape))
    model.train_on_batch(x, y)
    check_p1(model)


class AssignOnce(keras.callbacks.Callback):
    """Makes all kernels dense after an epoch's first call of the step."""

    def __init__(self):
        super().__init__()
        self.strays = []

    def on_train_batch_end(self, batch, logs=None):
        records = self.model.masked_kernels
        self.strays.append(
            sum(
                np.count_nonzero(r.kernel.numpy()[~r.mask.numpy()])
                for r in records
            )
        )
        if len(self.strays) == 1:
            for record in records:
                record.kernel.assign(np.ones(record.kernel.shape))


def test_a_callback_that_assigns_to_weights_once():
    x, y = data(48)
    model = network(optimizers.SGD(0.1, use_ema=True), steps_per_execution=2)
    callback = AssignOnce()
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[callback])
    assert callback.strays == [0, 0, 0]
    check_p1(model)


def test_weights_that_were_set_are_cleared():
    """A restored checkpoint leaves slots behind, or dense kernels."""
    model = network("adam")
    x, y = data(16)
    model.fit(x, y, verbose=0)
    for record in model.masked_kernels:
        kernels = [record.kernel]
        (slots,) = keras_adapter.optimizer_slots(model.optimizer, kernels)
        for variable in [record.kernel, *(slot for slot, _ in slots)]:
            variable.assign(np.ones(variable.shape))
    model.attach(SET(update_interval=100))
    check_p1(model)


@pytest.mark.parametrize("name", ["Adagrad", "Ftrl", "Adam"])
def test_initial_values_of_slots_are_those_of_a_fresh_optimizer(name):
    model = network(name)
    model.optimizer.build(model.trainable_variables)
    kernels = [record.kernel for record in model.masked_kernels]
    for slots in keras_adapter.optimizer_slots(model.optimizer, kernels):
        for slot, initial in slots:
            np.testing.assert_array_equal(slot.numpy(), np.float32(initial))


def numpy_gradients(weights, x, y):
    """Gradients of the kernels of `network`, by hand."""
    values = [w for w in weights if w.dtype == np.float32 and w.ndim]
    (w1, b1, w2, b2) = values[:4]
    hidden = x @ w1 + b1
    active = np.maximum(hidden, 0)
    scores = active @ w2 + b2
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    error = (shares - np.eye(3, dtype="float32")[y]) / len(x)
    return x.T @ ((error @ w2.T) * (hidden > 0)), active.T @ error


@pytest.mark.parametrize("growth", ["gradient", "random"])
def test_a_step_against_numpy(growth):
    """Kernels, masks and momentum of one update against an oracle."""
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    model = network(optimizer)
    x, y = data(16)
    gradients = numpy_gradients(model.get_weights(), x, y)
    before = state(model)
    model.attach(Method(update_interval=1, drop_fraction=0.4, growth=growth))
    model.train_on_batch(x, y)
    kernels = [record.kernel for record in model.masked_kernels]
    slots = keras_adapter.optimizer_slots(optimizer, kernels)
    for record, (kernel, mask), gradient, found in zip(
        model.masked_kernels, before, gradients, slots, strict=True
    ):
        moved = np.where(mask, kernel - 0.1 * gradient, 0)
        k = int(np.ceil(0.4 * mask.sum()))
        order = np.argsort(np.where(mask, np.abs(moved), np.inf).ravel())
        kept = mask.copy().ravel()
        kept[order[:k]] = False
        new = record.mask.numpy()
        assert (new.ravel() >= kept).all() and new.sum() == mask.sum()
        if growth == "gradient":
            score = np.where(kept, -1, np.abs(gradient).ravel())
            kept[np.argsort(-score)[:k]] = True
            np.testing.assert_array_equal(new.ravel(), kept)
        alive = new & mask
        np.testing.assert_allclose(
            record.kernel.numpy(), np.where(alive, moved, 0), atol=1e-6
        )
        np.testing.assert_allclose(
            found[0][0].numpy(), np.where(alive, -0.1 * gradient, 0), atol=1e-6
        )


def test_rigl_leaves_weights_alone_in_an_update():
    model = network("sgd")
    x, y = data(16)
    model.attach(RigL(update_interval=1, drop_fraction=0.4))
    # The first step makes an optimizer update due; the second spends its
    # batch on the topology.
    model.train_on_batch(x, y)
    before = state(model)
    model.train_on_batch(x, y)
    assert int(model.optimizer.iterations.numpy()) == 1
    for record, (kernel, mask) in zip(
        model.masked_kernels, before, strict=True
    ):
        new = record.mask.numpy()
        expected = np.where(new & mask, kernel, 0)
        np.testing.assert_array_equal(record.kernel.numpy(), expected)
    assert int(model.update_state.update_count.numpy()) == 1


def test_updates_come_at_the_interval_and_stop():
    model = network("sgd")
    x, y = data(8)
    model.attach(SET(update_interval=3, stop_step=7))
    counts = []
    for _ in range(12):
        model.train_on_batch(x, y)
        counts.append(int(model.update_state.update_count.numpy()))
    assert counts == [0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2]


def test_a_gradient_that_is_not_finite_postpones_the_update():
    model = network("sgd")
    x, y = data(8)
    bad = x.copy()
    bad[0, 0] = np.inf
    model.attach(SET(update_interval=2))
    masks = [mask for _, mask in state(model)]
    model.train_on_batch(x, y)
    weights = model.get_weights()
    model.train_on_batch(bad, y)
    for (_, new), old in zip(state(model), masks, strict=True):
        np.testing.assert_array_equal(new, old)
    assert int(model.update_state.update_count.numpy()) == 0
    model.set_weights(weights)  # the optimizer took the NaN, as Keras does
    model.train_on_batch(x, y)
    assert int(model.update_state.update_count.numpy()) == 1


def test_promise_7_without_masks_it_is_dense_training():
    x, y = data()
    histories = []
    for sparse in (False, True):
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [keras.Input((10,)), layers.Dense(8), layers.Dense(3, "softmax")]
        )
        if sparse:
            model = kft.sparsify(model, 0.0)
        model.compile("adam", "sparse_categorical_crossentropy")
        history = model.fit(x, y, batch_size=8, epochs=3, verbose=0)
        histories.append(history.history["loss"])
    np.testing.assert_allclose(*histories, rtol=1e-6)


def after_updates(**options):
    x, y = data()
    model = network("sgd", **options)
    callback = kft.callbacks.SET(update_interval=3)
    model.fit(
        x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[callback]
    )
    assert int(model.update_state.update_count.numpy()) == 2
    return state(model)


@pytest.fixture(scope="module")
def after_plain_updates():
    return after_updates()


@pytest.mark.parametrize(
    "arguments",
    [
        {"jit_compile": True},
        {"steps_per_execution": 3},
        {"steps_per_execution": 4},  # of 6 batches: the last call runs two
        {"run_eagerly": True},
    ],
)
def test_compile_options_change_nothing(arguments, after_plain_updates):
    for (kernel, mask), (other_kernel, other_mask) in zip(
        after_plain_updates, after_updates(**arguments), strict=True
    ):
        np.testing.assert_array_equal(mask, other_mask)
        np.testing.assert_allclose(kernel, other_kernel, atol=1e-6)


def test_the_step_returns_the_metrics_alone():
    """With other keys Keras would not ask the metrics for the epoch's logs."""
    model = network("sgd", metrics=["accuracy"])
    model.attach(SET(update_interval=1))
    logs = model.train_on_batch(*data(16), return_dict=True)
    assert set(logs) == {"loss", "accuracy"}


def test_a_loss_with_a_state_of_its_own():
    """`compute_loss` knows the mode and may write variables of the model."""

    class Counting(kft.SparseModel):
        def __init__(self):
            super().__init__()
            self.hidden = Sparse(layers.Dense(12, activation="relu"), 0.5)
            self.head = layers.Dense(3, activation="softmax")
            self.counter = layers.Layer()
            self.counter.steps = self.counter.add_weight(
                shape=(), initializer="zeros", trainable=False
            )

        def call(self, inputs):
            return self.head(self.hidden(inputs))

        def compute_loss(self, *args, training=True, **kwargs):
            if training:
                self.counter.steps.assign_add(1.0)
            return super().compute_loss(*args, training=training, **kwargs)

    x, y = data()
    model = Counting()
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=8, verbose=0)
    model.evaluate(x, y, verbose=0)
    assert float(model.counter.steps.numpy()) == 6


def test_first_step_of_a_connection_that_adam_meets_late():
    """About (1 - b1) / sqrt(1 - b2) = 3.2 times the rate, as the guide says."""
    model = network(keras.optimizers.Adam(0.01, epsilon=1e-12))
    x, y = data(16)
    model.train_on_batch(x, y)
    model.optimizer.iterations.assign(100_000)
    model.attach(Method(update_interval=100_000, drop_fraction=0.4))
    model.update_state.next_update.assign(100_001)
    before = [mask for _, mask in state(model)]
    model.train_on_batch(x, y)
    assert int(model.update_state.update_count.numpy()) == 1
    model.train_on_batch(x, y)
    sizes = []
    for record, mask in zip(model.masked_kernels, before, strict=True):
        grown = record.mask.numpy() & ~mask
        sizes += list(np.abs(record.kernel.numpy()[grown]))
    # Those that a unit without a gradient holds do not move.
    moved = [size for size in sizes if size > 1e-4]
    assert len(moved) > len(sizes) / 2
    np.testing.assert_allclose(moved, 0.01 * 0.1 / 0.001**0.5, rtol=0.01)


def test_averaged_weights_are_projected():
    model = network(keras.optimizers.SGD(0.1, use_ema=True))
    x, y = data()
    callback = kft.callbacks.SET(update_interval=2)
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[callback])
    check_p1(model)


def test_early_stopping_restores_masks_with_kernels():
    model = network()
    x, y = data()
    stop = keras.callbacks.EarlyStopping(
        "loss", patience=0, mode="max", restore_best_weights=True
    )
    callback = kft.callbacks.SET(update_interval=1)
    model.fit(x, y, epochs=3, verbose=0, callbacks=[callback, stop])
    check_p1(model)
    model.fit(x, y, verbose=0)
    check_p1(model)


def test_second_fit_with_another_method_or_none():
    model = network("sgd")
    x, y = data()

    def changed(callbacks):
        before = state(model)
        model.fit(x, y, batch_size=8, verbose=0, callbacks=callbacks)
        return any(
            (b != r.mask.numpy()).any()
            for (_, b), r in zip(before, model.masked_kernels, strict=True)
        )

    assert changed([kft.callbacks.SET(update_interval=1)])
    assert not changed([])
    assert changed([kft.callbacks.SET(update_interval=1)])
    assert not changed([kft.callbacks.SET(update_interval=100)])
    assert model.method is None


def test_gradients_at_leaves_no_trace():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    x = layers.Dense(6, name="a")(inputs)
    x = layers.BatchNormalization()(layers.Dropout(0.5)(x))
    model = kft.sparsify(keras.Model(inputs, layers.Dense(1)(x)), 0.5)
    model.compile("sgd", "mse")
    x, y = np.ones((8, 4), "float32"), np.zeros((8, 1), "float32")
    before = [v.numpy().copy() for v in model.variables]
    seeds = [s.numpy().copy() for s in keras_adapter.seed_states(model)]
    kernels = [keras.ops.zeros(r.kernel.shape) for r in model.masked_kernels]
    gradients = model.gradients_at(kernels, x, y)
    assert [g.shape for g in gradients] == [k.shape for k in kernels]
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())
    for old, variable in zip(
        seeds, keras_adapter.seed_states(model), strict=True
    ):
        np.testing.assert_array_equal(old, variable.numpy())


class Own(kft.SparseModel):
    def __init__(self):
        super().__init__()
        self.first = Sparse(layers.Dense(20, activation="relu"), 0.5)
        self.second = Sparse(layers.Dense(3, activation="softmax"), 0.5)

    def call(self, inputs):
        return self.second(self.first(inputs))


def test_a_model_of_the_users_own_class():
    model = Own()
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = data()
    callback = kft.callbacks.SET(update_interval=2)
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[callback])
    check_p1(model)
    assert model.density == 0.5
    assert int(model.update_state.update_count.numpy()) == 3


def test_frozen_layers_rest():
    model = network("sgd")
    model.sparse_layers[0].trainable = False
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = state(model)
    x, y = data()
    callback = kft.callbacks.SET(update_interval=1)
    model.fit(x, y, verbose=0, callbacks=[callback])
    np.testing.assert_array_equal(
        before[0][1], model.masked_kernels[0].mask.numpy()
    )
    assert (before[1][1] != model.masked_kernels[1].mask.numpy()).any()


def test_mixed_float16():
    inputs = keras.Input((10,))
    policy = "mixed_float16"
    x = layers.Dense(20, dtype=policy)(inputs)
    x = layers.Dense(3, activation="softmax", dtype=policy)(x)
    model = kft.sparsify(keras.Model(inputs, x), 0.7)
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1, momentum=0.9), initial_scale=2.0**40
    )
    model.compile(optimizer, "sparse_categorical_crossentropy")
    x, y = data()
    model.attach(SET(update_interval=1))
    model.train_on_batch(x, y)
    # The scale overflows float16: neither weights nor masks move.
    assert int(model.update_state.update_count.numpy()) == 0
    for _ in range(60):
        model.train_on_batch(x, y)
    assert int(model.update_state.update_count.numpy()) > 0
    check_p1(model)


def test_save_and_resume(tmp_path):
    model = network()
    x, y = data()
    callback = kft.callbacks.SET(update_interval=2)
    model.fit(x, y, verbose=0, batch_size=8, callbacks=[callback])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    other = network(sparsity=0.7)
    other.load_weights(tmp_path / "model.weights.h5")
    for again in (loaded, other):
        for (kernel, mask), (k, m) in zip(
            state(model), state(again), strict=True
        ):
            np.testing.assert_array_equal(kernel, k)
            np.testing.assert_array_equal(mask, m)
    assert int(loaded.update_state.update_count.numpy()) == 3
    losses = [m.train_on_batch(x, y) for m in (model, loaded)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


def test_attach_needs_a_compiled_model():
    dense = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    with pytest.raises(ValueError, match="must be compiled"):
        kft.sparsify(dense, 0.5).attach(SET())


def test_arguments_of_a_wrong_type_or_number():
    model = network()
    for method in ("rigl", RigL, None):
        with pytest.raises(ValueError, match="`method` must be a"):
            model.attach(method)
    with pytest.raises(ValueError, match="`gradients` must have 4 entries"):
        model.apply_gradients([])
    with pytest.raises(ValueError, match="`gradients` must have 4 entries"):
        model.stateless_apply([], [], [], [])
    with pytest.raises(ValueError, match="`kernels` must have 2 tensors"):
        model.gradients_at([], *data())
    model.sparse_layers[0].trainable = False
    frozen = model.masked_kernels[0].name
    with pytest.raises(ValueError, match=rf"frozen kernels \['{frozen}'\]"):
        model.gradients_at([r.kernel for r in model.masked_kernels], *data())
    dense = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    with pytest.raises(ValueError, match="must be compiled"):
        kft.sparsify(dense, 0.5).apply_gradients([])


@pytest.mark.parametrize("method", [RigL, SET])
def test_nothing_to_update_is_no_reason_to_stop_training(method):
    x, y = data()
    model = network("sgd", sparsity=0.0)
    callback = kft.callbacks.DropAndGrow(method(update_interval=2))
    before = model.get_weights()
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[callback])
    assert int(model.optimizer.iterations.numpy()) == 6
    assert any(
        (a != b).any() for a, b in zip(before, model.get_weights(), strict=True)
    )


def test_an_exception_in_fit_leaves_no_method_behind():
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    model = network()
    x, y = data()
    callbacks = [kft.callbacks.SET(update_interval=1), Stop()]
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, epochs=2, verbose=0, callbacks=callbacks)
    assert model.method is None
    masks = [mask for _, mask in state(model)]
    model.fit(x, y, verbose=0)
    for old, (_, new) in zip(masks, state(model), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("method", [Method, RigL])
def test_accumulated_gradients(method):
    """Growth sees the mean gradient of the micro-batches of an update."""
    optimizer = keras.optimizers.SGD(
        0.1, momentum=0.9, gradient_accumulation_steps=3
    )
    model = network(optimizer)
    model.attach(method(update_interval=1, drop_fraction=0.4))
    x, y = data(24)
    batches = [(x[i : i + 8], y[i : i + 8]) for i in range(0, 24, 8)]
    if method is RigL:  # its first update is due after one of the optimizer
        for batch in batches:
            model.train_on_batch(*batch)
    before = state(model)
    gradients = numpy_gradients(model.get_weights(), x, y)
    counts = []
    for batch in batches:
        model.train_on_batch(*batch)
        counts.append(int(model.update_state.update_count.numpy()))
        check_p1(model)
    assert counts == [0, 0, 1]
    for record, (kernel, mask), gradient in zip(
        model.masked_kernels, before, gradients, strict=True
    ):
        moved = kernel
        if method is Method:
            moved = np.where(mask, kernel - 0.1 * gradient, 0)
        share = 0.4 * mask.sum()
        k = int(np.ceil(share) if method is Method else np.floor(share))
        order = np.argsort(np.where(mask, np.abs(moved), np.inf).ravel())
        expected = mask.copy().ravel()
        expected[order[:k]] = False
        score = np.where(expected, -1, np.abs(gradient).ravel())
        expected[np.argsort(-score)[:k]] = True
        np.testing.assert_array_equal(record.mask.numpy().ravel(), expected)
        alive = record.mask.numpy() & mask
        np.testing.assert_allclose(
            record.kernel.numpy(), np.where(alive, moved, 0), atol=1e-6
        )
    # The window after an update begins with nothing in it.
    for batch in batches:
        model.train_on_batch(*batch)
        counts.append(int(model.update_state.update_count.numpy()))
    assert counts[3:] == ([1, 1, 2] if method is Method else [1, 1, 1])


def test_loaded_masks_decide_what_is_updated(tmp_path):
    donor = network("sgd", sparsity=0.5)
    donor.save_weights(tmp_path / "w.weights.h5")
    model = network("sgd", sparsity=0.0)
    model.load_weights(tmp_path / "w.weights.h5")
    model.attach(SET(update_interval=1))
    model.train_on_batch(*data(8))
    assert int(model.update_state.update_count.numpy()) == 1
    check_p1(model)


@pytest.mark.parametrize("method", [RigL(), SET()])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_byte_a_weight_beyond_the_dense_model(method, optimizer):
    """All variables of model and optimizer, after an update."""

    def trained(model):
        model.compile(optimizer, "mse", jit_compile=False)
        if isinstance(model, kft.SparseModel):
            model.attach(method)
            model.update_state.next_update.assign(0)
        model.train_on_batch(np.ones((2, 10)), np.ones((2, 3)))
        variables = [*model.variables, *model.optimizer.variables]
        return sum(ops.convert_to_numpy(v.value).nbytes for v in variables)

    dense = keras.Sequential(
        [keras.Input((10,)), layers.Dense(20), layers.Dense(3)]
    )
    sparse = kft.sparsify(dense, 0.5)
    counters = 6 * 4
    assert trained(sparse) == trained(dense) + 10 * 20 + 20 * 3 + counters
    assert (
        int(ops.convert_to_numpy(sparse.update_state.update_count.value)) == 1
    )


def test_methods_come_and_go_between_the_epochs_of_a_fit():
    model = network()
    masks = []

    class Change(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.attach(SET(2, 0.5))
            if epoch == 2:
                self.model.detach()

        def on_epoch_end(self, epoch, logs=None):
            keras_adapter.synchronize(self.model)
            masks.append([np.array(c.mask) for c in self.model.masked_kernels])

    x, y = data(16)
    model.fit(x, y, batch_size=4, epochs=3, verbose=0, callbacks=[Change()])
    first, second, third = (
        np.concatenate([m.ravel() for m in one]) for one in masks
    )
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(second, third)
    assert int(model.update_state.update_count.numpy()) == 2


def test_weights_outside_the_masks_at_the_end_of_fit_are_told(recwarn):
    class Assign(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            (record, *_) = self.model.masked_kernels
            record.kernel.assign(np.ones(record.kernel.shape))

    model = network()
    x, y = data(16)
    model.fit(x, y, verbose=0)
    assert not [w for w in recwarn if "outside the masks" in str(w.message)]
    # 30 % of 10 x 20 weights are active.
    with pytest.warns(UserWarning, match="outside the masks.*/kernel': 140}"):
        model.fit(x, y, verbose=0, callbacks=[Assign()])
    check_p1(model)


class Attending(kft.SparseModel):
    """A class of one's own with layers that are built in several ways."""

    def __init__(self):
        super().__init__()
        self.attention = Sparse(layers.MultiHeadAttention(2, 4), 0.5, seed=0)
        self.recurrent = Sparse(layers.GRU(4), 0.5, seed=1)
        self.head = layers.Dense(3)

    def call(self, x):
        return self.head(self.recurrent(self.attention(x, x)))


BUILDS = {
    "build": lambda model: model.build((None, 5, 8)),
    "input": lambda model: model(keras.Input((5, 8))),
    "symbolic_call": lambda model: model.symbolic_call(keras.Input((5, 8))),
    "call": lambda model: model(np.ones((2, 5, 8), "float32")),
}


@pytest.mark.parametrize("way", BUILDS)
def test_own_classes_may_be_built_before_fit(way):
    model = Attending()
    BUILDS[way](model)
    assert [layer.built for layer in model.sparse_layers] == [True, True]
    assert len(model.masked_kernels) == 6 and model.density == 0.5
    if way == "build":
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
        model.fit(np.ones((4, 5, 8)), np.ones((4, 3)), verbose=0)
        assert model.density == 0.5
    check_zero_outside(model)


def check_zero_outside(model):
    for kernel, mask in state(model):
        assert kernel[mask].all() and not kernel[~mask].any()


@pytest.mark.parametrize(
    "method",
    [
        kft.topology.DSTEE(),
        kft.topology.GraNet(0.9, 1000),
        kft.topology.AGENT(),
    ],
    ids=lambda method: type(method).__name__,
)
def test_methods_that_begin_with_kernels_need_built_ones(method):
    model = Attending()
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="must be built before"):
        model.attach(method)
    model.build((None, 5, 8))
    model.attach(method)
    assert model.method is method


def test_a_built_class_of_ones_own_loads_weights(tmp_path):
    path = tmp_path / "own.weights.h5"
    model, other = Attending(), Attending()
    model.build((None, 5, 8))
    model.save_weights(path)
    other.build((None, 5, 8))
    other.load_weights(path)
    for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_graph_is_built_already():
    model = network()
    model.build((None, 10))
    assert model.built and len(model.masked_kernels) == 2
