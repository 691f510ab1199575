"""Hooks of callbacks reach every class that a callback is made of."""

import ast
import inspect
import textwrap

import keras
import pytest

import keras_freetickets.callbacks
from keras_freetickets.callbacks import ticket_checkpoint

HOOKS = {
    name
    for name in vars(keras.callbacks.Callback)
    if name.startswith(("on_", "set_"))
}


def own_classes():
    """The classes that the public callbacks are made of."""
    public = vars(keras_freetickets.callbacks).values()
    kinds = [c for c in public if isinstance(c, type)]
    kinds.append(ticket_checkpoint.TicketCollector)
    return {
        part
        for kind in kinds
        for part in kind.__mro__
        if part.__module__.startswith("keras_freetickets")
    }


CASES = sorted(
    (
        (kind, name)
        for kind in own_classes()
        for name in HOOKS & set(vars(kind))
    ),
    key=str,
)


def test_hooks_are_found():
    assert (ticket_checkpoint.TicketCollector, "on_epoch_begin") in CASES


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_every_hook_calls_that_of_the_next_class(kind, name):
    """TicketCollector and DropAndGrow meet in EDST, unknown to each other."""
    source = textwrap.dedent(inspect.getsource(vars(kind)[name]))
    called = {
        ast.unparse(node.func)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
    }
    assert f"super().{name}" in called
