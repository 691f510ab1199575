import math

import numpy as np
import pytest
import updates
from keras import ops

from keras_freetickets import trainers
from keras_freetickets.topology import DSTEE
from keras_freetickets.topology import RigL


def test_the_score_of_the_sheet():
    # c = 1e-3, epsilon = 1, t = 1000, ln t = 6.907755.
    gradient = np.array([5e-3, 4e-3, 1e-3, 0], "float32")
    visits = np.array([4, 0, 0, 0], "int32")
    inputs = updates.inputs_of(
        [np.zeros(4, "float32")],
        [np.zeros(4, bool)],
        [gradient],
        [{"visits": visits}],
        step=1000,
    )
    (connections,) = inputs.views()
    scores = np.asarray(DSTEE(1e-3).grow_score(connections))
    expected = [0.006382, 0.010908, 0.007908, 0.006908]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    by_hand = gradient + 1e-3 * math.log(1000) / (visits + 1)
    np.testing.assert_allclose(scores, by_hand, rtol=1e-6)


def test_the_choice_of_the_sheet_and_of_rigl():
    # Four absent connections and two active ones, both dropped.
    kernel = np.array([0.1, 0.2, 0, 0, 0, 0], "float32")
    mask = np.array([1, 1, 0, 0, 0, 0], bool)
    gradient = np.array([0, 0, 5e-3, 4e-3, 1e-3, 0], "float32")
    visits = np.array([9, 9, 4, 0, 0, 0], "int32")
    arguments = ([kernel], [mask], [gradient], [{"visits": visits}])
    (new,), _ = updates.run(DSTEE(1e-3), *arguments, fraction=1.0)
    np.testing.assert_array_equal(new, [0, 0, 0, 1, 1, 0])
    (new,), _ = updates.run(RigL(), *arguments, fraction=1.0)
    np.testing.assert_array_equal(new, [0, 0, 1, 1, 0, 0])


def test_without_exploration_it_is_rigl():
    arrays = updates.network([(20, 30), (30, 5)], [0.2, 0.5])
    states = [{"visits": np.ones(k.shape, "int32")} for k in arrays[0]]
    ours, _ = updates.run(DSTEE(0.0), *arrays, states)
    rigl, _ = updates.run(RigL(), *arrays)
    for a, b in zip(ours, rigl, strict=True):
        np.testing.assert_array_equal(a, b)


def rounds(method, count, change_gradient=False):
    """Coverage after each update of a layer of 1000, 100 active."""
    kernels, masks, gradients = updates.network([(1000,)], [0.1], seed=3)
    kernel, mask, gradient = kernels[0], masks[0], gradients[0]
    generator = np.random.default_rng(5)
    visits = method.initial_state(mask)["visits"]
    scalars = {"fraction": np.float32(0.3), "step": np.int32(1000)}

    def update(kernel, mask, visits, number):
        state = {"visits": visits}
        arrays = ([kernel], [mask], [ops.convert_to_tensor(gradient)], [state])
        inputs = trainers.update.KernelBatch(*arrays, **scalars, update=number)
        (pair,) = method.update(inputs.views(), inputs.fraction)
        mask = ops.logical_or(*pair)
        return mask, method.after_update(state, mask)["visits"]

    # Compiled: thirty updates one operation at a time take half a minute.
    update = trainers.get_backend().function(update)
    coverage = []
    for number in range(count):
        arrays = kernel, mask, visits, np.int32(number)
        found = update(*[ops.convert_to_tensor(a) for a in arrays])
        mask, visits = [ops.convert_to_numpy(f) for f in found]
        assert visits.sum() == (number + 2) * 100
        assert mask.sum() == 100
        coverage.append(np.mean(visits > 0))
        kernel = np.where(mask, generator.normal(size=1000), 0)
        kernel = kernel.astype("float32")
    return coverage


def test_strong_exploration_sweeps():
    # 100 active of 1000, 30 replaced: 0.10 + 0.03 q, all at round 30.
    coverage = rounds(DSTEE(1e6), 30)
    expected = 0.10 + 0.03 * np.arange(1, 31)
    np.testing.assert_allclose(coverage, expected, atol=1e-9)


def test_random_growth_covers_less():
    # SET: 1 - 0.9 (1 - 30 / 930)^q in the mean; its standard deviation is
    # less than that of as many independent connections, 0.016.
    coverage = rounds(DSTEE(0.0, growth="random"), 30)
    for number, expected in ((10, 0.35), (20, 0.53), (30, 0.66)):
        mean = 1 - 0.9 * (1 - 30 / 930) ** number
        assert mean == pytest.approx(expected, abs=0.006)
        assert coverage[number - 1] == pytest.approx(mean, abs=0.05)


def test_no_exploration_stalls():
    # A frozen gradient grows the same connections again and again: the sheet
    # has 0.19 after 30 updates.
    coverage = rounds(DSTEE(0.0), 30)
    assert coverage[-1] == pytest.approx(0.19, abs=0.03)
    assert coverage[-1] - coverage[14] < 0.03


def test_scores_relative_to_the_layer():
    kernels, masks, gradients = updates.network([(40, 10)], [0.2])
    states = [{"visits": masks[0].astype("int32")}]
    method = DSTEE(1e-2, score_norm="layer")
    one, _ = updates.run(method, kernels, masks, gradients, states)
    scaled = [gradients[0] * 1024]
    other, _ = updates.run(method, kernels, masks, scaled, states)
    np.testing.assert_array_equal(one[0], other[0])
    raw = DSTEE(1e-2)
    one, _ = updates.run(raw, kernels, masks, [gradients[0] / 1024], states)
    other, _ = updates.run(raw, kernels, masks, scaled, states)
    assert (one[0] != other[0]).any()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"exploration": -1}, "`exploration` must be"),
        ({"exploration": "x"}, "`exploration` must be"),
        ({"epsilon": 0}, "`epsilon` must be"),
        ({"score_norm": "global"}, "`score_norm` must be"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        DSTEE(**arguments)
