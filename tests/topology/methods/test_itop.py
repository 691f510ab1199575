import keras
import numpy as np
import pytest
import updates
from keras import ops

from keras_freetickets.topology import ITOP
from keras_freetickets.topology import SET
from keras_freetickets.topology import RigL


def test_defaults_of_the_released_code():
    random, gradient = ITOP(88_000), ITOP(88_000, growth="gradient")
    assert (random.growth, random.update_interval) == ("random", 1500)
    assert (gradient.growth, gradient.update_interval) == ("gradient", 4000)
    for method in (random, gradient):
        assert (method.start_step, method.stop_step) == (0, None)
        assert (method.rounding, method.apply_on_update) == ("ceil", True)
        # 0.005 + 0.495 / 2 * (1 + cos(pi t / T)), and the floor after T.
        steps = ops.convert_to_tensor([0, 22_000, 44_000, 88_000, 100_000])
        found = ops.convert_to_numpy(method.drop_fraction_at(steps))
        expected = [0.5, 0.427509, 0.2525, 0.005, 0.005]
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert ITOP(88_000, update_interval=7).update_interval == 7


def test_config_round_trip():
    method = ITOP(1000, growth="gradient", seed=3)
    config = keras.saving.serialize_keras_object(method)
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == method.get_config()
    assert again.total_steps == 1000


def test_random_growth_is_not_rigl():
    kernels, masks, gradients = updates.network([(40, 50)], [0.2])
    arguments = (kernels, masks, gradients)
    (ours,), (kept,) = updates.run(ITOP(1000), *arguments, fraction=0.5)
    (rigl,), (same,) = updates.run(RigL(), *arguments, fraction=0.5)
    # Both drop the 200 smallest of 400 and grow 200.
    np.testing.assert_array_equal(kept, same)
    assert ours.sum() == rigl.sum() == 400
    steepness = np.abs(gradients[0])
    assert steepness[rigl & ~kept].min() > steepness[~rigl].max()
    # At random: 200 of 1800 in the mean, five standard deviations.
    common = (ours & rigl & ~kept).sum()
    assert abs(common - 200 / 9) < 5 * np.sqrt(200 / 9 * 8 / 9)
    # It is SET that drops the smallest of both signs.
    (other,), _ = updates.run(SET(drop="magnitude"), *arguments, fraction=0.5)
    np.testing.assert_array_equal(ours, other)


def test_gradient_growth_rounds_up_where_rigl_rounds_down():
    arrays = updates.network([(40, 50)], [0.2])
    arrays[1][0].ravel()[np.flatnonzero(arrays[1][0])[0]] = False
    method = ITOP(1000, growth="gradient")
    _, (kept,) = updates.run(method, *arrays, fraction=0.3)
    _, (rigl,) = updates.run(RigL(), *arrays, fraction=0.3)
    # 0.3 of 399 are 119.7.
    assert (399 - kept.sum(), 399 - rigl.sum()) == (120, 119)


@pytest.mark.parametrize("steps", [0, 2.5, "x"])
def test_bad_total_steps(steps):
    with pytest.raises(ValueError, match="`total_steps` must be a positive"):
        ITOP(steps)
