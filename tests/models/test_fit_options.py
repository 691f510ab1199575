"""What `compile` and `fit` can do, with a topology that changes meanwhile.

`test_sparse_model.py` holds what a step does; here is what comes around it.
"""

import functools

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_freetickets as kft
from keras_freetickets import keras_adapter
from keras_freetickets.topology import Method
from keras_freetickets.trainers.step import forward_kernels

LOSS = "sparse_categorical_crossentropy"


def data(count=16, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(count, 10)).astype("float32")
    return x, generator.integers(0, 3, count)


def dense(dtype=None):
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((10,)),
            layers.Dense(20, activation="relu", dtype=dtype, name="hidden"),
            layers.Dense(3, activation="softmax", dtype=dtype, name="head"),
        ]
    )


def network(optimizer="sgd", loss=LOSS, dtype=None, **arguments):
    model = kft.sparsify(dense(dtype), 0.7, "uniform", seed=2)
    model.compile(optimizer, loss, **arguments)
    return model


def masks_of(model):
    return [ops.convert_to_numpy(r.mask.value) for r in model.masked_kernels]


def kernels_of(model):
    return [ops.convert_to_numpy(r.kernel.value) for r in model.masked_kernels]


def check_p1(model):
    records = model.masked_kernels
    kernels = [record.kernel for record in records]
    found = keras_adapter.optimizer_slots(model.optimizer, kernels)
    for record, slots in zip(records, found, strict=True):
        mask = ops.convert_to_numpy(record.mask.value)
        assert mask.sum() == record.active
        for variable, initial in [(record.kernel, 0.0), *slots]:
            off = ops.convert_to_numpy(variable.value)[~mask]
            np.testing.assert_array_equal(off.astype("float32"), initial)


def changed(before, model):
    return [
        bool((a != b).any())
        for a, b in zip(before, masks_of(model), strict=True)
    ]


def gradients_by_hand(model, x, y, weights=None, l2=0.0):
    """NumPy: of the weighted mean cross-entropy plus l2 * mean(hidden^2)."""
    names = ("hidden", "head")
    layer = {n: model.get_layer(n).layer for n in names}
    (w1, b1), (w2, b2) = [
        [v.numpy() for v in (layer[n].kernel, layer[n].bias)] for n in names
    ]
    weights = np.ones(len(x)) if weights is None else weights
    before = x @ w1 + b1
    hidden = np.maximum(before, 0)
    scores = hidden @ w2 + b2
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    error = (shares - np.eye(3)[y]) * weights[:, None] / len(x)
    back = error @ w2.T + l2 * 2 * hidden / hidden.size
    return x.T @ (back * (before > 0)), hidden.T @ error


def masks_by_hand(model, gradients, fraction, rate=0.0):
    """Drop by magnitude after a plain step of SGD, grow by gradient."""
    new = []
    for kernel, mask, gradient in zip(
        kernels_of(model), masks_of(model), gradients, strict=True
    ):
        moved = np.where(mask, kernel - rate * gradient, 0)
        count = int(np.ceil(fraction * mask.sum()))
        kept = mask.copy().ravel()
        order = np.argsort(np.where(mask, np.abs(moved), np.inf).ravel())
        kept[order[:count]] = False
        score = np.where(kept, -1, np.abs(gradient).ravel())
        kept[np.argsort(-score)[:count]] = True
        new.append(kept.reshape(mask.shape))
    return new


def check_masks(model, expected):
    for mask, other in zip(masks_of(model), expected, strict=True):
        np.testing.assert_array_equal(mask, other)


def any_method(update_interval):
    """The one whose update the other tests compile already."""
    return kft.callbacks.DropAndGrow(Method(update_interval, 0.4))


def one_update(rate=0.0):
    return network(keras.optimizers.SGD(rate)), Method(1, 0.4)


@pytest.mark.parametrize("kind", ["sample", "class"])
def test_growth_sees_the_weighted_gradient(kind):
    x, y = data()
    model, method = one_update(0.05)
    by_class = {0: 0.1, 1: 5.0, 2: 1.0}
    weights = np.array([by_class[label] for label in y])
    plain = masks_by_hand(model, gradients_by_hand(model, x, y), 0.4, 0.05)
    gradients = gradients_by_hand(model, x, y, weights)
    expected = masks_by_hand(model, gradients, 0.4, 0.05)
    assert any((a != b).any() for a, b in zip(plain, expected, strict=True))
    given = {"class_weight": by_class}
    if kind == "sample":
        given = {"sample_weight": weights.astype("float32")}
    model.fit(
        x,
        y,
        batch_size=16,
        verbose=0,
        callbacks=[kft.callbacks.DropAndGrow(method)],
        **given,
    )
    check_masks(model, expected)


class Penalty(layers.Layer):
    """Adds 3 * mean(inputs^2) to the loss."""

    def call(self, inputs):
        self.add_loss(3.0 * ops.mean(ops.square(inputs)))
        return inputs


def test_growth_sees_added_and_custom_losses():
    def doubled(y_true, y_pred):
        return 2.0 * keras.losses.sparse_categorical_crossentropy(
            y_true, y_pred
        )

    x, y = data()
    inputs = keras.Input((10,))
    parts = dense()
    hidden = Penalty()(parts.get_layer("hidden")(inputs))
    outputs = parts.get_layer("head")(hidden)
    model = kft.sparsify(keras.Model(inputs, outputs), 0.7, "uniform", seed=2)
    model.compile(keras.optimizers.SGD(0.0), doubled)
    model.attach(Method(1, 0.4))
    weights = np.full(len(x), 2.0)
    gradients = gradients_by_hand(model, x, y, weights, l2=3.0)
    expected = masks_by_hand(model, gradients, 0.4)
    without = gradients_by_hand(model, x, y, weights)
    assert (masks_by_hand(model, without, 0.4)[0] != expected[0]).any()
    model.train_on_batch(x, y)
    check_masks(model, expected)


@pytest.mark.parametrize(
    "clip", [{"clipnorm": 0.01}, {"global_clipnorm": 0.01}, {"clipvalue": 1e-3}]
)
def test_clipping_sees_the_masked_gradient(clip):
    """Growth sees what was not clipped; the step is that of a masked one."""
    x, y = data()
    model = network(keras.optimizers.SGD(0.5, **clip))
    masks, kernels = masks_of(model), kernels_of(model)
    gradients = gradients_by_hand(model, x, y)
    model.train_on_batch(x, y)  # no method: nothing but the step
    masked = [np.where(m, g, 0) for m, g in zip(masks, gradients, strict=True)]
    if "clipvalue" in clip:
        clipped = [np.clip(g, -1e-3, 1e-3) for g in masked]
    elif "clipnorm" in clip:
        norms = [np.sqrt(np.sum(g**2)) for g in masked]
        clipped = [
            g * min(1, 0.01 / n) for g, n in zip(masked, norms, strict=True)
        ]
    if "global_clipnorm" not in clip:
        for before, after, gradient in zip(
            kernels, kernels_of(model), clipped, strict=True
        ):
            np.testing.assert_allclose(
                after, before - 0.5 * gradient, atol=1e-6
            )
    moved = [
        (b - a) / 0.5 for a, b in zip(kernels_of(model), kernels, strict=True)
    ]
    whole = np.sqrt(sum(np.sum(g**2) for g in moved))
    assert 0 < whole <= 0.01 * np.sqrt(2) + 1e-6 or "clipvalue" in clip
    # The mask of an update is that of gradients as they came.
    gradients = gradients_by_hand(model, x, y)
    model.optimizer.learning_rate = 0.0
    expected = masks_by_hand(model, gradients, 0.4)
    model.attach(Method(1, 0.4))
    model.train_on_batch(x, y)
    check_masks(model, expected)


def test_weight_decay_is_that_of_the_active_weights():
    model = network(keras.optimizers.SGD(0.1, weight_decay=0.5))
    x, y = data()
    masks, kernels = masks_of(model), kernels_of(model)
    gradients = gradients_by_hand(model, x, y)
    model.train_on_batch(x, y)
    for kernel, new, mask, gradient in zip(
        kernels, kernels_of(model), masks, gradients, strict=True
    ):
        # Decoupled, as Keras does it: w - 0.1 * 0.5 w, then the step.
        expected = kernel * (1 - 0.05) - 0.1 * np.where(mask, gradient, 0)
        np.testing.assert_allclose(new, expected, atol=1e-6)
    check_p1(model)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "bfloat16"])
def test_bfloat16(dtype):
    model = network("adam", dtype=dtype)
    x, y = data(48)
    before = masks_of(model)
    callback = kft.callbacks.DropAndGrow(Method(2, 0.4))
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[callback])
    kind = "bfloat16" if dtype == "bfloat16" else "float32"
    assert {r.kernel.dtype for r in model.masked_kernels} == {kind}
    assert changed(before, model) == [True, True]
    assert int(model.update_state.update_count.numpy()) == 3
    check_p1(model)


def test_float16_scaling_changes_no_choice():
    """Growth by gradients of a loss times 2^10 is growth by gradients."""
    x, y = data()
    results = []
    for factor in (None, 1024.0):
        optimizer = keras.optimizers.SGD(0.05, loss_scale_factor=factor)
        model = network(optimizer)
        model.attach(Method(1, 0.4))
        for _ in range(4):
            model.train_on_batch(x, y)
        results.append(model)
    check_masks(results[1], masks_of(results[0]))
    for mine, other in zip(*map(kernels_of, results), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-6)


def test_several_inputs_and_outputs():
    keras.utils.set_random_seed(0)
    a, b = keras.Input((6,), name="a"), keras.Input((4,), name="b")
    hidden = layers.Dense(12, activation="relu", name="hidden")(
        layers.Concatenate()([a, b])
    )
    unused = layers.Dense(2, name="unused")(b)  # no loss reaches it
    outputs = {
        "class": layers.Dense(3, activation="softmax", name="class")(hidden),
        "value": layers.Dense(1, name="value")(hidden),
        "unused": unused,
    }
    model = kft.sparsify(keras.Model({"a": a, "b": b}, outputs), 0.5, "uniform")
    model.compile(
        "adam",
        {"class": LOSS, "value": "mse", "unused": None},
        loss_weights={"class": 1.0, "value": 0.5, "unused": 0.0},
    )
    x = {"a": np.ones((16, 6)), "b": np.arange(64).reshape(16, 4) / 64}
    y = {"class": np.arange(16) % 3, "value": np.arange(16.0)[:, None]}
    y["unused"] = np.zeros((16, 2))
    before = dict(
        zip(
            [r.name for r in model.masked_kernels], masks_of(model), strict=True
        )
    )
    callback = kft.callbacks.SET(1)
    model.fit(x, y, epochs=3, verbose=0, callbacks=[callback])
    check_p1(model)
    for record in model.masked_kernels:
        same = (before[record.name] == record.mask.numpy()).all()
        # JAX knows no gradient that is missing, only one that is 0.
        rests = keras.backend.backend() == "tensorflow"
        assert same == (rests and record.name.startswith("unused"))


def test_a_layer_frozen_after_compile_rests():
    """Compiled anew, as Keras asks for and JAX' optimizer insists, or not."""
    model = network("adam")
    x, y = data()
    model.fit(x, y, verbose=0)
    model.get_layer("hidden").trainable = False
    if keras.backend.backend() == "jax":
        model.compile("adam", LOSS)
    masks, kernels = masks_of(model), kernels_of(model)
    callback = kft.callbacks.SET(1)
    model.fit(x, y, epochs=2, verbose=0, callbacks=[callback])
    assert changed(masks, model) == [False, True]
    np.testing.assert_array_equal(kernels[0], kernels_of(model)[0])
    model.get_layer("hidden").trainable = True
    model.compile("adam", LOSS)
    model.fit(x, y, epochs=2, verbose=0, callbacks=[kft.callbacks.SET(1)])
    assert changed(masks, model) == [True, True]
    check_p1(model)


class Looks(keras.callbacks.Callback):
    """Sees whether kernels are zero outside their masks where others look."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def look(self):
        for record in self.model.masked_kernels:
            kernel = ops.convert_to_numpy(record.kernel.value)
            mask = ops.convert_to_numpy(record.mask.value)
            assert not kernel[~mask].any()
        self.seen.append(float(np.abs(kernel).sum()))

    def on_epoch_end(self, epoch, logs=None):
        self.look()

    def on_test_begin(self, logs=None):
        self.look()


def test_swapped_averages_are_sparse():
    optimizer = keras.optimizers.SGD(0.3, use_ema=True, ema_momentum=0.9)
    model = network(optimizer)
    x, y = data(48)
    look = Looks()
    model.fit(
        x,
        y,
        batch_size=8,
        epochs=3,
        verbose=0,
        validation_data=(x, y),
        callbacks=[
            any_method(2),
            keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
            look,
        ],
    )
    assert len(look.seen) == 6
    check_p1(model)
    assert int(model.update_state.update_count.numpy()) == 9


def test_early_stopping_brings_masks_back():
    """The best epoch's masks come with its kernels, after which it trains."""
    model = network("adam")
    x, y = data(48)
    kept = []

    class Worse(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["worse"] = float(epoch)
            kept.append((masks_of(self.model), kernels_of(self.model)))

    stopping = keras.callbacks.EarlyStopping(
        "worse", patience=1, mode="min", restore_best_weights=True
    )
    callbacks = [any_method(1), Worse(), stopping]
    model.fit(x, y, epochs=5, verbose=0, callbacks=callbacks)
    assert len(kept) == 2
    masks, kernels = kept[0]
    assert any((a != b).any() for a, b in zip(masks, kept[1][0], strict=True))
    check_masks(model, masks)
    for mine, other in zip(kernels_of(model), kernels, strict=True):
        np.testing.assert_array_equal(mine, other)
    model.fit(x, y, verbose=0)
    check_p1(model)


def test_callbacks_that_set_the_rate():
    model = network(keras.optimizers.SGD(0.1, momentum=0.9))
    x, y = data(48)
    rates = []

    class Note(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["flat"] = 1.0
            rates.append(float(logs["learning_rate"]))

    model.fit(
        x,
        y,
        epochs=5,
        verbose=0,
        callbacks=[
            any_method(1),
            keras.callbacks.LearningRateScheduler(
                lambda epoch, rate: 0.2 if epoch == 0 else rate
            ),
            Note(),
            keras.callbacks.ReduceLROnPlateau(
                "flat", factor=0.5, patience=1, min_delta=0, mode="min"
            ),
        ],
    )
    # Best at epoch 0; each later epoch is worse by patience and halves it.
    np.testing.assert_allclose(rates, [0.2, 0.2, 0.1, 0.05, 0.025], rtol=1e-6)
    assert int(model.update_state.update_count.numpy()) == 10
    check_p1(model)


@pytest.mark.parametrize("method", ["RigL", "SET"])
def test_gradients_that_are_not_finite_change_no_mask(method):
    x, y = data(48)
    model = network("sgd")
    before, weights = masks_of(model), model.get_weights()
    for bad in (np.nan, np.inf):
        model.set_weights(weights)
        x[:, 0] = bad
        callback = getattr(kft.callbacks, method)(1)
        model.fit(x, y, batch_size=8, verbose=0, callbacks=[callback])
        assert int(model.update_state.update_count.numpy()) == 0
        assert changed(before, model) == [False, False]


def run(accumulated, **options):
    """A model after 14 steps with RigL."""
    x, y = data(56)  # seven batches; four at a time leave three
    optimizer = keras.optimizers.SGD(
        0.1, momentum=0.9, gradient_accumulation_steps=accumulated
    )
    model = network(optimizer, **options)
    model.fit(
        x,
        y,
        batch_size=8,
        epochs=2,
        shuffle=False,
        verbose=0,
        callbacks=[kft.callbacks.RigL(2)],
    )
    return model


@pytest.fixture(scope="module")
def run_plainly():
    """The same without options, once for each number of accumulated steps."""
    return functools.cache(run)


@pytest.mark.parametrize(
    "arguments, accumulated",
    [
        ({"steps_per_execution": 4}, 2),
        ({"jit_compile": True}, 2),
        ({"run_eagerly": True}, None),
        pytest.param({"jit_compile": True}, None, marks=pytest.mark.slow),
        pytest.param({"steps_per_execution": 4}, None, marks=pytest.mark.slow),
        pytest.param({"run_eagerly": True}, 2, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_ways_to_run_choose_the_same_masks(arguments, accumulated, run_plainly):
    """RigL and accumulation: what counts steps in the step itself."""
    if keras.backend.backend() == "jax" and arguments.get("run_eagerly"):
        pytest.skip("steps one by one are the same program on JAX")
    results = [run_plainly(accumulated), run(accumulated, **arguments)]
    updates = [int(m.update_state.update_count.numpy()) for m in results]
    # Of 14 steps every third updates; of 7 windows likewise.
    assert updates == ([4, 4] if accumulated is None else [2, 2])
    check_masks(results[1], masks_of(results[0]))
    for mine, other in zip(*map(kernels_of, results), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-6)


def test_train_on_batch_is_a_step_of_fit():
    x, y = data(48)
    fitted, stepped = network("adam"), network("adam")
    callback = kft.callbacks.DropAndGrow(Method(2, 0.4))
    fitted.fit(
        x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[callback]
    )
    stepped.attach(Method(2, 0.4))
    for i in range(0, 48, 8):
        stepped.train_on_batch(x[i : i + 8], y[i : i + 8])
    stepped.detach()
    check_masks(stepped, masks_of(fitted))
    for mine, other in zip(
        kernels_of(stepped), kernels_of(fitted), strict=True
    ):
        np.testing.assert_allclose(mine, other, atol=1e-6)


def test_an_overflow_leaves_the_momentum_of_snfs_alone():
    """It would stay infinite for ever, and the topology at rest."""
    sgd = keras.optimizers.SGD(0.01)
    scaled = keras.optimizers.LossScaleOptimizer(sgd, initial_scale=2.0**10)
    model = network(scaled)
    model.attach(kft.topology.SNFS(update_interval=2, drop_fraction=0.3))
    x, y = data()
    momenta = [record.state["momentum"] for record in model.masked_kernels]
    model.train_on_batch(x, y)
    before = [ops.convert_to_numpy(m.value) for m in momenta]
    bad = x.copy()
    bad[0, 0] = np.inf
    model.train_on_batch(bad, y)
    for old, momentum in zip(before, momenta, strict=True):
        found = ops.convert_to_numpy(momentum.value)
        np.testing.assert_array_equal(found, old)
    gradients = gradients_by_hand(model, x, y)
    masks = masks_of(model)
    model.train_on_batch(x, y)
    for old, momentum, gradient in zip(before, momenta, gradients, strict=True):
        found = ops.convert_to_numpy(momentum.value)
        expected = 0.9 * old + 0.1 * gradient
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
    assert any(changed(masks, model))


def test_cigl_leaves_frozen_layers_whole():
    """Trained by hand: the frozen kernel in full, the other switched off."""
    model = network(keras.optimizers.SGD(0.1))
    model.get_layer("hidden").trainable = False
    model.compile(keras.optimizers.SGD(0.1), LOSS)
    method = kft.topology.CigL(0.5, update_interval=1000, seed=3)
    model.attach(method)
    x, y = data()
    hidden, head = kernels_of(model)
    ((_, used),) = forward_kernels(model)
    used = ops.convert_to_numpy(used)
    assert 0 < (used != 0).sum() < model.masked_kernels[1].active
    plain = network()
    plain.masked_kernels[1].kernel.assign(used)
    _, gradient = gradients_by_hand(plain, x, y)
    model.train_on_batch(x, y)
    moved = head - 0.1 * np.where(used != 0, gradient, 0)
    np.testing.assert_array_equal(kernels_of(model)[0], hidden)
    np.testing.assert_allclose(kernels_of(model)[1], moved, atol=1e-6)


class SeenByCigL(kft.topology.CigL):
    """Keeps the gradient of the last window, which growth goes by."""

    connection_state = {"seen": "float32"}

    def observe(self, connections):
        return [{"seen": c.gradient} for c in connections]


class SeenByAGENT(kft.topology.AGENT):
    connection_state = {"seen": "float32"}
    observe = SeenByCigL.observe


@pytest.mark.parametrize("kind", ["cigl", "agent"])
def test_growth_sees_raw_gradients_of_a_window(kind):
    """Four equal micro-batches at rate 0: absent entries have one's gradient.

    What CigL switches off and AGENT corrects is for the optimizer.
    """
    sgd = keras.optimizers.SGD(0.0, gradient_accumulation_steps=4)
    model, used = network(sgd), network()
    x, y = data()
    if kind == "cigl":
        model.attach(SeenByCigL(0.5, update_interval=1000, seed=3))
        for record, (_, value) in zip(
            used.masked_kernels, forward_kernels(model), strict=True
        ):
            record.kernel.assign(value)
    else:
        model.attach(SeenByAGENT(update_interval=1000))
        state = model.update_state.state
        state["correction"].assign(1.0)
        for mean in state["mean_gradient"]:
            mean.assign(ops.ones(mean.shape))
    expected = gradients_by_hand(used, x, y)
    for _ in range(4):
        model.train_on_batch(x, y)
    for record, gradient in zip(model.masked_kernels, expected, strict=True):
        absent = ~ops.convert_to_numpy(record.mask.value)
        seen = ops.convert_to_numpy(record.state["seen"].value)
        np.testing.assert_allclose(seen[absent], gradient[absent], atol=1e-6)
        assert gradient[absent].any()


@pytest.mark.parametrize("epsilon, finite", [(1e-30, False), (1e-16, True)])
def test_adafactor_is_warned_of_where_it_makes_nan(recwarn, epsilon, finite):
    """Of an input and a unit without gradients; if Keras mends it, tell us."""
    model = network(keras.optimizers.Adafactor(0.01, epsilon_1=epsilon))
    masked = model.masked_kernels[0]
    mask = np.ones(masked.mask.shape, bool)
    mask[0], mask[:, 0] = False, False
    masked.mask.assign(mask)
    model.project()
    model.fit(*data(), verbose=0)
    said = [str(one.message) for one in recwarn]
    assert any("Adafactor(epsilon_1=1e-16)" in s for s in said) != finite
    assert np.isfinite(kernels_of(model)[0]).all() == finite
