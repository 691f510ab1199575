import keras
import pytest

from keras_freetickets.topology import SET
from keras_freetickets.topology import Method
from keras_freetickets.topology import RigL
from keras_freetickets.topology import schedules


@pytest.mark.parametrize(
    "method",
    [
        Method(7, schedules.Cosine(0.5, 100), seed=3),
        RigL(stop=75),
        SET(regrown="reset", grown_value=0.1),
    ],
)
def test_config_round_trip(method):
    config = keras.saving.serialize_keras_object(method)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(method)
    assert again.get_config() == method.get_config()


def test_presets():
    rigl, random = RigL(), SET()
    assert (rigl.growth, rigl.apply_on_update) == ("gradient", False)
    assert (rigl.update_interval, rigl.rounding) == (100, "floor")
    assert (random.growth, random.apply_on_update) == ("random", True)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"update_interval": 0}, "`update_interval` must be a positive"),
        ({"update_interval": 1.5}, "`update_interval` must be a positive"),
        ({"drop_fraction": 1.5}, "`drop_fraction` must be in"),
        ({"drop": "least"}, "`drop` must be one of"),
        ({"drop": ["magnitude"]}, "`drop` must be one of"),
        ({"drop_fraction": "x"}, "`drop_fraction` must be a float"),
        ({"drop_fraction": lambda step: "x"}, "`drop_fraction` must be in"),
        ({"growth": "momentum"}, "`growth` must be one of"),
        ({"growth": 5}, "`growth` must be one of"),
        ({"grown_value": "x"}, "`grown_value` must be a finite"),
        ({"grown_value": float("inf")}, "`grown_value` must be a finite"),
        ({"apply_on_update": "no"}, "`apply_on_update` must be True"),
        ({"seed": None}, "`seed` must be an integer"),
        ({"regrown": "maybe"}, "`regrown` must be one of"),
        ({"rounding": "up"}, "`rounding` must be one of"),
        ({"stop": -1}, "`stop` must be a number"),
        ({"stop": "x"}, "`stop` must be a number"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Method(**arguments)


def test_schedule_out_of_range_at_step_0():
    with pytest.raises(
        ValueError, match=r"`drop_fraction` must be in \[0, 1\]"
    ):
        Method(drop_fraction=lambda step: 1.5)
