import inspect

import keras
import pytest

from keras_freetickets import trainers
from keras_freetickets.trainers import backend

pytestmark = pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="has no training step"
)
PROTOCOLS = {
    backend.Backend: trainers.get_backend,
    backend.MembersBackend: trainers.get_members_backend,
}


def methods_of(kind):
    return {
        name: value
        for name, value in vars(kind).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }


def accepts_as_called(implemented, promised):
    """Whether arguments by position and name arrive in both alike."""
    names = list(inspect.signature(implemented).parameters)
    wanted = list(inspect.signature(promised).parameters)
    if "args" in wanted:  # differ in what Keras' trainer hands over
        wanted = wanted[: wanted.index("args")]
    if "args" in names:  # refuses, whatever it is given
        return names[: names.index("args")] == wanted[: names.index("args")]
    return names[: len(wanted)] == wanted


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_backend_has_every_method_of_the_protocol(protocol):
    made = type(PROTOCOLS[protocol]())
    promised = methods_of(protocol)
    assert promised.keys() == methods_of(made).keys()
    for name, function in promised.items():
        assert accepts_as_called(getattr(made, name), function), name


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_method_of_the_protocol_is_documented(protocol):
    for name, function in methods_of(protocol).items():
        text = inspect.getdoc(function)
        arguments = list(inspect.signature(function).parameters)[1:]
        assert text and all(f"{a}: " in text for a in arguments), name


def test_each_is_made_once():
    assert trainers.get_backend() is trainers.get_backend()
    assert trainers.get_members_backend() is trainers.get_members_backend()


def test_stateless_apply_is_for_jax():
    if keras.backend.backend() == "jax":
        pytest.skip("that is JAX")
    with pytest.raises(RuntimeError, match="on TensorFlow call"):
        trainers.get_backend().stateless_apply(None, [], [], [], [])
