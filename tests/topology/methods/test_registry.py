import inspect
import pathlib
import re

import keras
import pytest

from keras_freetickets import callbacks
from keras_freetickets import topology
from keras_freetickets.topology import Method
from keras_freetickets.topology import RigL
from keras_freetickets.topology import get
from keras_freetickets.topology import register

ARGUMENTS = {
    "gmp": (0.9, 2000),
    "granet": (0.9, 2000),
    "itop": (1000,),
    "n_m": (1, 2),
    "ndsnn": (0.9, 2000),
    "chase": (0.5, [{"producers": [0], "readers": [1]}], 2000),
}


def classes():
    """The public methods of the package."""
    public = [getattr(topology, name) for name in topology.__all__]
    return [
        one
        for one in public
        if inspect.isclass(one) and issubclass(one, Method)
    ]


def test_every_public_method_has_a_name():
    own = [
        name
        for name in topology.method_names()
        if type(make(name)).__module__.startswith("keras_freetickets")
    ]
    assert {type(make(name)) for name in own} == set(classes())


def make(name):
    kind = topology.methods.registry._REGISTERED[name]
    return kind(*ARGUMENTS.get(name, ()))


@pytest.mark.parametrize("kind", classes())
def test_every_method_has_a_preset_and_a_row_in_the_docs(kind):
    if kind is Method:
        return
    assert inspect.isclass(getattr(callbacks, kind.__name__))
    docs = pathlib.Path(__file__).parents[3] / "docs" / "methods.md"
    assert re.search(rf"^\| `{kind.__name__}` \|", docs.read_text(), re.M)


@pytest.mark.parametrize("name", ["rigl", "RigL", "RIGL"])
def test_a_name_and_arguments(name):
    method = get(name, update_interval=7)
    assert type(method) is RigL and method.update_interval == 7


def test_class_names_are_names_too():
    assert type(get("DSTEE")) is type(get("dst_ee"))
    assert get("NM", n=1, m=4).m == get("n_m", n=1, m=4).m == 4


def test_a_method_and_a_configuration():
    method = RigL(update_interval=7)
    assert get(method) is method
    again = get(keras.saving.serialize_keras_object(method))
    assert type(again) is RigL and again.update_interval == 7


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: get("rig"), r"one of \['agent'.*did you mean 'rigl'\?"),
        (lambda: get("x"), r"one of \['agent'.*'srigl'.*\]. Received"),
        (lambda: get(5), "must be a keras_freetickets.topology.Method"),
        (lambda: get(RigL), "must be a keras_freetickets.topology.Method"),
        (lambda: get(RigL(), seed=3), "either `method` or its arguments"),
        (lambda: register("RigL"), "`name` must be a string of lower-case"),
        (lambda: register("x")(int), "`register` decorates subclasses"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_argument_that_a_method_does_not_have():
    with pytest.raises(TypeError, match="RigL has no argument `interval`"):
        get("rigl", interval=3)


def test_a_method_of_a_users_own(request):
    registered = topology.methods.registry._REGISTERED
    request.addfinalizer(lambda: registered.pop("largest"))

    @register("largest")
    class Largest(Method):
        pass

    assert type(get("largest", seed=3)) is Largest
    assert keras.saving.get_registered_name(Largest) == "Custom>Largest"
    register("largest")(Largest)  # a cell of a notebook that is run again

    class Other(Method):
        pass

    with pytest.raises(ValueError, match=r"'largest' is .*Received: name="):
        register("largest")(Other)
    with pytest.raises(ValueError, match=r"'rigl' is .*Received: name="):
        register("rigl")(Other)


def test_a_class_named_as_another_is_refused():
    kind = type("SNFS", (Method,), {})
    with pytest.raises(ValueError, match=r"'snfs' is .*methods.snfs.SNFS"):
        register("snfs_2")(kind)
