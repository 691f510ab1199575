import inspect

import keras
import numpy as np
import pytest

from keras_freetickets import callbacks
from keras_freetickets import topology
from keras_freetickets.topology import SET
from keras_freetickets.topology import Method
from keras_freetickets.topology import RigL
from keras_freetickets.topology import schedules
from keras_freetickets.topology.methods.method import named_criteria


@pytest.mark.parametrize(
    "method",
    [
        Method(7, schedules.Cosine(0.5, 100), seed=3),
        RigL(stop_step=75),
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


class _OwnScore(RigL):
    def grow_score(self, view):
        return keras.ops.abs(view.gradient)


class _OwnBudget(SET):
    def budget(self, views, fraction):
        return super().budget(views, fraction)


@pytest.mark.parametrize(
    ("method", "names"),
    [
        (Method(), ("magnitude", "gradient")),
        (RigL(drop="random"), ("random", "gradient")),
        (RigL(drop=topology.criteria.magnitude), ("magnitude", "gradient")),
        (topology.ITOP(100), ("magnitude", "random")),
        (SET(), ("signed_magnitude", "random")),
        (SET(drop="magnitude"), ("magnitude", "random")),
        # What an update does is more, or other, than its criteria say.
        (RigL(growth=lambda view: view.kernel), None),
        (SET(growth=lambda view: view.kernel), None),
        (RigL(scope="global"), None),
        (topology.GMP(0.9, 1000), None),
        (topology.GraNet(0.9, 1000), None),
        (topology.SRigL(), None),
        (_OwnScore(), None),
        (_OwnBudget(), None),
    ],
)
def test_updates_that_are_their_criteria_alone(method, names):
    assert named_criteria(method) == names


def test_regrowth_of_the_released_codes():
    """Those of AGENT, CigL and MOON round up and zero every grown weight."""
    methods = [
        topology.AGENT(),
        topology.CigL(),
        callbacks.MOON(epochs=100).method,
        callbacks.MOON(epochs=100, stop_step=50, rounding="floor").method,
        RigL(),
    ]
    found = [(method.rounding, method.regrown) for method in methods]
    ours = ("ceil", "reset")
    own = [ours, ours, ours, ("floor", "reset"), ("floor", "keep")]
    assert found == own
    assert topology.AGENT(regrown="keep").regrown == "keep"


FAMILY = [
    kind
    for kind in vars(topology).values()
    if inspect.isclass(kind) and issubclass(kind, Method)
]
PRESETS = [
    kind
    for kind in vars(callbacks).values()
    if inspect.isclass(kind) and issubclass(kind, callbacks.DropAndGrow)
]
SHARED = {"regrown", "rounding", "stop_step", "seed", "update_interval"}


@pytest.mark.parametrize("kind", [*FAMILY, *PRESETS])
def test_signatures_show_every_argument(kind):
    shown = inspect.signature(kind).parameters
    kinds = {one.kind for one in shown.values()}
    # Which arguments `DropAndGrow` takes is known once it has a method.
    is_open = kind is callbacks.DropAndGrow
    assert (inspect.Parameter.VAR_KEYWORD in kinds) == is_open
    assert is_open or set(shown) >= SHARED
    if kind in FAMILY:
        assert {*MADE.get(kind, kind)().get_config()} <= set(shown)


GROUPS = [{"producers": [0], "readers": [1]}]
MADE = {
    topology.Chase: lambda: topology.Chase(0.5, GROUPS, 5000),
    topology.GMP: lambda: topology.GMP(0.9, 5000),
    topology.GraNet: lambda: topology.GraNet(0.9, 5000),
    topology.ITOP: lambda: topology.ITOP(5000),
    topology.NDSNN: lambda: topology.NDSNN(0.9, 5000),
    topology.NM: lambda: topology.NM(2, 4),
}


@pytest.mark.parametrize("kind", FAMILY)
def test_defaults_that_are_shown_are_those_that_count(kind):
    shown = inspect.signature(kind).parameters
    config = MADE.get(kind, kind)().get_config()
    for name, value in config.items():
        default = shown[name].default
        if default is inspect.Parameter.empty or default is None:
            continue  # required, or worked out from other arguments
        if name == "drop_fraction":
            constant = not isinstance(value, float)
            value = value["config"]["drop_fraction"] if constant else value
        assert value == default, name


class Own(RigL):
    def __init__(self, *args, sharpness=2.0, **kwargs):
        super().__init__(*args, **kwargs)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: RigL(interval=3), r"RigL has no .*`interval` \(did you mean"),
        (lambda: callbacks.RigL(interval=3), "did you mean `update_interval`"),
        (lambda: SET(drop_fracton=0.3), "mean `drop_fraction`.*Received: drop"),
        (lambda: topology.GMP(0.9, 100, step=5), "GMP has no argument `step`"),
        (lambda: callbacks.GMP(0.9, 100, ende=5), "did you mean `end_step`"),
        (lambda: callbacks.EDST(2, 2, tickets=5), "EDST has.*`num_tickets`"),
        (lambda: callbacks.DST("a", zeta=5), "DST has no argument `zeta`. Its"),
        (lambda: callbacks.MOON(9, vote=5), "MOON has.*`votes_per_epoch`"),
        (lambda: callbacks.AGENT([], gamma=1), "AGENT has no argument `gamma`"),
        (lambda: Own(sharpnes=1), "Own has.*mean `sharpness`"),
    ],
)
def test_an_unknown_argument_names_the_class_and_the_nearest(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_presets_are_classes():
    rigl = callbacks.RigL(update_interval=3, track_ever_active=True)
    assert isinstance(rigl, callbacks.RigL) and rigl.track_ever_active
    assert rigl.method.update_interval == 3
    assert Own(7, sharpness=1.0, stop_step=3).stop_step == 3


@pytest.mark.parametrize(
    "name, missing, companion",
    [
        ("AGENT", "data", "GradientSnapshots"),
        ("CigL", "start_epoch", "WeightAveraging"),
    ],
)
def test_a_method_without_what_its_callback_needs(name, missing, companion):
    method = getattr(topology, name)()
    message = f"`{missing}` must be given with the method {name}: its callback"
    for given in (method, name):
        with pytest.raises(ValueError, match=f"{message} {companion} needs"):
            callbacks.DropAndGrow(given)


BATCHES = [(np.zeros((2, 3)), np.zeros(2))]


def test_a_method_brings_its_callbacks_along(tmp_path):
    agent = callbacks.AGENT(BATCHES, scale=0.2)
    found = [
        callbacks.DropAndGrow(topology.AGENT(scale=0.2), data=BATCHES),
        callbacks.DropAndGrow("agent", data=BATCHES, scale=0.2),
        callbacks.DST(tmp_path, method="agent", data=BATCHES, scale=0.2),
        callbacks.EDST(
            2, 2, directory=tmp_path, method=agent.method, data=BATCHES
        ),
    ]
    for callback in found:
        callback = getattr(callback, "drop_and_grow", callback)
        assert callback.method.scale == 0.2
        assert [type(one) for one in callback.parts] == [
            callbacks.GradientSnapshots
        ]
    cigl = callbacks.DropAndGrow("cigl", start_epoch=3, random_drop=0.1)
    (average,) = cigl.parts
    assert isinstance(average, callbacks.WeightAveraging)
    assert average.start_epoch == 3 and cigl.method.random_drop == 0.1


@pytest.mark.parametrize("method", ["cigl", topology.CigL()])
def test_tickets_of_averaged_weights_are_refused(method, tmp_path):
    for make in (
        lambda: callbacks.DST(tmp_path, method=method),
        lambda: callbacks.EDST(2, 2, directory=tmp_path, method=method),
    ):
        with pytest.raises(ValueError, match="can train with: CigL averages"):
            make()


def test_moon_and_cigl_take_methods():
    with pytest.raises(ValueError, match="GradientSnapshots'], which AGENT"):
        callbacks.MOON(epochs=50, method=topology.AGENT())
    method = topology.CigL()
    moon = callbacks.MOON(epochs=50, method=method)
    assert moon.method is method and len(moon.parts) == 2
    assert callbacks.CigL(3, method=method).method is method
    with pytest.raises(ValueError, match="`method` must be a keras_freet"):
        callbacks.CigL(3, method=RigL())
    with pytest.raises(ValueError, match="either `method` or its"):
        callbacks.CigL(3, method=method, stop_step=3)


def test_a_callback_of_a_users_own_comes_along():
    class Companion(keras.callbacks.Callback):
        def __init__(self, depth):
            super().__init__()
            self.depth = depth

    class WithCompanion(topology.Method):
        companions = (Companion,)

    callback = callbacks.DropAndGrow(WithCompanion(), depth=3)
    assert callback.parts[0].depth == 3
    with pytest.raises(ValueError, match="`depth` must be given"):
        callbacks.DropAndGrow(WithCompanion())
    given = Companion(5)
    callback = callbacks.DropAndGrow(WithCompanion(), companions=[given])
    assert callback.parts == [given]
    WithCompanion.companions = ("Missing",)
    with pytest.raises(ValueError, match="`companions` of a method must be"):
        callbacks.DropAndGrow(WithCompanion())


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
        ({"stop_step": -1}, "`stop_step` must be a number"),
        ({"stop_step": "x"}, "`stop_step` must be a number"),
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
