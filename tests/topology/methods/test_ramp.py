import keras
import numpy as np
import pytest
import updates

from keras_freetickets.layers.update_state import UpdateState
from keras_freetickets.topology import GMP
from keras_freetickets.topology import NDSNN
from keras_freetickets.topology import GraNet
from keras_freetickets.topology import RigL


def dense(shapes, seed=0):
    return updates.network(shapes, [1.0] * len(shapes), seed)


def test_gmp_follows_the_cubic():
    kernels, masks, gradients = dense([(100, 100), (99, 10)])
    method = GMP(0.9, end_step=1000, update_interval=100)
    updates.begin(method, kernels, masks)
    for number in range(1, 13):
        masks, _kept = updates.run(
            method, kernels, masks, gradients, step=100 * number
        )
        left = max(0.0, 1 - number / 10) ** 3
        for mask, kernel in zip(masks, kernels, strict=True):
            count = round(kernel.size * (0.1 + 0.9 * left))
            assert mask.sum() == count
            assert np.abs(kernel[mask]).min() >= np.abs(kernel[~mask]).max()


def test_gmp_prunes_across_layers():
    kernels, masks, gradients = dense([(100, 100), (100, 10), (3, 2)])
    kernels[1] = kernels[1] * 10
    kernels[2] = kernels[2] * 0
    method = GMP(0.9, end_step=100, update_interval=100, scope="global")
    updates.begin(method, kernels, masks)
    new, _ = updates.run(method, kernels, masks, gradients, step=100)
    # Rounded layer by layer: 1000 + 100 + 1 (the least).
    assert sum(m.sum() for m in new) == 1101
    assert new[1].mean() > 0.5 > new[0].mean()
    assert new[2].sum() == 1  # no layer is emptied
    values = np.concatenate([np.abs(k).ravel() for k in kernels[:2]])
    taken = np.concatenate([m.ravel() for m in new[:2]])
    np.testing.assert_array_equal(
        np.sort(values[taken]), np.sort(values)[-1100:]
    )


def test_gmp_across_layers_follows_the_cubic_in_total():
    shapes = [(50, 40), (40, 50)]
    kernels, masks, gradients = dense(shapes)
    kernels[1] = kernels[1] * 2
    size = np.concatenate([np.abs(k).ravel() for k in kernels])
    method = GMP(0.9, end_step=600, update_interval=100, scope="global")
    updates.begin(method, kernels, masks)
    for number in range(1, 8):
        masks, _ = updates.run(
            method, kernels, masks, gradients, step=100 * number
        )
        left = max(0.0, 1 - number / 6) ** 3
        total = 2 * round(2000 * (0.1 + 0.9 * left))
        taken = np.concatenate([m.ravel() for m in masks])
        assert taken.sum() == total
        assert size[taken].min() > size[~taken].max()
    assert masks[1].sum() > 2 * masks[0].sum()


class Schedule:
    """Shaped as a PruningSchedule of tfmot."""

    def __init__(self, begin_step=200, end_step=600):
        self.begin_step, self.end_step = begin_step, end_step
        self.frequency = 100

    def __call__(self, step):
        done = (step - self.begin_step) / (self.end_step - self.begin_step)
        return True, 0.8 + (0.2 - 0.8) * (1 - done) ** 2


def test_gmp_takes_a_pruning_schedule_over():
    schedule = Schedule()
    taken = GMP.from_schedule(schedule)
    again = GMP.from_config(taken.get_config())
    kernels, masks, gradients = dense([(50, 40)])
    for method in (taken, again):
        updates.begin(method, kernels, masks)
        assert (method.start_step, method.stop_step) == (200, 600)
        for step in (200, 300, 400, 500, 600):
            new, _ = updates.run(method, kernels, masks, gradients, step=step)
            sparsity = schedule(step)[1]
            assert new[0].sum() == round(2000 * (1 - sparsity))


def test_a_schedule_between_updates_reaches_its_final_sparsity():
    # Updates at 100, 200 ... 600, and one more for what is to be at 650.
    schedule = Schedule(50, 650)
    method = GMP.from_schedule(schedule)
    assert (method.start_step, method.end_step, method.stop_step) == (
        100,
        700,
        700,
    )
    expected = [schedule(step)[1] for step in (*range(100, 601, 100), 650)]
    assert method.sparsities == expected
    assert method.final_sparsity == method.sparsities[-1] == 0.8
    kernels, masks, gradients = dense([(50, 40)])
    updates.begin(method, kernels, masks)
    (mask,), _ = updates.run(method, kernels, masks, gradients, step=700)
    assert mask.sum() == 400


def test_a_schedule_without_an_end():
    class Constant(Schedule):
        def __call__(self, step):
            return True, 0.5

    method = GMP.from_schedule(Constant(150, -1))
    assert (method.start_step, method.end_step) == (200, 300)
    assert method.sparsities == [0.5, 0.5]


def test_gmp_takes_over_the_schedules_of_tfmot():
    tfmot = pytest.importorskip("tensorflow_model_optimization")
    polynomial = tfmot.sparsity.keras.PolynomialDecay(
        0.2, 0.8, begin_step=200, end_step=600, power=2, frequency=100
    )
    method = GMP.from_schedule(polynomial)
    kernels, masks, gradients = dense([(50, 40)])
    updates.begin(method, kernels, masks)
    # 0.8 - 0.6 (1 - done)^2 at done = 0, 1/4 ... 1
    active = {200: 1600, 300: 1075, 400: 700, 500: 475, 600: 400}
    for step, expected in active.items():
        assert bool(polynomial(np.int64(step))[0])
        masks, _ = updates.run(method, kernels, masks, gradients, step=step)
        assert masks[0].sum() == expected
    constant = tfmot.sparsity.keras.ConstantSparsity(0.5, begin_step=100)
    method = GMP.from_schedule(constant)
    assert method.start_step == 100
    assert method.sparsities == [0.5, 0.5]


def update(method, kernels, masks, gradients, step):
    """An update at a step, with the method's own drop fraction there."""
    fraction = method.drop_fraction_at(np.int32(step))
    return updates.run(
        method, kernels, masks, gradients, step=step, fraction=fraction
    )


def test_ndsnn_worked_case():
    # n = 10,000, sparsity .8 to .98 in 20 updates, drop fraction .5 to .05.
    kernels, masks, gradients = updates.network([(100, 100)], [0.2])
    method = NDSNN(0.98, end_step=2000, update_interval=100)
    updates.begin(method, kernels, masks)
    expected = {  # update: dropped, active after, grown
        1: (994, 1743, 737),
        2: (852, 1512, 621),
        10: (137, 425, 63),
        20: (10, 200, 10),
    }
    mask = masks[0]
    # What an update does depends on the count that the one before it left.
    for number in (1, 2, 9, 10, 19, 20):
        before = mask
        (mask,), (kept,) = update(
            method, kernels, [mask], gradients, step=100 * number
        )
        dropped = before.sum() - kept.sum()
        grown = (mask & ~kept).sum()
        assert grown <= dropped
        if number in expected:
            assert (dropped, mask.sum(), grown) == expected[number]


def test_ndsnn_drops_enough_for_a_steep_ramp():
    # Without the guard the first updates would have to grow a negative number.
    kernels, masks, gradients = updates.network([(100, 100)], [0.2])
    method = NDSNN(0.99, end_step=300, update_interval=100, drop_fraction=0.1)
    updates.begin(method, kernels, masks)
    for number in (1, 2, 3):
        masks, _ = update(method, kernels, masks, gradients, step=100 * number)
        left = (1 - number / 3) ** 3
        assert masks[0].sum() == round(10_000 * (0.01 + 0.19 * left))


def test_ndsnn_leaves_layers_that_stay_dense_alone():
    kernels, masks, gradients = updates.network([(3, 5), (40, 50)], [1.0, 0.2])
    method = NDSNN(
        0.98,
        end_step=300,
        update_interval=100,
        distribution=lambda shapes, sparsity: [1.0, 0.02],
        regrown="reset",
    )
    updates.begin(method, kernels, masks)
    (new, _), (kept, other) = update(
        method, kernels, masks, gradients, step=100
    )
    assert new.all() and kept.all()
    assert other.sum() < 400 / 2
    # Dense only at first: it takes part in the ramp.
    method = NDSNN(
        0.8, end_step=300, update_interval=100, distribution="uniform"
    )
    updates.begin(method, kernels, masks)
    (new, _), _ = update(method, kernels, masks, gradients, step=100)
    # 15 * (0.2 + 0.8 * (2 / 3)^3) = 6.56
    assert new.sum() == 7


@pytest.mark.parametrize("begin, first", [(0, 100), (200, 300), (250, 300)])
def test_the_first_round_of_ndsnn(begin, first):
    method = NDSNN(0.98, end_step=700, start_step=begin, update_interval=100)
    method = NDSNN.from_config(method.get_config())
    assert method.get_config()["start_step"] == begin
    optimizer = keras.optimizers.SGD()
    optimizer.build([])
    topology = UpdateState()
    topology.begin(optimizer, method)
    due = []
    for step in range(0, 401, 50):
        optimizer.iterations.assign(step)
        if bool(topology.is_due(optimizer, method)):
            due.append(step)
    assert due[0] == first
    assert int(method.number(first)) == 1


def test_ndsnn_across_layers_drops_the_larger_of_share_and_surplus():
    kernels, masks, gradients = updates.network([(40, 50), (50, 20)], [0.2] * 2)
    kernels[1] = kernels[1] * 3
    method = NDSNN(
        0.9,
        end_step=400,
        update_interval=100,
        distribution="uniform",
        scope="global",
    )
    updates.begin(method, kernels, masks)
    for number in (1, 2, 3, 4):
        before = sum(m.sum() for m in masks)
        fraction = 0.05 + 0.225 * (1 + np.cos(np.pi * number / 4))
        share = sum(np.floor(fraction * m.sum() + 0.5) for m in masks)
        density = 0.1 + 0.1 * (1 - number / 4) ** 3
        total = sum(round(n * density) for n in (2000, 1000))
        masks, kept = update(
            method, kernels, masks, gradients, step=100 * number
        )
        assert sum(m.sum() for m in masks) == total
        dropped = before - sum(k.sum() for k in kept)
        assert dropped == max(share, before - total)


def test_ndsnn_at_constant_sparsity_is_rigl():
    kernels, masks, gradients = updates.network([(40, 50), (50, 10)], [0.2] * 2)
    method = NDSNN(
        0.8,
        end_step=1000,
        update_interval=100,
        drop_fraction=0.3,
        minimum_drop_fraction=0.3,
        distribution="uniform",
        rounding="floor",
    )
    updates.begin(method, kernels, masks)
    ours, _ = update(method, kernels, masks, gradients, step=100)
    rigl, _ = updates.run(RigL(), kernels, masks, gradients, fraction=0.3)
    for a, b in zip(ours, rigl, strict=True):
        np.testing.assert_array_equal(a, b)


def test_ndsnn_drops_the_share_that_it_is_told():
    """As at the beginning of a ticket of EDST, also after the ramp."""
    kernels, masks, gradients = updates.network([(100, 100)], [0.2])
    method = NDSNN(0.9, end_step=300, update_interval=100)
    updates.begin(method, kernels, masks)
    for step, active in ((150, 1296), (1000, 1000)):
        (mask,), (kept,) = updates.run(
            method, kernels, masks, gradients, step=step, fraction=0.8
        )
        # 1,000 + 1,000 * (2 / 3)^3, rounded; 2,000 - 1,600 are kept.
        assert (mask.sum(), kept.sum()) == (active, 400)


def test_the_rate_of_granet_s_code():
    """Its `curr_prune_rate`, of which it leaves out the last round."""
    granet = GraNet(0.9, end_step=8000, update_interval=1000)
    initial, final = np.array([0.5]), np.array([0.1])
    for number in range(9):
        decay = (1 - number / 8) ** 3
        rate = (1 - 0.5) + (0.5 - 0.1) * (1 - decay)
        (density,) = granet.densities(number, initial, final)
        assert density == pytest.approx(1 - rate, rel=1e-12)


def test_granet_prunes_all_layers_together_and_regrows_in_each():
    shapes, densities = [(60, 50), (50, 20)], [0.5, 0.5]
    kernels, masks, gradients = updates.network(shapes, densities)
    kernels[1] = kernels[1] * 3
    method = GraNet(0.9, end_step=400, update_interval=100)
    updates.begin(method, kernels, masks)
    totals = []
    for number in (1, 2, 3, 4, 5):
        masks, kept = updates.run(
            method, kernels, masks, gradients, step=100 * number, fraction=0.5
        )
        totals.append(sum(int(m.sum()) for m in masks))
        for mask, k in zip(masks, kept, strict=True):
            # Half of what pruning left was dropped, rounded up, and regrown.
            assert k.sum() == mask.sum() - -(-mask.sum() // 2)
    left = [(1 - q / 4) ** 3 for q in (1, 2, 3, 4, 4)]
    by_layer = [
        [round(n * (0.1 + 0.4 * x)) for n in (3000, 1000)] for x in left
    ]
    assert totals == [sum(counts) for counts in by_layer]
    assert masks[1].mean() > masks[0].mean()


def _by_list(sparsities):
    return GMP(0.9, end_step=300, update_interval=100, sparsities=sparsities)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: GMP(1.0, end_step=10), "`final_sparsity` must be"),
        (lambda: GMP(0.9, end_step=50), "`end_step` must be"),
        (lambda: GMP(0.9, end_step=500, power=0), "`power` must be"),
        (
            lambda: GMP(0.9, end_step=500, sparsities=[0.1]),
            "`sparsities` must have",
        ),
        (lambda: _by_list([0, 0.5, 3.0, 0.2]), "`sparsities` must be in"),
        (lambda: _by_list([0, 0.5, 0.4, 0.6]), "`sparsities` .* must not fall"),
        (lambda: _by_list([0, 0.5, 0.6, 1]), "`sparsities` must be in"),
        (lambda: _by_list([0, 0.5, 0.6, "x"]), "`sparsities` must be in"),
        (
            lambda: GMP(0.9, end_step=500, start_step=-5),
            "`start_step` must be a number",
        ),
        (
            lambda: GraNet(0.9, end_step=5000, start_step="x"),
            "`start_step` must be a number",
        ),
        (lambda: NDSNN(0.9, 5000, drop_fraction=2), "`drop_fraction` must"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("method", [GMP, NDSNN, GraNet])
def test_a_network_that_is_sparser_already(method):
    kernels, masks, _ = updates.network([(40, 50)], [0.05])
    with pytest.raises(ValueError, match=r"`?final_sparsity"):
        updates.begin(method(0.9, end_step=5000), kernels, masks)


def test_a_method_must_be_attached_first():
    arrays = updates.network([(4, 5)], [0.5])
    with pytest.raises(RuntimeError, match="must be attached"):
        updates.run(GMP(0.9, end_step=500), *arrays)
