import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft
from keras_freetickets import keras_adapter
from keras_freetickets.callbacks import WeightAveraging


def network(normalize=False, rate=0.05, random_seed=2):
    keras.utils.set_random_seed(random_seed)
    inputs = keras.Input((6,))
    x = layers.Dense(20, name="a")(inputs)
    if normalize:
        x = layers.BatchNormalization(name="norm")(x)
    x = layers.Activation("relu")(x)
    model = kft.sparsify(keras.Model(inputs, layers.Dense(3)(x)), 0.5, seed=1)
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), "mse")
    return model


def data(rows=64):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(rows, 6)).astype("float32")
    return x, generator.normal(size=(rows, 3)).astype("float32")


class Snapshots(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.values = []

    def on_epoch_end(self, epoch, logs=None):
        self.values.append(
            [np.array(v) for v in self.model.run.forward_values()]
        )


def fit(model, callbacks, epochs=5):
    model.fit(
        *data(),
        batch_size=16,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )


def test_the_average_of_the_snapshots():
    model, snapshots = network(), Snapshots()
    fit(model, [snapshots, WeightAveraging(2)])
    expected = [
        np.mean(v, axis=0) for v in zip(*snapshots.values[2:], strict=True)
    ]
    for variable, value in zip(
        model.trainable_variables, expected, strict=True
    ):
        np.testing.assert_allclose(
            np.asarray(variable.value), value, rtol=1e-5, atol=1e-7
        )


class BatchSnapshots(Snapshots):
    """Of every step: what the average is taken from."""

    def on_train_batch_end(self, batch, logs=None):
        keras_adapter.synchronize(self.model)
        self.values.append(
            [np.array(v) for v in self.model.run.forward_values()]
        )

    def on_epoch_end(self, epoch, logs=None):
        pass


@pytest.mark.parametrize("votes, steps", [(2, [1, 3]), (3, [1, 2, 3])])
def test_votes_within_an_epoch(votes, steps):
    # 4 batches in parts: of two with two votes; of 2, 1 and 1 with three. The
    # end of the epoch before them counts as well.
    model, snapshots = network(), BatchSnapshots()
    cigl = kft.callbacks.CigL(
        start_epoch=3, votes_per_epoch=votes, update_interval=1000
    )
    fit(model, [snapshots, cigl])
    chosen = [snapshots.values[15], *(snapshots.values[16 + s] for s in steps)]
    expected = [np.mean(v, axis=0) for v in zip(*chosen, strict=True)]
    for variable, value in zip(
        model.trainable_variables, expected, strict=True
    ):
        np.testing.assert_allclose(
            np.asarray(variable.value), value, rtol=1e-5, atol=1e-7
        )


def test_more_votes_than_batches():
    with pytest.raises(ValueError, match="`votes_per_epoch` must be 1 or at"):
        fit(network(), [WeightAveraging(1, votes_per_epoch=5)])
    with pytest.raises(ValueError, match="`votes_per_epoch` must be"):
        WeightAveraging(1, votes_per_epoch=0)


def test_what_cigl_computed_with_is_averaged():
    model, snapshots = network(), Snapshots()
    cigl = kft.callbacks.CigL(
        start_epoch=1, random_drop=0.3, update_interval=1000
    )
    fit(model, [snapshots, cigl])
    last = snapshots.values[-1]
    kernels = [id(r.kernel) for r in model.masked_kernels]
    for i, variable in enumerate(model.trainable_variables):
        values = [v[i] for v in snapshots.values[1:]]
        found = np.asarray(variable.value)
        np.testing.assert_allclose(
            found, np.mean(values, axis=0), rtol=1e-5, atol=1e-7
        )
        if id(variable) in kernels:
            # Switched off in the last step, but not in all.
            assert ((last[i] == 0) & (found != 0)).any()
    # The random masks leave the density alone.
    for record in model.masked_kernels:
        active = np.asarray(record.kernel.value) != 0
        assert not (active & ~np.asarray(record.mask.value)).any()


def test_statistics_are_estimated_anew():
    model, x = network(normalize=True), data()[0]
    fit(model, [WeightAveraging(1, data=x)])
    hidden = x @ np.asarray(model.trainable_variables[0].value)
    hidden += np.asarray(model.trainable_variables[1].value)
    norm = model.get_layer("norm")
    np.testing.assert_allclose(
        np.asarray(norm.moving_mean.value), hidden.mean(axis=0), atol=1e-4
    )


def test_a_ridge_regression_on_average():
    # CigL's stationary mean for least squares: (G + (1 - keep) / keep diag G)
    # A = b, here (.62069, .62069); without the random mask (.66667, .66667).
    gram = np.array([[1.0, 0.5], [0.5, 1.0]])
    root = np.linalg.cholesky(gram).T * np.sqrt(2)  # X'X / 2 = gram
    y = np.linalg.solve(root.T, 2 * np.ones(2))
    # Each unit is a regression of its own, with random masks of its own; the
    # loss is their mean, so the learning rate is as many times as large.
    units = 64
    x = root.astype("float32")
    y = np.repeat(y[:, None], units, axis=1).astype("float32")
    inputs = keras.Input((2,))
    dense = keras.Model(inputs, layers.Dense(units, use_bias=False)(inputs))
    model = kft.sparsify(dense, 0.0, seed=0)
    model.compile(keras.optimizers.SGD(0.02 * units), "mse")
    model.attach(kft.topology.CigL(0.1, update_interval=10**6))
    found = []
    # Neighbours are alike: at this rate weights change over some 25 steps.
    for number in range(650):
        model.train_on_batch(x, y)
        if number >= 400 and number % 10 == 0:
            found.append(np.asarray(model.run.forward_values()[0]))
    means = np.mean(found, axis=(0, 2))
    np.testing.assert_allclose(means, 0.62069, atol=0.015)


@pytest.mark.parametrize("begin", [-1, 2.5])
def test_bad_begin(begin):
    with pytest.raises(ValueError, match="`start_epoch` must be"):
        WeightAveraging(begin)


def test_what_is_refused_before_training():
    with pytest.raises(ValueError, match="`data` must be the training data"):
        fit(network(normalize=True), [WeightAveraging(1)])
    with pytest.raises(ValueError, match="`start_epoch` must be an epoch"):
        fit(network(), [WeightAveraging(5)])


@pytest.mark.parametrize("frozen_first", [True, False])
def test_frozen_between_fits(frozen_first):
    """The trained variables are others then, in number and in place."""
    model = network()
    for frozen in (frozen_first, not frozen_first):
        model.get_layer("a").trainable = not frozen
        model.compile(keras.optimizers.SGD(0.05), "mse")
        kernel = model.masked_kernels[0].kernel
        before = np.array(kernel.value)
        snapshots = Snapshots()
        fit(model, [snapshots, WeightAveraging(1)], epochs=3)
        assert len(snapshots.values[0]) == (2 if frozen else 4)
        expected = [
            np.mean(v, axis=0) for v in zip(*snapshots.values[1:], strict=True)
        ]
        for variable, value in zip(
            model.trainable_variables, expected, strict=True
        ):
            found = np.array(variable.value)
            np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-7)
        assert (np.array(kernel.value) != before).any() != frozen


def test_agent_with_layers_thawed_between_fits():
    model = network(rate=0.01)
    x, y = data(32)
    batches = [(x[:16], y[:16]), (x[16:], y[16:])]
    for frozen in (True, False):
        model.get_layer("a").trainable = not frozen
        model.compile(keras.optimizers.SGD(0.01), "mse")
        agent = kft.callbacks.AGENT(batches, update_interval=1000)
        model.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=[agent])
        held = model.update_state.state["mean_gradient"]
        shapes = [v.shape for v in model.trainable_variables]
        assert [v.shape for v in held] == shapes
        assert all(np.array(v.value).any() for v in held)
    # Thawed in the middle of a training, the snapshot is not of one moment.
    model.get_layer("a").trainable = False
    model.compile("sgd", "mse")
    model.attach(kft.topology.AGENT())
    assert not float(model.update_state.state["snapshots"].numpy())
