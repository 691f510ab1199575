"""Claims: tasks that only one callback of a training may do."""

import typing
import weakref

import keras

from keras_freetickets.callbacks.composite import outermost

# A task of callbacks in several modules.
SETS_THE_RATE = "sets the learning rate"
# History of a `fit` -> task -> a weak reference to the callback that claimed
# it (the callback refers to the model, which refers to the history).
_CLAIMS: typing.Any = weakref.WeakKeyDictionary()


def claim(callback: keras.callbacks.Callback, task: str) -> None:
    """Raises if another callback of this training has the same task.

    Two such callbacks would silently undo each other's work. Keras makes a new
    `History` for every `fit`, which identifies the training.

    Args:
        callback: A Keras callback. Call this in its `set_model`.
        task: String that completes "a callback that ...".

    Raises:
        ValueError: If another callback of this `fit` has claimed the task.

    Example:

    ```python
    def set_model(self, model):
        super().set_model(model)
        claim(self, "writes a backup")
    ```
    """
    claims = _claims_beside(callback)
    first = claims.setdefault(task, weakref.ref(callback))()
    if first is not None and first is not callback:
        raise ValueError(
            f"`callbacks` must hold at most one that {task}. Received: "
            f"{described(first)} and {described(callback)}"
        )


def end_claims(callback: keras.callbacks.Callback) -> None:
    """Ends the claims of a callback whose training has ended.

    Args:
        callback: A Keras callback. Call this in its `on_train_end`.

    Example:

    ```python
    def on_train_end(self, logs=None):
        super().on_train_end(logs)
        end_claims(self)
    ```
    """
    claims = _claims_beside(callback)
    for task in [t for t, first in claims.items() if first() is callback]:
        del claims[task]


class SingleWriter:
    """Lets a callback write to a directory, but not its copies.

    Tuners train each trial with a deep copy of the callbacks. The copies
    would overwrite each other's tickets and resume from each other's backups.
    Copies of a callback share this object.

    Example:

    ```python
    self._writer = SingleWriter()  # in __init__
    self._writer.check(self)  # in set_model
    ```
    """

    def __init__(self) -> None:
        self._first: weakref.ref | None = None

    def __deepcopy__(self, memo: dict[int, typing.Any]) -> "SingleWriter":
        return self

    def check(self, callback: typing.Any) -> None:
        """Raises for a copy of a callback that was used before.

        Args:
            callback: A Keras callback with a `directory`.

        Raises:
            ValueError: If another copy was used first.
        """
        if self._first is None:
            self._first = weakref.ref(callback)
        if self._first() is not callback:
            raise ValueError(
                "`directory` must belong to one training, but "
                f"{name_of(callback)} was copied for several, as "
                "keras-tuner does for its trials. Make one callback for each "
                "trial, with its own directory (docs/making_ensembles.md). "
                f"Received: directory={callback.directory}"
            )


def _claims_beside(callback: keras.callbacks.Callback) -> dict[str, typing.Any]:
    history = getattr(callback.model, "history", None)
    if not isinstance(history, keras.callbacks.History):
        return {}  # no `fit`
    return _CLAIMS.setdefault(history, {})


def name_of(callback: keras.callbacks.Callback) -> str:
    """The class name of the callback that the user made.

    For a part of a composite callback it is the name of the composite.

    Args:
        callback: A Keras callback.

    Example:

    ```python
    name_of(edst.tickets)  # "EDST"
    ```
    """
    return type(outermost(callback)).__name__


def described(callback: keras.callbacks.Callback) -> str:
    """The callback's class name, followed by that of its method if it has one.

    Args:
        callback: A Keras callback.

    Example:

    ```python
    described(DropAndGrow(SET()))  # "DropAndGrow with SET"
    ```
    """
    name = name_of(callback)
    method = getattr(outermost(callback), "method", None)
    if method is None or type(method).__name__ == name:
        return name
    return f"{name} with {type(method).__name__}"
