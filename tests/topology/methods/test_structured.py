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
    rows = zip(
        *(groups(a, m, axis) for a in (new, kept, gradients[0])), strict=True
    )
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
    with pytest.raises(ValueError, match=r"axis -2 .* multiple of m=4"):
        NMMask(2, 4)(np.ones((6, 5)), 15, generator)
    with pytest.raises(ValueError, match=r"`sparsity` must be 0.5"):
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


def srigl(kernels, masks, gradients, ablation=0.3):
    """The new masks of layers that may lose units, and of a last one."""
    arrays = [[*a, a[0]] for a in (kernels, masks, gradients)]
    method = SRigL(ablation=ablation)
    updates.begin(method, *arrays[:2])
    (*new, last), _ = updates.run(method, *arrays, fraction=0.3)
    return new, last


def test_srigl_keeps_a_unit_with_enough_salient_connections():
    # 8 inputs, 4 units of 4 connections: 0.3 of 4 is rounded down to 1.
    kernel = np.zeros((8, 4), "float32")
    kernel[:4] = np.arange(16, 0, -1).reshape(4, 4, order="F")
    kernel[:4, 3] = [0.9, 0.1, 0.1, 0.1]  # one of the 12 largest
    kernel[3, 2] = 0.5
    gradient = np.ones((8, 4), "float32")
    gradient[:, 3] = 0
    (new,), _ = srigl([kernel], [kernel != 0], [gradient])
    assert new.sum(axis=0).tolist() == [4, 4, 4, 4]
    kernel[0, 3] = 0.1
    (new,), last = srigl([kernel], [kernel != 0], [gradient])
    assert new.sum(axis=0).tolist() == [5, 5, 5, 0]
    # What the removed unit had is what is dropped: the others keep theirs.
    assert new[kernel != 0].reshape(4, 4)[:, :3].all()
    assert last.sum(axis=0).tolist() == [4, 4, 4, 4]  # outputs stay


def test_srigl_lets_a_unit_return():
    kernels, masks, gradients = fan_in_network()
    kernels[0][:, 3] *= 1e-3
    gradients[0][:, 3] = 0
    (new,), _ = srigl(kernels, masks, gradients)
    # 80 connections for 9 units: 8 each, and 8 are over.
    expected = np.where(np.arange(10) == 3, 0, 8)
    np.testing.assert_array_equal(new.sum(axis=0), expected)
    # When another goes, the 80 are enough for 10 each.
    kernels[0][:, 5] *= 1e-3
    gradients[0][:, 5] = 0
    method = SRigL(ablation=0.3)
    updates.begin(method, [kernels[0]] * 2, [masks[0]] * 2)
    arrays = [kernels[0] * new, kernels[0]], [new, masks[0]]
    (after, _), _ = updates.run(
        method, *arrays, [gradients[0]] * 2, fraction=0.3
    )
    expected = np.where(np.isin(np.arange(10), (3, 5)), 0, 10)
    np.testing.assert_array_equal(after.sum(axis=0), expected)
    # Salient gradients bring the first one back.
    gradients[0][:, 3] = 100
    (after, _), _ = updates.run(
        method, *arrays, [gradients[0]] * 2, fraction=0.3
    )
    expected = np.where(np.arange(10) == 5, 0, 8)
    np.testing.assert_array_equal(after.sum(axis=0), expected)


def test_srigl_keeps_as_many_units_as_hold_the_connections():
    # 4 inputs and 3 units with 3 connections: 9 connections need 3 units.
    kernel = np.array([[9, 8, 1], [9, 8, 1], [9, 8, 1], [0, 0, 0]], "float32")
    gradient = np.zeros((4, 3), "float32")
    (new,), _ = srigl([kernel], [kernel != 0], [gradient], ablation=0.9)
    assert new.sum(axis=0).tolist() == [3, 3, 3]


def test_srigl_drops_all_weights_of_zero():
    # 4 of 8 connections have a weight of 0, and 0.3 of 8 are 2.
    kernel = np.zeros((8, 2), "float32")
    kernel[:2] = [[4, 3], [2, 1]]
    mask = np.zeros((8, 2), bool)
    mask[:4] = True
    gradient = np.where(np.arange(8)[:, None] < 6, 0, [[1], [2]] * 4)
    (new,), _ = srigl([kernel], [mask], [gradient.astype("float32")])
    assert new[[0, 1, 6, 7]].all() and new.sum() == 8


# Layers of 16 inputs and 8 units of the fan-in given first: after two updates
# in a row how many inputs each unit has and the sum of all active positions.
# Numbers of calgaryml/condensed-sparsity 3052bb8, whose `_rigl_step` was run
# on the layers of `srigl_layers` with torch 2.13 (float32, a drop fraction of
# 0.3, `min_salient_weights_per_neuron=0.3`). No sum where a unit returned and
# others had to give up connections: the code keeps their first ones.
SRIGL_CODE = {
    2: [([2, 2, 2, 2, 0, 2, 0, 2], 700), ([2, 2, 0, 2, 0, 2, 2, 2], 612)],
    3: [([3] * 8, 1404), ([3] * 8, 1420)],
    4: [([4, 4, 4, 4, 4, 0, 4, 4], 1940), ([5, 5, 5, 5, 0, 0, 5, 5], 1879)],
    5: [([5] * 8, 2604), ([5, 5, 5, 5, 0, 5, 5, 5], 2312)],
    6: [([8, 8, 8, 8, 8, 0, 8, 0], 2880), ([6] * 8, None)],
    7: [([8, 8, 8, 0, 8, 8, 8, 8], 3680), ([8, 8, 8, 0, 8, 8, 8, 8], 3520)],
    8: [([9, 9, 0, 9, 9, 9, 9, 9], 4170), ([8] * 8, None)],
}


def srigl_layers(masks=None, step=0):
    """Kernels, masks and gradients of layers whose units differ in size."""
    generator = np.random.default_rng(7 + step)
    layers = []
    for i, fan_in in enumerate(SRIGL_CODE):
        scale = 10 ** generator.uniform(-2, 0.5, (2, 1, 8))
        kernel, gradient = generator.normal(size=(2, 16, 8)) * scale
        order = generator.permuted(np.tile(np.arange(16)[:, None], 8), axis=0)
        mask = order < fan_in if masks is None else masks[i]
        kernel, gradient = [a.astype("float32") for a in (kernel, gradient)]
        layers.append((kernel * mask, mask, gradient))
    return [list(arrays) for arrays in zip(*layers, strict=True)]


def test_srigl_against_the_released_code():
    masks = None
    method = SRigL(ablation=0.3)
    for step in range(2):
        # One more layer, as the last one loses no units.
        arrays = [[*a, a[0]] for a in srigl_layers(masks, step)]
        if step == 0:
            updates.begin(method, *arrays[:2])
        (*masks, _), _ = updates.run(method, *arrays, fraction=0.3)
        for expected, mask in zip(SRIGL_CODE.values(), masks, strict=True):
            fan_ins, positions = expected[step]
            assert mask.sum(axis=0).tolist() == fan_ins
            found = int(np.flatnonzero(mask).sum())
            assert positions in (None, found)


def test_srigl_goes_on_with_the_budget_that_a_layer_began_with():
    kernels, masks, gradients = fan_in_network()
    masks[0][:, 3] = False  # a run that ended with 9 units of 10
    record = updates.Record("layer", kernels[0], masks[0], 80)
    kernels[0][:, 5] = 0.0
    gradients[0][:, [3, 5]] = 0.0
    for initial, fan_in in ((80, 10), (400, 9)):
        # Made dense and masked otherwise: 72 connections are the budget.
        method = SRigL(ablation=0.3)
        method.begin([dataclasses.replace(record, initial=initial), record])
        (new,), _ = updates.run(method, kernels, masks, gradients, fraction=0.3)
        assert set(new.sum(axis=0).tolist()) == {0, fan_in}


def test_srigl_refuses_other_masks():
    kernels, masks, _ = updates.network([(40, 10)], [0.2])
    with pytest.raises(ValueError, match=r"have between .* inputs"):
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
    stack = [keras.layers.Dense(units) for units in (8, 4)]
    dense = keras.Sequential([keras.Input((8,)), *stack])
    model = kft.sparsify(dense, 0.75, "uniform", mask_initializer=mask, seed=0)
    model.compile("sgd", "mse", run_eagerly=True)
    method = kft.callbacks.DropAndGrow(method)
    x = np.random.default_rng(0).normal(size=(16, 8))
    model.fit(x, x[:, :4], batch_size=4, verbose=0, callbacks=[method])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for one, other in zip(
        model.get_weights(), loaded.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    initializer = loaded.sparse_layers[0].mask_initializer
    assert type(initializer) is type(mask)
    assert initializer.get_config() == mask.get_config()
