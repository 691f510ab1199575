import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_freetickets as kft
from keras_freetickets import losses


class Scaled(losses.Objective):
    """Mean squared error times how many batches there were."""

    scalar_state = {"scaled_batches": 0.0}

    def __call__(
        self,
        y_true,
        y_pred,
        state,
        sample_weight=None,
        of_replicas=ops.ravel,
        from_logits=None,
    ):
        assert self.is_from_logits(from_logits)
        count = state["scaled_batches"]
        count.assign(count.value + 1.0)
        return count.value * ops.mean(ops.square(y_pred - y_true))


def network():
    keras.utils.set_random_seed(0)
    dense = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    model = kft.sparsify(dense, 0.5, seed=0)
    model.compile(keras.optimizers.SGD(0.01), "mse")
    return model


def data():
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    return x, x[:, :2]


@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="has no training step"
)
def test_an_objective_of_ones_own_trains_with_its_state():
    x, y = data()
    model, expected = network(), network()
    model.set_objective(Scaled(from_logits=True))
    for count in (1.0, 2.0, 3.0):
        model.train_on_batch(x, y)
        expected.optimizer.learning_rate = 0.01 * count
        expected.train_on_batch(x, y)
    np.testing.assert_allclose(
        model.masked_kernels[0].kernel.numpy(),
        expected.masked_kernels[0].kernel.numpy(),
        rtol=1e-5,
    )
    state = model.update_state.state
    assert float(state["scaled_batches"].numpy()) == 3.0
    # Evaluation keeps the compiled loss.
    loss = np.mean((model.predict(x, verbose=0) - y) ** 2)
    assert model.evaluate(x, y, verbose=0) == pytest.approx(loss, rel=1e-4)
    model.set_objective(None)
    model.train_on_batch(x, y)
    assert float(state["scaled_batches"].numpy()) == 3.0


def test_only_objectives_are_taken():
    with pytest.raises(ValueError, match=r"pass losses without state"):
        network().set_objective(keras.losses.MeanSquaredError())


def test_an_objective_comes_back_from_its_config():
    made = Scaled.from_config(Scaled(from_logits=True).get_config())
    assert made.from_logits and isinstance(made, Scaled)
    assert not losses.Objective().from_logits
    moon = losses.MOON.from_config(losses.MOON(20, alpha=2.0).get_config())
    assert (moon.epochs, moon.alpha, moon.from_logits) == (20, 2.0, False)
