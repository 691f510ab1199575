import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft
from keras_freetickets.topology import Method

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="about JAX's step"
)


def network():
    keras.utils.set_random_seed(0)
    dense = keras.Sequential(
        [keras.Input((10,)), layers.Dense(20), layers.Dense(3)]
    )
    model = kft.sparsify(dense, 0.7, "uniform", seed=2)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def data():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(8, 10)).astype("float32")
    return x, np.ones((8, 3), "float32")


def state_of(model):
    return [
        [v.value for v in group]
        for group in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
        )
    ]


def test_own_loop_is_the_loop_of_fit():
    import jax

    x, y = data()
    fitted = network()
    callback = kft.callbacks.DropAndGrow(Method(2, growth="random"))
    fitted.fit(x, y, epochs=5, batch_size=8, verbose=0, callbacks=[callback])

    model = network()
    model.attach(Method(2, growth="random"))

    def loss_of(trainable, others):
        y_pred, _ = model.stateless_call(trainable, others, x, training=True)
        return keras.ops.mean((y_pred - y) ** 2)

    @jax.jit
    def step(trainable, others, slots):
        gradients = jax.grad(loss_of)(trainable, others)
        return model.stateless_apply(trainable, others, slots, gradients)

    state = state_of(model)
    for _ in range(5):
        state = step(*state)
    assert int(fitted.update_state.update_count.numpy()) == 2
    for mine, other in zip(state, state_of(fitted), strict=True):
        for a, b in zip(mine, other, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_step_has_no_host_callback():
    import jax

    model = network()
    model.attach(Method(update_interval=1))
    state = (*state_of(model), [v.value for v in model.metrics_variables])
    text = str(jax.make_jaxpr(model.train_step)(state, data()))
    assert "while" in text
    assert "callback" not in text
    assert " sort" not in text and "top_k" not in text


def weights_of(model):
    return [
        *model.get_weights(),
        *(v.numpy() for v in model.optimizer.variables),
    ]


@pytest.mark.parametrize("batch", [0, 2])
def test_weights_outlive_an_exception_in_a_batch(batch):
    """Keras takes them out of the variables meanwhile."""
    x, y = data()
    expected, model = network(), network()
    if batch:
        seen = 2 * batch
        expected.fit(x[:seen], y[:seen], batch_size=2, verbose=0, shuffle=False)
    model.make_train_function()
    step, calls = model.train_function, []

    def broken(state, iterator):
        if len(calls) == batch:
            raise KeyboardInterrupt
        calls.append(1)
        return step(state, iterator)

    model.train_function = broken
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, batch_size=2, verbose=0, shuffle=False)
    assert int(model.optimizer.iterations) == batch
    for a, b in zip(weights_of(model), weights_of(expected), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("call", ["evaluate", "predict"])
def test_weights_outlive_data_that_do_not_fit(call):
    model = network()
    before = weights_of(model)
    x, y = data()
    model.evaluate(x, y, verbose=0)
    bad = {"evaluate": (x[:, :7], y), "predict": (x[:, :7],)}[call]
    with pytest.raises(ValueError):
        getattr(model, call)(*bad, verbose=0)
    for a, b in zip(weights_of(model), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_model_can_be_looked_at_between_batches():
    """Also not through `self.model`, for which Keras gives values back."""
    x, y = data()
    expected, model = network(), network()
    seen = []

    def look(batch, logs):
        model.project()
        rows = kft.sparsity_summary(model, print_fn=False)
        masks = [r.mask.numpy() for r in model.masked_kernels]
        seen.append((model.density, sum(r.active for r in rows), masks))

    looking = keras.callbacks.LambdaCallback(on_train_batch_end=look)
    for trained, others in ((expected, []), (model, [looking])):
        callback = kft.callbacks.DropAndGrow(Method(1, growth="random"))
        options = {"epochs": 2, "batch_size": 4, "shuffle": False, "verbose": 0}
        trained.fit(x, y, callbacks=[callback, *others], **options)
    for a, b in zip(weights_of(model), weights_of(expected), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(seen) == 4
    densities, _, masks = zip(*seen, strict=True)
    assert set(densities) == {expected.density}
    assert all((a != b).any() for a, b in zip(masks[0], masks[1], strict=True))
    for mask, record in zip(masks[-1], expected.masked_kernels, strict=True):
        np.testing.assert_array_equal(mask, record.mask.numpy())
