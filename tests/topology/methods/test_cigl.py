import keras
import numpy as np
import pytest
import updates
from keras import layers

import keras_freetickets as kft
from keras_freetickets.topology import CigL
from keras_freetickets.topology import RigL


def connections(step=7, seed=3, shape=(300, 200)):
    arrays = updates.network([shape, shape], [0.3, 0.3])
    return updates.inputs_of(*arrays, step=step, seed=seed).views()


def test_switched_off_at_the_given_rate():
    method = CigL(random_drop=0.1)
    for c in connections():
        off = ~np.asarray(method.stays(c))
        n = off.size
        assert abs(off.mean() - 0.1) < 3 * np.sqrt(0.1 * 0.9 / n)
        (kernel,) = method.forward_kernels([c])
        expected = np.where(off, 0, np.asarray(c.kernel))
        np.testing.assert_array_equal(np.asarray(kernel), expected)


def test_masks_of_steps_and_layers_are_independent():
    method = CigL(random_drop=0.5)
    one, two = connections(step=7)
    later, _ = connections(step=8)
    a, b, c = [np.asarray(method.stays(x)) for x in (one, two, later)]
    for other in (b, c):
        assert abs((a == other).mean() - 0.5) < 0.01
    again, _ = connections(step=7)
    np.testing.assert_array_equal(a, np.asarray(method.stays(again)))


def test_growth_and_drop_ignore_the_random_mask():
    arrays = updates.network([(50, 40)], [0.3])
    ours, _ = updates.run(CigL(random_drop=0.5), *arrays)
    rigl, _ = updates.run(RigL(rounding="ceil"), *arrays)
    np.testing.assert_array_equal(ours[0], rigl[0])


def network(rate=0.05):
    keras.utils.set_random_seed(2)
    inputs = keras.Input((6,))
    x = layers.Dense(20, activation="relu", name="a")(inputs)
    model = kft.sparsify(keras.Model(inputs, layers.Dense(3)(x)), 0.5, seed=1)
    optimizer = keras.optimizers.SGD(rate, momentum=0.9)
    model.compile(optimizer, "mse")
    return model


def data():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(32, 6)).astype("float32")
    return x, generator.normal(size=(32, 3)).astype("float32")


def kernels(model):
    return [np.array(r.kernel.value) for r in model.masked_kernels]


def test_without_a_random_mask_it_is_rigl():
    runs = []
    own = {"rounding": "ceil", "regrown": "reset"}
    for method in (RigL(3, seed=5, **own), CigL(0.0, 3, seed=5)):
        model = network()
        model.attach(method)
        for _ in range(8):
            model.train_on_batch(*data())
        runs.append(kernels(model))
    for a, b in zip(*runs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_step_moves_only_what_stayed():
    model = network()
    method = CigL(0.5, update_interval=1000, seed=9)
    model.attach(method)
    for number in range(4):
        before = kernels(model)
        model.train_on_batch(*data())
        after = kernels(model)
        inputs = updates.inputs_of(
            before,
            [np.asarray(r.mask.value) for r in model.masked_kernels],
            before,
            step=number,
            seed=9,
        )
        for c, a, b in zip(inputs.views(), before, after, strict=True):
            stays = np.asarray(method.stays(c))
            np.testing.assert_array_equal(a[~stays], b[~stays])
            assert (a != b)[stays & np.asarray(c.mask)].mean() > 0.4


def test_the_gradient_is_that_of_the_kernels_in_use():
    # One linear layer, plain SGD: the step by hand.
    inputs = keras.Input((4,))
    dense = keras.Model(inputs, layers.Dense(1, use_bias=False)(inputs))
    model = kft.sparsify(dense, 0.25, seed=0)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    method = CigL(0.5, update_interval=1000, seed=4)
    model.attach(method)
    generator = np.random.default_rng(1)
    x = generator.normal(size=(16, 4)).astype("float32")
    y = generator.normal(size=(16, 1)).astype("float32")
    (record,) = model.masked_kernels
    kernel, mask = np.array(record.kernel.value), np.array(record.mask.value)
    for number in range(6):
        arguments = ([kernel], [mask], [kernel])
        (c,) = updates.inputs_of(*arguments, step=number, seed=4).views()
        stays = np.asarray(method.stays(c)) & mask
        error = x @ np.where(stays, kernel, 0) - y
        gradient = 2 * x.T @ error / 16
        kernel = np.where(stays, kernel - 0.1 * gradient, kernel)
        model.train_on_batch(x, y)
        found = np.asarray(record.kernel.value)
        np.testing.assert_allclose(found, kernel, rtol=1e-4, atol=1e-6)


def test_bad_arguments():
    with pytest.raises(ValueError, match="`random_drop` must be in"):
        CigL(random_drop=1.0)


def test_attached_alone_it_is_refused():
    model = network()
    model.attach(CigL(0.5))
    with pytest.raises(ValueError, match="`callbacks` must hold WeightAver"):
        model.fit(*data(), verbose=0)
