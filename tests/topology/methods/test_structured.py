import dataclasses

import keras
import numpy as np
import pytest
import updates

import keras_freetickets as kft
from keras_freetickets.topology import NM
from keras_freetickets.topology import ConstantFanInMask
from keras_freetickets.topology import NMMask
from keras_freetickets.topology import SRigL


def nm_network(shape, n, m, axis=-2, seed=0):
    generator = np.random.default_rng(seed)
    kernel = generator.normal(size=shape).astype("float32")
    size = kernel.size // m * n
    mask = NMMask(n, m, axis)(kernel, size, generator)
    gradient = generator.normal(size=shape).astype("float32")
    return [np.where(mask, kernel, 0)], [mask], [gradient]


def groups(array, m, axis):
    return np.moveaxis(array, axis, -1).reshape(-1, m)


@pytest.mark.parametrize(
    "shape, n, m, axis",
    [((16, 5), 2, 4, -2), ((3, 3, 8, 6), 1, 8, 2), ((6, 32), 1, 16, -1)],
)
def test_masks_keep_n_of_m(shape, n, m, axis):
    kernels, masks, gradients = nm_network(shape, n, m, axis)
    method = NM(n, m, axis, drop_fraction=0.5)
    updates.begin(method, kernels, masks)
    (new,), (kept,) = updates.run(
        method, kernels, masks, gradients, fraction=0.5
    )
    assert (groups(new, m, axis).sum(axis=1) == n).all()
    assert kept.sum() == masks[0].sum() - -(-masks[0].sum() // 2)
    # Each group grew what it lost, where its gradients were largest.
    rows = zip(*(groups(a, m, axis) for a in (new, kept, gradients[0])))
    for after, before, gradient in rows:
        absent = np.where(before, -1, np.abs(gradient))
        count = n - before.sum()
        expected = np.sort(absent)[::-1][:count]
        found = np.sort(np.abs(gradient)[after & ~before])[::-1]
        np.testing.assert_array_equal(found, expected)


def test_magnitude_keeps_the_largest():
    kernel = np.array([[3.0, -1], [1, 2], [-2, 4], [0, -3]], "float32")
    mask = NMMask(1, 2, magnitude=True)(kernel, 4, None)
    np.testing.assert_array_equal(mask, [[1, 0], [0, 1], [1, 1], [0, 0]])


def test_patterns_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="`n` and `m` must be"):
        NM(4, 4)
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match="axis -2 .* multiple of m=4"):
        NMMask(2, 4)(np.ones((6, 5)), 15, generator)
    with pytest.raises(ValueError, match="`sparsity` must be 0.5"):
        NMMask(2, 4)(np.ones((8, 5)), 10, generator)
    kernels, masks, _ = updates.network([(8, 5)], [0.5])
    with pytest.raises(ValueError, match="does not keep 2 of every 4"):
        updates.begin(NM(2, 4), kernels, masks)
    kernels, masks, _ = updates.network([(6, 5)], [0.5])
    with pytest.raises(ValueError, match="multiple of m=4"):
        updates.begin(NM(2, 4), kernels, masks)


def test_constant_fan_in_masks():
    mask = ConstantFanInMask()
    shape = (3, 3, 8, 16)
    count = mask.active_count(shape, 0.1)
    assert count == 16 * 7  # 7.2 of 72 inputs
    generator = np.random.default_rng(0)
    found = mask(np.ones(shape, "float32"), count, generator)
    assert (found.reshape(72, 16).sum(axis=0) == 7).all()


def fan_in_network(inputs=40, units=10, fan_in=8, seed=0):
    generator = np.random.default_rng(seed)
    kernel = generator.normal(size=(inputs, units)).astype("float32")
    mask = ConstantFanInMask()(kernel, units * fan_in, generator)
    gradient = generator.normal(size=(inputs, units)).astype("float32")
    return [np.where(mask, kernel, 0)], [mask], [gradient]


def test_srigl_keeps_the_fan_in():
    kernels, masks, gradients = fan_in_network()
    method = SRigL(ablation=0.0)
    updates.begin(method, kernels, masks)
    (new,), (kept,) = updates.run(
        method, kernels, masks, gradients, fraction=0.3
    )
    assert (new.sum(axis=0) == 8).all()
    # The 24 smallest of the layer went, wherever they were.
    size = np.abs(kernels[0][masks[0]])
    np.testing.assert_array_equal(
        np.sort(np.abs(kernels[0][kept])), np.sort(size)[24:]
    )
    for unit in range(10):
        gradient = np.abs(gradients[0][:, unit])
        grown = new[:, unit] & ~kept[:, unit]
        absent = ~kept[:, unit] & ~grown
        assert not grown.any() or gradient[grown].min() > gradient[absent].max()


def test_srigl_removes_units_that_matter_little():
    kernels, masks, gradients = fan_in_network()
    kernels[0][:, 3] *= 1e-3
    gradients[0][:, 3] = 0
    arrays = [[a[0], a[0]] for a in (kernels, masks, gradients)]
    method = SRigL(ablation=0.3)
    updates.begin(method, *arrays[:2])
    (new, last), _ = updates.run(method, *arrays, fraction=0.3)
    # 80 connections for 9 units: 8 each, and 8 are over.
    assert new[:, 3].sum() == 0
    assert (np.delete(new, 3, axis=1).sum(axis=0) == 8).all()
    assert (last.sum(axis=0) == 8).all()  # outputs stay
    # It never comes back. When another goes, the 80 are enough for 10 each.
    gradients[0][:, 3] = 100
    kernels[0][:, 5] *= 1e-3
    gradients[0][:, 5] = 0
    arrays = [[kernels[0] * new, kernels[0]], [new, last], [gradients[0]] * 2]
    (after, _), _ = updates.run(method, *arrays, fraction=0.3)
    expected = np.where(np.isin(np.arange(10), (3, 5)), 0, 10)
    np.testing.assert_array_equal(after.sum(axis=0), expected)


def test_srigl_goes_on_with_the_budget_that_a_layer_began_with():
    kernels, masks, gradients = fan_in_network()
    masks[0][:, 3] = False  # a run that ended with 9 units of 10
    record = updates.Record("layer", kernels[0], masks[0], 80)
    kernels[0][:, 5] = 0.0
    gradients[0][:, 5] = 0.0
    for initial, fan_in in ((80, 10), (400, 9)):
        # Made dense and masked otherwise: 72 connections are the budget.
        method = SRigL(ablation=0.3)
        method.begin([dataclasses.replace(record, initial=initial), record])
        (new,), _ = updates.run(method, kernels, masks, gradients, fraction=0.3)
        assert set(new.sum(axis=0).tolist()) == {0, fan_in}


def test_srigl_refuses_other_masks():
    kernels, masks, _ = updates.network([(40, 10)], [0.2])
    with pytest.raises(ValueError, match="have between .* inputs"):
        updates.begin(SRigL(), kernels, masks)


@pytest.mark.parametrize(
    "made", [NMMask(2, 4, axis=-1, magnitude=True), ConstantFanInMask(True)]
)
def test_mask_initializers_are_saved(made):
    config = keras.saving.serialize_keras_object(made)
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == made.get_config()


@pytest.mark.parametrize(
    "mask, method",
    [
        (NMMask(1, 4), NM(1, 4, update_interval=1)),
        (ConstantFanInMask(), SRigL(update_interval=1)),
    ],
)
def test_trained_saved_and_loaded(tmp_path, mask, method):
    keras.utils.set_random_seed(0)
    dense = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    model = kft.sparsify(dense, 0.75, "uniform", mask_initializer=mask, seed=0)
    model.compile("sgd", "mse")
    method = kft.callbacks.DropAndGrow(method)
    x = np.random.default_rng(0).normal(size=(16, 8))
    model.fit(x, x[:, :4], batch_size=4, verbose=0, callbacks=[method])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for one, other in zip(model.get_weights(), loaded.get_weights()):
        np.testing.assert_array_equal(one, other)
    initializer = loaded.sparse_layers[0].mask_initializer
    assert type(initializer) is type(mask)
    assert initializer.get_config() == mask.get_config()
