"""EDST beside the same training written down in NumPy."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft

BATCHES, INTERVAL = 3, 4


def data():
    generator = np.random.default_rng(3)
    x = generator.normal(size=(BATCHES * 8, 12)).astype("float32")
    return x, generator.normal(size=(BATCHES * 8, 10)).astype("float32")


def chosen(scores, count):
    """The places of the largest scores."""
    mask = np.zeros(scores.size, bool)
    mask[np.argsort(-scores.ravel(), kind="stable")[:count]] = True
    return mask.reshape(scores.shape)


class ByHand:
    """FreeTickets' loop: step, mask, and every INTERVAL-th step an update.

    At the start of a refinement but the first, 80 % of the connections are
    replaced with its first batch (the code: with what is left of the last
    batch before). Dropped connections that grow again keep their values and
    momenta.
    """

    def __init__(self, kernel, mask):
        self.kernel, self.mask, self.steps = kernel, mask, 0
        self.velocity = np.zeros_like(kernel)
        self.updates = []

    def epoch(self, rate, restarts):
        x, y = (part.reshape(BATCHES, 8, -1) for part in data())
        for batch in range(BATCHES):
            self.steps += 1
            error = x[batch] @ self.kernel - y[batch]
            gradient = 2 * x[batch].T @ error / error.size
            self.velocity = 0.9 * self.velocity - rate * gradient * self.mask
            self.kernel = self.kernel + self.velocity
            if restarts and batch == 0:
                self.update(gradient, 0.8)
            elif self.steps % INTERVAL == 0:
                self.update(gradient, 0.5)

    def update(self, gradient, fraction):
        active = int(self.mask.sum())
        replaced = int(np.ceil(round(fraction * active, 6)))
        sizes = np.where(self.mask, np.abs(self.kernel), -1)
        kept = chosen(sizes, active - replaced)
        grown = chosen(np.where(kept, -1, np.abs(gradient)), replaced)
        alive = self.mask & (kept | grown)
        self.mask = kept | grown
        self.kernel = np.where(alive, self.kernel, 0)
        self.velocity = np.where(alive, self.velocity, 0)
        self.updates.append((self.steps, replaced))


class Watch(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        (record,) = self.model.masked_kernels
        self.seen.append(
            (
                float(np.asarray(self.model.optimizer.learning_rate.value)),
                np.array(record.mask.value),
                np.array(record.kernel.value),
            )
        )


def test_rates_masks_and_weights_over_two_refinements(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12,))
    dense = keras.Model(inputs, layers.Dense(10, use_bias=False)(inputs))
    model = kft.sparsify(dense, 0.6, seed=0)
    model.compile(keras.optimizers.SGD(0.5, momentum=0.9), "mse")
    (record,) = model.masked_kernels
    hand = ByHand(np.array(record.kernel.value), np.array(record.mask.value))
    edst = kft.callbacks.EDST(
        exploration_epochs=1,
        refinement_epochs=2,
        num_tickets=2,
        update_interval=INTERVAL,
        monitor=None,
        directory=tmp_path,
    )
    watch = Watch()
    model.fit(
        *data(),
        batch_size=8,
        epochs=edst.epochs,
        shuffle=False,
        verbose=0,
        callbacks=[edst, watch],
    )
    # Exploration, and both halves of each refinement: 1, 0.1, 0.01.
    rates = [0.5, 0.05, 0.005, 0.05, 0.005]
    assert [rate for rate, _, _ in watch.seen] == pytest.approx(rates)
    for epoch, (_rate, mask, kernel) in enumerate(watch.seen):
        hand.epoch(rates[epoch], restarts=epoch == 3)
        np.testing.assert_array_equal(mask, hand.mask)
        np.testing.assert_allclose(kernel, hand.kernel, rtol=2e-4, atol=1e-6)
    # 48 connections; the second refinement begins with the tenth step.
    assert hand.updates == [(4, 24), (8, 24), (10, 39), (12, 24)]
