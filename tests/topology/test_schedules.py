import math

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_freetickets.topology import schedules


@pytest.mark.parametrize(
    "step, expected",
    [(0, 0.3), (25000, 0.225), (37500, 0.15), (50000, 0.075), (75000, 0.0)],
)
def test_cosine(step, expected):
    schedule = schedules.Cosine(0.3, decay_steps=75000)
    np.testing.assert_allclose(schedule(step), expected, atol=1e-6)


@pytest.mark.parametrize(
    "step, expected", [(22000, 0.427509), (44000, 0.2525), (99000, 0.005)]
)
def test_cosine_with_a_floor(step, expected):
    schedule = schedules.Cosine(0.5, decay_steps=88000, minimum=0.005)
    np.testing.assert_allclose(schedule(step), expected, atol=1e-6)


@pytest.mark.parametrize(
    "step, expected", [(0, 0.4), (50, 0.05), (100, 0.0), (150, 0.0)]
)
def test_inverse_power(step, expected):
    schedule = schedules.InversePower(0.4, decay_steps=100, power=3)
    np.testing.assert_allclose(schedule(step), expected, atol=1e-7)


@given(
    start=st.floats(0, 1),
    minimum=st.floats(0, 1),
    span=st.integers(1, 10**6),
    step=st.integers(0, 2 * 10**6),
    power=st.floats(0.1, 8),
)
@settings(deadline=None)
def test_schedules_against_their_formulas(start, minimum, span, step, power):
    t = min(step / span, 1.0)
    cosine = float(schedules.Cosine(start, span, minimum)(step))
    expected = minimum + (start - minimum) / 2 * (1 + math.cos(math.pi * t))
    assert abs(cosine - expected) < 1e-5
    assert min(start, minimum) - 1e-6 <= cosine <= max(start, minimum) + 1e-6
    falling = float(schedules.InversePower(start, span, power)(step))
    assert abs(falling - start * (1 - t) ** power) < 1e-5
    assert -1e-6 <= falling <= start + 1e-6


def test_constant():
    assert float(schedules.get(0.25)(12345)) == 0.25


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.Constant(0.3),
        schedules.Cosine(0.3, 10, 0.01),
        schedules.InversePower(0.3, 10, 2.0),
    ],
)
def test_config_round_trip(schedule):
    config = keras.saving.serialize_keras_object(schedule)
    again = schedules.get(config)
    assert type(again) is type(schedule)
    assert again.get_config() == schedule.get_config()


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan"), "x", None])
def test_drop_fraction_out_of_range(fraction):
    with pytest.raises(ValueError, match="`drop_fraction` must be in"):
        schedules.Constant(fraction)


@pytest.mark.parametrize("steps", [0, -5, float("nan"), "x", None])
def test_empty_span(steps):
    with pytest.raises(ValueError, match="`decay_steps` must be a positive"):
        schedules.Cosine(0.3, decay_steps=steps)


@pytest.mark.parametrize("power", [0, -1.0, float("nan"), "x", None])
def test_bad_power(power):
    with pytest.raises(ValueError, match="`power` must be a positive"):
        schedules.InversePower(0.3, 10, power=power)


@pytest.mark.parametrize("schedule", ["fast", None, {}, [0.3]])
def test_other_types_are_refused(schedule):
    with pytest.raises(ValueError, match="`drop_fraction` must be a float"):
        schedules.get(schedule)


def test_settings_that_are_changed_later_count():
    changed = schedules.Cosine(0.3, 10)
    changed(keras.ops.convert_to_tensor(0))
    changed.drop_fraction = 0.6
    changed.decay_steps = 20
    fresh = schedules.Cosine(0.6, 20)
    for step in map(keras.ops.convert_to_tensor, (0, 7, 20)):
        assert float(changed(step)) == float(fresh(step))
