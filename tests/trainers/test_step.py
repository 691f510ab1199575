"""Steps that must not be counted, or not by what they were before."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_freetickets as kft
from keras_freetickets import keras_adapter
from keras_freetickets.topology import DSTEE
from keras_freetickets.topology import SET
from keras_freetickets.topology import RigL


class Spoiling(layers.Layer):
    """Lets everything through; its own gradient is infinite where `w` is 0."""

    def build(self, shape):
        self.w = self.add_weight(shape=(), initializer="ones")

    def call(self, x):
        root = ops.sqrt(self.w)
        return x + (root - ops.stop_gradient(root))


def network(optimizer):
    keras.utils.set_random_seed(1)
    dense = keras.Sequential(
        [
            keras.Input((10,)),
            layers.Dense(12, name="hidden"),
            Spoiling(name="spoiling"),
            layers.Dense(3, name="head"),
        ]
    )
    model = kft.sparsify(dense, 0.6, "uniform", seed=2)
    model.compile(optimizer, "mse")
    return model


def data(count=8, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(count, 10)).astype("float32")
    return x, generator.normal(size=(count, 3)).astype("float32")


def masks_of(model):
    return [np.array(r.mask.value) for r in model.masked_kernels]


def updates_of(model):
    return int(ops.convert_to_numpy(model.update_state.update_count.value))


def check_p1(model):
    records = model.masked_kernels
    kernels = [record.kernel for record in records]
    found = keras_adapter.optimizer_slots(model.optimizer, kernels)
    for record, slots in zip(records, found, strict=True):
        mask = np.array(record.mask.value)
        for variable, initial in [(record.kernel, 0.0), *slots]:
            off = np.array(variable.value)[~mask]
            np.testing.assert_array_equal(off, np.float32(initial))


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("method", [SET, RigL])
def test_a_gradient_that_is_not_finite_anywhere_changes_no_mask(method, scaled):
    """Here that of one scalar which has no mask; of no kernel."""
    optimizer = keras.optimizers.SGD(0.1)
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model = network(optimizer)
    spoiling = model.get_layer("spoiling")
    model.attach(method(update_interval=1, drop_fraction=0.5))
    for w, updates in ((1.0, 1), (0.0, 1), (1.0, 2)):
        before = masks_of(model)
        spoiling.w.assign(w)
        model.update_state.next_update.assign(0)
        model.train_on_batch(*data())
        assert updates_of(model) == updates
        pairs = zip(before, masks_of(model), strict=True)
        same = [np.array_equal(old, new) for old, new in pairs]
        assert all(same) if w == 0.0 else not any(same)


def grown(kernel, mask, gradient, fraction):
    """The mask after RigL, by NumPy."""
    count = int(np.floor(fraction * mask.sum()))
    order = np.argsort(np.where(mask, np.abs(kernel), np.inf).ravel())
    new = mask.copy().ravel()
    new[order[:count]] = False
    score = np.where(new, -1.0, np.abs(gradient).ravel())
    new[np.argsort(-score)[:count]] = True
    return new.reshape(mask.shape)


def numpy_gradients(model, x, y):
    """Of the kernels of two linear layers, for the mean squared error."""
    (k1, b1), (k2, b2) = [
        [np.array(v.value) for v in layer.layer.trainable_variables]
        for layer in model.sparse_layers
    ]
    hidden = x @ k1 + b1
    error = 2 * (hidden @ k2 + b2 - y) / y.size
    return [x.T @ (error @ k2.T), hidden.T @ error]


def test_an_overflow_in_a_window_costs_growth_nothing():
    """The micro-batch is passed over; absent weights keep their sums."""
    plain = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    model = network(keras.optimizers.LossScaleOptimizer(plain))
    model.attach(RigL(update_interval=1, drop_fraction=0.4))
    first, bad, last = data(seed=1), data(seed=2), data(seed=3)
    bad[0][0, 0] = np.inf
    for _ in range(2):  # the first update is due after one of the optimizer
        model.train_on_batch(*data())
    kernels = [np.array(r.kernel.value) for r in model.masked_kernels]
    masks = masks_of(model)
    both = [numpy_gradients(model, *batch) for batch in (first, last)]
    for batch, count in ((first, 0), (bad, 0), (last, 1)):
        model.train_on_batch(*batch)
        assert updates_of(model) == count
    for kernel, mask, g1, g2, new in zip(
        kernels, masks, *both, masks_of(model), strict=True
    ):
        expected = grown(kernel, mask, (g1 + g2) / 2, 0.4)
        np.testing.assert_array_equal(new, expected)
        # A window that forgot its first gradient would have chosen otherwise.
        assert (grown(kernel, mask, g2 / 2, 0.4) != expected).any()


def test_weights_set_back_in_a_training_leave_no_strays():
    model = network(keras.optimizers.Adam(0.01))
    before = model.get_weights()
    model.attach(SET(update_interval=2, drop_fraction=0.5))
    for _ in range(5):
        model.train_on_batch(*data())
    assert updates_of(model) == 2
    model.set_weights(before)
    check_p1(model)
    model.detach()
    model.train_on_batch(*data())
    check_p1(model)


def test_weights_loaded_in_a_training_leave_no_strays(tmp_path):
    path = tmp_path / "before.weights.h5"
    model = network(keras.optimizers.Adam(0.01))
    model.save_weights(path)

    class Back(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.load_weights(path)

        def on_epoch_end(self, epoch, logs=None):
            keras_adapter.synchronize(self.model)
            check_p1(self.model)

    callbacks = [kft.callbacks.SET(2, 0.5, stop_step=4), Back()]
    x, y = data(32)
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=callbacks)


def test_a_model_compiled_anew_keeps_its_method():
    model = network("sgd")
    method = SET(update_interval=5, drop_fraction=0.3)
    model.attach(method)
    for _ in range(12):
        model.train_on_batch(*data())
    assert updates_of(model) == 2
    model.compile("adam", "mse")
    gradients = [np.zeros(v.shape) for v in model.trainable_variables]
    with pytest.raises(ValueError, match=r"call `model.attach.method.` again"):
        model.apply_gradients(gradients)
    for _ in range(12):
        model.train_on_batch(*data())
    assert updates_of(model) == 4
    assert model.method is method


def test_a_thawed_layer_wants_a_compilation():
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    model = network(optimizer)
    model.sparse_layers[0].trainable = False
    model.compile(optimizer, "mse")
    model.train_on_batch(*data())
    model.sparse_layers[0].trainable = True
    keras_adapter.reset_train_function(model)
    with pytest.raises(ValueError, match="compile the model again"):
        model.train_on_batch(*data())


def test_what_a_method_noted_is_no_hindrance_to_loading(tmp_path):
    path = tmp_path / "w.weights.h5"
    model = network("sgd")
    model.attach(DSTEE(update_interval=2))
    for _ in range(3):
        model.train_on_batch(*data())
    assert "visits" in model.masked_kernels[0].state
    model.save_weights(path)
    fresh = network("sgd")
    fresh.load_weights(path)
    for mine, other in zip(masks_of(fresh), masks_of(model), strict=True):
        np.testing.assert_array_equal(mine, other)
    np.testing.assert_array_equal(fresh.predict(data()[0]), model(data()[0]))
    # And the other way: visits stay as they were.
    visits = np.array(model.masked_kernels[0].state["visits"].value)
    other = network("sgd")
    other.save_weights(path)
    model.load_weights(path)
    for mine, its in zip(masks_of(model), masks_of(other), strict=True):
        np.testing.assert_array_equal(mine, its)
    kept = np.array(model.masked_kernels[0].state["visits"].value)
    np.testing.assert_array_equal(kept, visits)
    with pytest.raises(ValueError, match=r"expected|shape|mismatch"):
        kft.sparsify(
            keras.Sequential([keras.Input((10,)), layers.Dense(5)]), 0.5
        ).load_weights(path)
