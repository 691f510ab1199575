"""A callback that combines other callbacks."""

import typing
from collections.abc import Sequence

import keras

from keras_freetickets.types import Logs

# If a callback overrides one of these hooks, Keras waits for each batch.
_BATCH_ENDS = (
    "on_batch_end",
    "on_train_batch_end",
    "on_test_batch_end",
    "on_predict_batch_end",
)


def _is_overridden(part: keras.callbacks.Callback, hook: str) -> bool:
    own = getattr(getattr(part, hook), "__func__", None)
    return own is not getattr(keras.callbacks.Callback, hook)


class CompositeCallback(keras.callbacks.Callback):
    """Passes every Keras hook to its parts, in order.

    Use it to turn a task that needs several independent callbacks into one
    callback. A subclass that overrides a hook must call `super()`, which
    passes the hook to the parts. Claims, warnings and errors of a part name
    the outermost subclass of `CompositeCallback` around it, because that is
    the callback the user made. `Backup` saves the state of the parts with that
    of the composite.

    Args:
        parts: List of Keras callbacks.

    Attributes:
        parts: List of the callbacks that receive the hooks.
        owner: The composite that contains this one, or `None`.

    Raises:
        ValueError: If `parts` is not a list of callbacks.

    Example:

    ```python
    class RigLWithAverage(CompositeCallback):
        def __init__(self, start_epoch, data):
            super().__init__(
                [DropAndGrow("rigl"), WeightAveraging(start_epoch, data)]
            )
    ```
    """

    def __init__(self, parts: Sequence[keras.callbacks.Callback] = ()) -> None:
        super().__init__()
        self.parts: list[keras.callbacks.Callback] = []
        self.owner: CompositeCallback | None = None
        for part in parts:
            self.add_part(part)

    def add_part(self, part: keras.callbacks.Callback) -> None:
        """Adds a part that receives hooks after the others.

        Args:
            part: A Keras callback.

        Raises:
            ValueError: If it is not a Keras callback.
        """
        if not isinstance(part, keras.callbacks.Callback):
            raise ValueError(
                f"`parts` must be a list of Keras callbacks. Received: {part!r}"
            )
        vars(part)["owner"] = self
        self.parts.append(part)

    @property
    def async_safe(self) -> bool:
        """Whether Keras may call hooks without waiting for a batch to end.

        Keras waits if a callback overrides a hook for the end of a batch. This
        class overrides all of them, but waiting is needed only if a part
        overrides one.
        """
        own = any(
            getattr(type(self), hook) is not getattr(CompositeCallback, hook)
            for hook in _BATCH_ENDS
        )
        return not own and all(
            getattr(part, "async_safe", False)
            or not any(_is_overridden(part, hook) for hook in _BATCH_ENDS)
            for part in self.parts
        )

    def _pass_on(self, hook: str, *args: typing.Any) -> None:
        for part in self.parts:
            getattr(part, hook)(*args)

    def set_params(self, params: dict[str, typing.Any]) -> None:
        super().set_params(params)
        self._pass_on("set_params", params)

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        self._pass_on("set_model", model)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._pass_on("on_train_begin", logs)

    def on_train_end(self, logs: Logs | None = None) -> None:
        self._pass_on("on_train_end", logs)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._pass_on("on_epoch_begin", epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._pass_on("on_epoch_end", epoch, logs)

    def on_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        self._pass_on("on_batch_begin", batch, logs)

    def on_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._pass_on("on_batch_end", batch, logs)

    # Keras' defaults call `on_batch_begin` and `on_batch_end`, and so do those
    # of the parts.
    def on_train_batch_begin(
        self, batch: int, logs: Logs | None = None
    ) -> None:
        self._pass_on("on_train_batch_begin", batch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._pass_on("on_train_batch_end", batch, logs)

    def on_test_begin(self, logs: Logs | None = None) -> None:
        self._pass_on("on_test_begin", logs)

    def on_test_end(self, logs: Logs | None = None) -> None:
        self._pass_on("on_test_end", logs)

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        self._pass_on("on_test_batch_begin", batch, logs)

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._pass_on("on_test_batch_end", batch, logs)

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        self._pass_on("on_predict_begin", logs)

    def on_predict_end(self, logs: Logs | None = None) -> None:
        self._pass_on("on_predict_end", logs)

    def on_predict_batch_begin(
        self, batch: int, logs: Logs | None = None
    ) -> None:
        self._pass_on("on_predict_batch_begin", batch, logs)

    def on_predict_batch_end(
        self, batch: int, logs: Logs | None = None
    ) -> None:
        self._pass_on("on_predict_batch_end", batch, logs)


def outermost(callback: keras.callbacks.Callback) -> keras.callbacks.Callback:
    """The callback that the user made: a composite around it, or itself.

    Args:
        callback: A Keras callback.

    Returns:
        The outermost owner that is a subclass of `CompositeCallback`, or the
        callback itself.

    Example:

    ```python
    type(outermost(callback)).__name__  # "EDST", in an error of its part
    ```
    """
    found, owner = callback, getattr(callback, "owner", None)
    while owner is not None:
        if type(owner) is not CompositeCallback:
            found = owner
        owner = owner.owner
    return found
