import contextlib
import math

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_freetickets as kft

X = np.eye(4, dtype="float32")
Y = np.array([0, 1, 2, 0])


def network(rate=0.2):
    keras.utils.set_random_seed(0)
    stack = [keras.Input((4,)), layers.Dense(3, activation="softmax")]
    model = keras.Sequential(stack)
    optimizer = keras.optimizers.SGD(rate)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


def fit(model, callbacks, epochs=6, **kwargs):
    kwargs = {"batch_size": 2, "verbose": 0, "shuffle": False, **kwargs}
    return model.fit(X, Y, epochs=epochs, callbacks=callbacks, **kwargs)


def test_a_ticket_at_the_end_of_each_cycle(tmp_path):
    model = network()
    weights = []

    class Note(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            weights.append(self.model.get_weights())

    snapshot = kft.callbacks.Snapshot(tmp_path, 3, cycle_epochs=2)
    assert snapshot.epochs == 6
    fit(model, [Note(), snapshot])
    ensemble = snapshot.ensemble()
    assert ensemble.num_members == 3
    for i, epoch in enumerate([1, 3, 5]):
        for one, other in zip(
            ensemble.member(i).get_weights(), weights[epoch], strict=True
        ):
            np.testing.assert_array_equal(one, other)
    entries = snapshot.store.read()
    assert [e["phase"] for e in entries.values()] == [
        "cycle_1",
        "cycle_2",
        "cycle_3",
    ]


def test_the_rate_of_each_step(tmp_path):
    """The steps of two cycles with the formula of the paper, in NumPy."""
    model = network()
    kernel, bias = model.get_weights()
    fit(model, [kft.callbacks.Snapshot(tmp_path, 2, cycle_epochs=2)], 4)
    cycle = 4  # two epochs of two steps
    for t in range(8):
        rate = 0.2 / 2 * (math.cos(math.pi * (t % cycle) / cycle) + 1)
        x, y = X[2 * (t % 2) :][:2], Y[2 * (t % 2) :][:2]
        p = np.exp(x @ kernel + bias)
        p = p / p.sum(-1, keepdims=True) - np.eye(3)[y]
        kernel, bias = kernel - rate * x.T @ p / 2, bias - rate * p.mean(0)
    np.testing.assert_allclose(model.get_weights()[0], kernel, rtol=1e-5)
    np.testing.assert_allclose(
        model.get_weights()[1], bias, rtol=1e-5, atol=1e-7
    )
    # The first step of a third cycle has the whole rate again.
    rate = float(ops.convert_to_numpy(model.optimizer.learning_rate))
    assert rate == pytest.approx(0.2)


def test_a_killed_run_goes_on(tmp_path):
    def train(name, epochs):
        model = network()
        snapshot = kft.callbacks.Snapshot(tmp_path / name, 3, cycle_epochs=2)
        backup = kft.callbacks.Backup(tmp_path / name / "backup")

        class Kill(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                if epoch + 1 == epochs:
                    raise KeyboardInterrupt

        with contextlib.suppress(KeyboardInterrupt):
            fit(model, [snapshot, backup, Kill()])
        return snapshot

    whole = train("whole", None).ensemble()
    train("parts", 3)
    resumed = train("parts", None).ensemble()
    for one, other in zip(
        whole.get_weights(), resumed.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_of_a_sparse_network(tmp_path):
    model = kft.sparsify(network(), 0.5, seed=0)
    model.compile("sgd", "sparse_categorical_crossentropy")
    snapshot = kft.callbacks.Snapshot(tmp_path, 2, cycle_epochs=1)
    fit(model, [kft.callbacks.SET(1, 0.5), snapshot], 2)
    masks = [
        np.array(snapshot.ensemble().member(i).masked_kernels[0].mask)
        for i in range(2)
    ]
    assert masks[0].sum() == masks[1].sum() == 6
    assert not np.array_equal(*masks)


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="`num_members` must be a positive"):
        kft.callbacks.Snapshot(tmp_path, 0)
    with pytest.raises(ValueError, match="`cycle_epochs` must be a positive"):
        kft.callbacks.Snapshot(tmp_path, cycle_epochs=1.5)
    snapshot = kft.callbacks.Snapshot(tmp_path, 2, cycle_epochs=2)
    with pytest.raises(ValueError, match="`epochs` must be at least 4"):
        fit(network(), [snapshot], 3)
    trained = network()
    fit(trained, [], 1)
    with pytest.raises(ValueError, match="`optimizer` must be new"):
        fit(trained, [snapshot], 4)

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    with pytest.warns(UserWarning, match="holds 0"):
        fit(network(), [snapshot, Stop()], 4)
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
    with pytest.raises(ValueError, match="`learning_rate` of the optimizer"):
        fit(network(schedule), [snapshot], 4)

    def endless():
        while True:
            yield X, Y

    with pytest.raises(ValueError, match="`steps_per_epoch` must be given"):
        network().fit(endless(), epochs=4, callbacks=[snapshot], verbose=0)
