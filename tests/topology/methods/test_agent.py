import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_freetickets as kft
from keras_freetickets.topology import AGENT
from keras_freetickets.trainers import step


def test_tau_of_identical_losses():
    # tau_now = 1: tau = 1 - 0.9 * 0.7^n from 0.1.
    method, tau = AGENT(), 0.1
    losses = np.array([1.0, 2.0, 4.0])
    for n in range(1, 11):
        tau = method.next_tau(tau, losses, losses)
        assert tau == pytest.approx(1 - 0.9 * 0.7**n)
    assert tau == pytest.approx(0.97458, abs=1e-5)


def test_tau_against_numpy():
    generator = np.random.default_rng(0)
    now, before = generator.normal(size=(2, 50))
    estimate = np.cov(now, before)[0, 1] / np.var(before, ddof=1)
    found = AGENT(smoothing=0.3).next_tau(0.5, now, before)
    assert found == pytest.approx(0.7 * 0.5 + 0.3 * estimate)
    assert AGENT().next_tau(0.5, now, np.ones(50)) == 0.5
    assert AGENT().next_tau(0.5, now[:1], before[:1]) == 0.5


def test_tau_counts_batches_with_finite_losses():
    method = AGENT()
    now = np.array([1.0, np.nan, 2.0, 5.0, 4.0, 3.0])
    before = np.array([2.0, 1.0, 4.0, np.inf, 8.0, -np.inf])
    # Of (1, 2, 4) and (2, 4, 8): half the slope of 1.
    found = method.next_tau(0.1, now, before)
    assert found == pytest.approx(0.7 * 0.1 + 0.3 * 0.5)
    assert method.next_tau(0.1, now[1:3], before[1:3]) == 0.1
    assert method.next_tau(0.1, now[3:], before[3:] * np.nan) == 0.1


class Regression:
    """Least squares of `y` by `x @ w`: gradients by hand."""

    def __init__(self, seed=0):
        generator = np.random.default_rng(seed)
        self.x = generator.normal(size=(3, 8, 4)).astype("float32")
        self.y = generator.normal(size=(3, 8, 1)).astype("float32")
        self.snapshot = generator.normal(size=(4, 1)).astype("float32")

    def gradient(self, weights, batch):
        error = self.x[batch] @ weights - self.y[batch]
        return self.x[batch].T @ error / 8

    def mean_gradient(self):
        return np.mean([self.gradient(self.snapshot, b) for b in range(3)], 0)


def corrected(problem, weights, batch, mean, factor):
    """What `AGENT` makes of the gradient of one weight matrix."""
    context = step.Context(
        views=[],
        gradient_indices=[],
        state={
            "snapshot": [keras.Variable(problem.snapshot)],
            "mean_gradient": [keras.Variable(mean)],
            "correction": keras.Variable(np.float32(factor)),
        },
        gradients_at=lambda values: [
            ops.convert_to_tensor(
                problem.gradient(ops.convert_to_numpy(values[0]), batch)
            )
        ],
    )
    gradient = ops.convert_to_tensor(problem.gradient(weights, batch))
    (found,) = AGENT().transform_gradients([gradient], context)
    return found


def test_three_steps_of_adam_by_hand():
    problem, factor = Regression(), 0.3
    variable = keras.Variable(problem.snapshot)
    adam = keras.optimizers.Adam(0.1, beta_1=0.9, beta_2=0.99, epsilon=1e-7)
    adam.build([variable])
    mean = problem.mean_gradient()
    weights = problem.snapshot.copy()
    first, second = np.zeros((4, 1)), np.zeros((4, 1))
    for t in (1, 2, 3):
        now = ops.convert_to_numpy(variable.value)
        found = corrected(problem, now, t - 1, mean, factor)
        adam.apply([found])
        gradient = problem.gradient(weights, t - 1)
        old = problem.gradient(problem.snapshot, t - 1)
        d = gradient + factor * (mean - old)
        # The moments are those of the corrected gradient.
        first = 0.9 * first + 0.1 * d
        second = 0.99 * second + 0.01 * d**2
        rate = 0.1 * np.sqrt(1 - 0.99**t) / (1 - 0.9**t)
        weights = weights - rate * first / (np.sqrt(second) + 1e-7)
        np.testing.assert_allclose(
            ops.convert_to_numpy(variable.value), weights, rtol=1e-4, atol=1e-5
        )


def test_the_mean_of_corrected_gradients_is_that_of_the_plain_ones():
    problem = Regression()
    weights = problem.snapshot + 0.5
    mean = problem.mean_gradient()
    found = [corrected(problem, weights, b, mean, 0.7) for b in range(3)]
    found = np.mean([ops.convert_to_numpy(f) for f in found], axis=0)
    plain = np.mean([problem.gradient(weights, b) for b in range(3)], axis=0)
    np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-5)


def test_a_mean_that_is_not_finite_corrects_nothing():
    problem = Regression()
    mean = problem.mean_gradient()
    mean[1], mean[2] = np.nan, np.inf
    found = corrected(problem, problem.snapshot, 0, mean, 0.3)
    gradient = problem.gradient(problem.snapshot, 0)
    expected = gradient + 0.3 * (problem.mean_gradient() - gradient)
    expected[1:3] = gradient[1:3]
    np.testing.assert_allclose(
        ops.convert_to_numpy(found), expected, rtol=1e-4, atol=1e-6
    )


def network(dropout=0.0, sparsity=0.5):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((5,))
    x = layers.Dense(16, name="a")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Dropout(dropout, seed=3)(layers.Activation("relu")(x))
    dense = keras.Model(inputs, layers.Dense(2)(x))
    model = kft.sparsify(dense, sparsity, seed=1)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    return model


def batches(count=4):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(count, 8, 5)).astype("float32")
    y = generator.normal(size=(count, 8, 2)).astype("float32")
    return list(zip(x, y, strict=True))


def arrays(variables):
    return [np.array(v.value) for v in variables]


def train(model, callback, epochs=2):
    x, y = (np.concatenate(part) for part in zip(*batches(), strict=True))
    return model.fit(
        x,
        y,
        batch_size=8,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[callback],
    )


def test_without_a_correction_it_is_rigl():
    ours, rigl = network(dropout=0.3), network(dropout=0.3)
    agent = kft.callbacks.AGENT(batches(), scale=0.0, update_interval=3)
    train(ours, agent, epochs=3)
    # The released code's own way to count, and to begin connections again.
    own = {"rounding": "ceil", "regrown": "reset"}
    train(rigl, kft.callbacks.RigL(update_interval=3, **own), epochs=3)
    # The passes over the data leave no trace: not in the statistics of batch
    # normalization, nor in the order of dropout.
    # AGENT's own state comes after the weights that both have.
    both = arrays(ours.weights[: len(rigl.weights)]), arrays(rigl.weights)
    for a, b in zip(*both, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


class Recorder(AGENT):
    """Keeps, on the host, what goes in and out of the correction."""

    def transform_gradients(self, gradients, context):
        corrected = super().transform_gradients(gradients, context)
        self.seen = (gradients, corrected)
        return corrected


@pytest.mark.parametrize("kappa", [0.1, 1.0])
def test_the_correction_by_hand(kappa):
    model = network()
    method = Recorder(update_interval=1000)
    model.attach(method)
    model.run_eagerly = True
    if keras.backend.backend() != "tensorflow":
        pytest.skip("reads tensors within a step")
    state = model.update_state.state
    x, y = batches(1)[0]
    generator = np.random.default_rng(5)
    for held, variable in zip(
        state["snapshot"], model.trainable_variables, strict=True
    ):
        held.assign(variable.value)
    means = [
        generator.normal(size=v.shape).astype("float32")
        for v in model.trainable_variables
    ]
    for held, mean in zip(state["mean_gradient"], means, strict=True):
        held.assign(mean)
    state["correction"].assign(kappa)
    model.train_on_batch(x, y)
    # At the snapshot itself: d = (1 - kappa) g + kappa u.
    for g, d, u in zip(*method.seen, means, strict=True):
        expected = (1 - kappa) * np.asarray(g) + kappa * u
        np.testing.assert_allclose(np.asarray(d), expected, atol=1e-5)


def test_snapshots_and_mean_gradients():
    model = network()
    agent = kft.callbacks.AGENT(batches(), update_interval=1000)
    history = train(model, agent, epochs=1)
    assert history.history["tau"] == [pytest.approx(0.1)]
    fresh = network()
    held = arrays(model.update_state.state["snapshot"])
    for a, b in zip(held, arrays(fresh.trainable_variables), strict=True):
        np.testing.assert_array_equal(a, b)
    # The mean of the batches' gradients at the weights of the beginning.
    kernels = [r.kernel.value for r in fresh.masked_kernels]
    found = [fresh.gradients_at(kernels, x, y) for x, y in batches()]
    means = [np.mean(part, axis=0) for part in zip(*found, strict=True)]
    place = {id(v): i for i, v in enumerate(model.trainable_variables)}
    for record, mean in zip(model.masked_kernels, means, strict=True):
        held = model.update_state.state["mean_gradient"][
            place[id(record.kernel)]
        ]
        np.testing.assert_allclose(np.asarray(held.value), mean, atol=1e-5)


def test_tau_moves_from_the_second_epoch_on():
    model = network()
    agent = kft.callbacks.AGENT(batches(), update_interval=1000)
    taus = train(model, agent, epochs=3).history["tau"]
    assert taus[0] == pytest.approx(0.1) and taus[1] != taus[0] != taus[2]
    state = model.update_state.state
    expected = 0.1 * float(np.asarray(state["tau"].value))
    assert float(np.asarray(state["correction"].value)) == pytest.approx(
        expected
    )


def test_what_is_refused():
    with pytest.raises(ValueError, match="`scale` must be in"):
        AGENT(scale=2)
    with pytest.raises(ValueError, match=r"`smoothing` must be in \(0, 1\]"):
        AGENT(smoothing=0)
    for data in (iter(batches()), 5, None):
        with pytest.raises(ValueError, match="`data` must allow one iteration"):
            kft.callbacks.AGENT(data)
    x, y = batches()[0]
    for data in ((x, y), x):
        with pytest.raises(ValueError, match="`data` must be in batches"):
            kft.callbacks.AGENT(data)
    with pytest.raises(ValueError, match=r"`data` must have batches \(x, y\)"):
        train(network(), kft.callbacks.AGENT([x, y]))
    with pytest.raises(ValueError, match="either `method` or its arguments"):
        kft.callbacks.AGENT(batches(), method=AGENT(), scale=0.1)
    with pytest.raises(ValueError, match="`method` must be a"):
        kft.callbacks.AGENT(batches(), method=kft.topology.RigL())
    with pytest.raises(ValueError, match="`data` must have a batch"):
        train(network(), kft.callbacks.AGENT([]))
    if keras.backend.backend() == "tensorflow":
        model = network()
        model.attach(AGENT())
        gradients = [v.value for v in model.trainable_variables]
        with pytest.raises(ValueError, match="looks at the batch a second"):
            model.apply_gradients(gradients)


def test_attached_alone_it_is_refused():
    """Without snapshots it would correct nothing, without a word."""
    model = network()
    model.attach(AGENT())
    x, y = batches(1)[0]
    message = (
        r"`callbacks` must hold GradientSnapshots, a part of the method AGENT"
        r".*Received: method=AGENT and callbacks of type \['History'\]"
    )
    with pytest.raises(ValueError, match=message):
        model.fit(x, y, callbacks=[keras.callbacks.History()], verbose=0)
    with pytest.raises(ValueError, match="must hold GradientSnapshots"):
        model.fit(x, y)
    # As the sixth argument, too.
    snapshots = kft.callbacks.GradientSnapshots(batches(1))
    model.fit(x, y, 16, 1, 0, [snapshots])
    state = model.update_state.state
    assert float(ops.convert_to_numpy(state["snapshots"].value))
