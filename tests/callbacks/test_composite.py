import inspect

import keras
import numpy as np
import pytest

import keras_freetickets.callbacks
from keras_freetickets.callbacks import Backup
from keras_freetickets.callbacks import CompositeCallback
from keras_freetickets.callbacks.composite import outermost

HOOKS = sorted(
    name
    for name in vars(keras.callbacks.Callback)
    if name.startswith(("on_", "set_"))
)
TRAINING = [name for name in HOOKS if name.startswith("on_")]


class Notes(keras.callbacks.Callback):
    """Notes which hooks are called, in a list that others share."""

    def __init__(self, name, notes):
        super().__init__()
        self.name = name
        self.notes = notes


def _noting(hook):
    def note(self, *args, **kwargs):
        self.notes.append((self.name, hook))

    return note


for _hook in TRAINING:
    setattr(Notes, _hook, _noting(_hook))


def model():
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_passed_on_in_order(hook):
    called = []

    class Part(keras.callbacks.Callback):
        def __init__(self, name):
            super().__init__()
            self.name = name

    def note(self, *args):
        called.append((self.name, args))

    setattr(Part, hook, note)
    composite = CompositeCallback([Part("a"), Part("b")])
    function = getattr(composite, hook)
    arguments = {"epoch": 3, "batch": 3, "logs": {"loss": 1.0}}
    names = inspect.signature(function).parameters
    given = tuple(arguments.get(name, model()) for name in names)
    function(*given)
    assert called == [("a", given), ("b", given)]


def test_parts_see_what_they_would_see_in_the_list():
    x, y = np.zeros((4, 3), "float32"), np.zeros((4, 1), "float32")
    found = []
    for composed in (False, True):
        notes = []
        parts = [Notes("a", notes), Notes("b", notes)]
        given = [CompositeCallback(parts)] if composed else parts
        trained = model()
        options = {"verbose": 0, "callbacks": given}
        trained.fit(x, y, 2, 1, validation_data=(x, y), **options)
        trained.evaluate(x, y, **options)
        trained.predict(x, **options)
        assert all(part.model is trained for part in parts)
        # Keras calls a composite's parts one after the other, too.
        found.append(notes)
    assert found[0] == found[1]
    # What Keras itself calls; `on_batch_begin` it leaves to the hooks.
    assert {hook for _, hook in found[0]} == {
        hook
        for hook in TRAINING
        if hook not in ("on_batch_begin", "on_batch_end")
    }


def test_keras_waits_for_batches_only_if_a_part_is_told():
    class Waits(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            pass

    class Own(CompositeCallback):
        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)

    plain = CompositeCallback([keras.callbacks.EarlyStopping()])
    assert plain.async_safe and CompositeCallback([plain]).async_safe
    assert not CompositeCallback([Waits()]).async_safe
    assert not CompositeCallback(
        [plain, CompositeCallback([Waits()])]
    ).async_safe
    assert not Own().async_safe


def test_what_a_user_made():
    class Outer(CompositeCallback):
        pass

    inner = keras.callbacks.EarlyStopping()
    outer = Outer([CompositeCallback([inner])])
    assert outermost(inner) is outer and outermost(outer) is outer
    lone = keras.callbacks.EarlyStopping()
    CompositeCallback([lone])
    assert outermost(lone) is lone


def test_only_callbacks_are_parts():
    with pytest.raises(ValueError, match="`parts` must be a list of Keras"):
        CompositeCallback([3])


def test_a_backup_keeps_the_state_of_parts(tmp_path):
    class Counts(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.count = 0

        def on_epoch_end(self, epoch, logs=None):
            self.count += 1

    x, y = np.zeros((4, 3), "float32"), np.zeros((4, 1), "float32")
    for epochs in (2, 3):
        counts = Counts()
        composite = CompositeCallback([CompositeCallback([counts])])
        backup = Backup(tmp_path, [composite])
        callbacks = [composite, backup]
        model().fit(x, y, epochs=epochs, verbose=0, callbacks=callbacks)
        assert counts.count == epochs


def own_classes():
    """The classes of the package that public callbacks are made of."""
    public = vars(keras_freetickets.callbacks).values()
    return {
        part
        for kind in public
        if isinstance(kind, type)
        for part in kind.__mro__
        if part.__module__.startswith("keras_freetickets.callbacks")
    }


def test_callbacks_have_one_callback_above_them():
    """What needs several callbacks holds them as its parts."""
    for kind in own_classes():
        above = [
            base
            for base in kind.__bases__
            if issubclass(base, keras.callbacks.Callback)
        ]
        assert len(above) <= 1, kind


OVERRIDDEN = sorted(
    (
        (kind, hook)
        for kind in own_classes()
        for hook in TRAINING
        if issubclass(kind, CompositeCallback)
        and kind is not CompositeCallback
        and hook in vars(kind)
    ),
    key=str,
)


@pytest.mark.parametrize(("kind", "hook"), OVERRIDDEN)
def test_what_a_composite_overrides_it_passes_on(kind, hook):
    assert f"super().{hook}(" in inspect.getsource(vars(kind)[hook])
