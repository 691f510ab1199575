import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft


def network(sparsity=None):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((10,)), layers.Dense(4)])
    if sparsity is not None:
        model = kft.sparsify(model, sparsity, seed=0)
    model.compile("sgd", "mse")
    return model


def fit(model, *callbacks, epochs=2):
    x, y = np.ones((8, 10)), np.ones((8, 4))
    history = model.fit(
        x, y, batch_size=2, epochs=epochs, verbose=0, callbacks=callbacks
    )
    return history.history


@pytest.mark.parametrize(
    "method, interval, wanted",
    [
        # 40 multiply-accumulates, 10 of them active: 80 and 20 FLOPs
        ("static", None, 3 * 20),
        ("set", None, 3 * 20),
        ("rigl", 3, (3 * 20 * 3 + 2 * 20 + 80) / 4),
        (lambda dense, sparse: dense + 10 * sparse, None, 80 + 10 * 20),
    ],
)
def test_flops_by_hand(method, interval, wanted):
    cost = kft.callbacks.TrainingCost(method, interval)
    logs = fit(network(0.75), cost)
    assert logs["training_flops"] == [wanted, wanted]
    assert all(seconds > 0 for seconds in logs["seconds"])


def test_a_dense_network():
    logs = fit(network(), kft.callbacks.TrainingCost())
    assert logs["training_flops"] == [240.0, 240.0]


def test_the_masks_of_each_epoch():
    """Pruned in the first epochs, it costs less in the later ones."""
    model = network(0.0)
    pruning = kft.callbacks.GMP(0.5, 8, update_interval=1)
    cost = kft.callbacks.TrainingCost("static")
    logs = fit(model, pruning, cost, epochs=3)
    flops = logs["training_flops"]
    assert flops[0] > flops[1] == flops[2] == 3 * 40
    assert logs["density"][-1] == 0.5


def test_of_a_network_that_sees_examples_several_times():
    keras.utils.set_random_seed(0)
    body = keras.Sequential([keras.Input((20,)), layers.Dense(8)])
    mimo = kft.MIMO(body, 2, batch_repetitions=3)
    mimo.compile("sgd", "sparse_categorical_crossentropy")
    cost = kft.callbacks.TrainingCost(repetitions=3)
    x, y = np.ones((8, 10)), np.zeros(8)
    logs = mimo.fit(x, y, verbose=0, callbacks=[cost]).history
    assert logs["training_flops"] == [3 * 3 * 2 * 160]


def test_errors():
    with pytest.raises(ValueError, match="`method` must be one of"):
        kft.callbacks.TrainingCost("free")
    with pytest.raises(ValueError, match="`update_interval` must be"):
        kft.callbacks.TrainingCost("rigl")
    with pytest.raises(ValueError, match="`repetitions` must be"):
        kft.callbacks.TrainingCost(repetitions=0)


def test_of_a_model_of_any_length():
    words = keras.Input((None, 10), name="words")
    model = keras.Model(words, layers.Dense(4)(words))
    model.compile("sgd", "mse")
    x, y = np.ones((2, 3, 10)), np.ones((2, 3, 4))
    cost = kft.callbacks.TrainingCost(input_shape=(3, 10))
    logs = model.fit(x, y, verbose=0, callbacks=[cost]).history
    assert logs["training_flops"] == [720.0]
    cost = kft.callbacks.TrainingCost()
    with pytest.warns(UserWarning, match="'words'.*pass `input_shape`"):
        logs = model.fit(x, y, verbose=0, callbacks=[cost]).history
    assert np.isnan(logs["training_flops"]).all()


def test_a_kernel_that_no_rule_covers_is_named():
    class Product(layers.Layer):
        def build(self, shape):
            self.table = self.add_weight(shape=(10, 4), name="table")

        def call(self, inputs):
            return inputs @ self.table

    model = keras.Sequential([keras.Input((10,)), Product()])
    cost = kft.callbacks.TrainingCost()
    with pytest.warns(UserWarning, match="will be NaN: .*rule for Product"):
        cost.set_model(model)
