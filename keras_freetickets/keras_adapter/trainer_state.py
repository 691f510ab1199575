"""Private parts of Keras' trainers: steps, their state, losses, metrics."""

import contextlib
import functools
import inspect
import typing
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

import keras
from keras import ops
from keras import tree
from keras.src.backend.common import stateless_scope
from keras.src.callbacks.monitor_callback import MonitorCallback
from keras.src.utils import io_utils

from keras_freetickets.types import KerasMixin
from keras_freetickets.types import Model
from keras_freetickets.types import Tensor
from keras_freetickets.types import Variable


def in_stateless_scope() -> bool:
    """Whether variables may have other values here than their own."""
    return stateless_scope.in_stateless_scope()


def set_direction(metric: typing.Any, direction: str) -> None:
    """Sets the direction that callbacks in mode "auto" read: "up" or "down"."""
    metric._direction = direction


def reset_train_function(model: Model) -> None:
    """Discards the traced step, which Keras keeps from one `fit` to the next.

    A new, untraced step replaces it, because a running `fit` does not make one
    between epochs.
    """
    if model.train_function is not None:
        model.make_train_function(force=True)


def build_training(model: Model) -> None:
    """Makes the variables of a compiled model's optimizer, losses and metrics.

    Otherwise the first step makes them, and TensorFlow traces a step that makes
    variables twice. Targets have the shapes of the outputs.

    Args:
        model: A compiled functional model.
    """
    model._symbolic_build(data_batch=(model.inputs, model.outputs))


@contextlib.contextmanager
def own_step(model: Model, name: str) -> Iterator[None]:
    """Context in which Keras compiles a step that differs from all others.

    JAX caches traces by the function's hash, and all bound methods
    `model.train_step` are equal. While one train function exists, another
    would reuse its trace, even if a different method is attached by then.

    Args:
        model: A Keras model.
        name: `"train_step"` or `"test_step"`.
    """
    held: dict[str, typing.Any] = model.__dict__
    held[name] = functools.partial(getattr(type(model), name), model)
    try:
        yield
    finally:
        del held[name]


def print_message(message: str) -> None:
    """Prints or logs a line where Keras shows its progress."""
    io_utils.print_msg(message)


def compilation(model: Model) -> typing.Any:
    """An object that identifies the last `compile` of a model, or `None`."""
    return getattr(model, "_compile_config", None)


def updated_metrics(
    model: Model, values: Sequence[Tensor], loss: typing.Any, batch: tuple
) -> tuple:
    """Logs, and new values of the metrics' variables, on JAX."""
    return model._update_metrics_variables(values, loss, *batch)


def _draw_masks(callbacks):
    """Lets TensorBoard draw boolean weights, which it does not support."""
    for callback in tree.flatten(callbacks):
        draws = getattr(callback, "write_images", False)
        if draws and isinstance(callback, keras.callbacks.TensorBoard):
            draw = functools.partial(
                type(callback)._log_weight_as_image, callback
            )
            callback._log_weight_as_image = functools.partial(_draw, draw)


def _draw(draw, weight, name, epoch):
    if keras.backend.standardize_dtype(weight.dtype) == "bool":
        weight = ops.cast(weight, "float32")
    draw(weight, name, epoch)


class KeepsState(KerasMixin):
    """A model whose weights survive an exception in JAX's trainer.

    JAX's trainer takes the values out of all variables before the first batch
    of an epoch, and can restore them (`synchronize`) only after that batch. If
    the batch failed, every weight and mask would be lost. Keras' `fit` tries
    to restore them; its `evaluate` and `predict` do not.

    The class also lets TensorBoard draw masks, which are boolean weights.
    """

    def fit(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any:
        given = inspect.signature(super().fit).bind(*args, **kwargs).arguments
        callbacks = given.get("callbacks")
        _draw_masks(getattr(callbacks, "callbacks", callbacks) or [])
        return super().fit(*args, **kwargs)

    def evaluate(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any:
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            synchronize(self)

    def predict(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any:
        try:
            return super().predict(*args, **kwargs)
        finally:
            synchronize(self)

    def _get_jax_state(self, purge_model_variables=False, **wanted):
        state = super()._get_jax_state(
            purge_model_variables=purge_model_variables, **wanted
        )
        if purge_model_variables:
            names = (name for name in STATE if wanted.get(name))
            self._jax_state = dict(zip(names, state, strict=True))
            self._jax_state_synced = False
        return state


_TORCH_OPTIMIZERS = "keras.src.backend.torch.optimizers"


class CompilesAnywhere(KerasMixin):
    """A model whose compiled file loads on every backend.

    On PyTorch `keras.optimizers.SGD(...)` has a class of that backend, and
    Keras saves the name of this class, so the `.keras` file would not load on
    other backends.
    """

    def get_compile_config(self) -> typing.Any:
        return _of_any_backend(super().get_compile_config())


def _of_any_backend(config):
    """A config with the public names of optimizers."""
    if isinstance(config, (list, tuple)):
        return type(config)(_of_any_backend(value) for value in config)
    if not isinstance(config, dict):
        return config
    config = {name: _of_any_backend(value) for name, value in config.items()}
    if str(config.get("module")).startswith(_TORCH_OPTIMIZERS):
        config["module"] = "keras.optimizers"
        config["registered_name"] = None
    return config


class PacksState(KeepsState):
    """A model that passes its state to JAX's steps in a form of its own.

    `pack(name, values)` converts one part of the state for training and test
    steps, and `unpack(name, values)` converts it back.
    """

    def _get_jax_state(self, purge_model_variables=False, **wanted):
        state = super()._get_jax_state(
            purge_model_variables=purge_model_variables, **wanted
        )
        if not wanted.get("metrics_variables"):
            return state  # for a prediction step
        names = [name for name in STATE if wanted.get(name)]
        packed = {n: self.pack(n, v) for n, v in zip(names, state, strict=True)}
        if purge_model_variables:
            self._jax_state = packed
        return tuple(packed.values())

    def jax_state_sync(self) -> None:
        if keras.backend.backend() != "jax":
            return
        held = getattr(self, "_jax_state", None) or {}
        waits = held and not self._jax_state_synced
        if waits and "metrics_variables" in held:
            self._jax_state = {n: self.unpack(n, v) for n, v in held.items()}
        super().jax_state_sync()


# Names of the parts of JAX's state, in their order.
STATE = (
    "trainable_variables",
    "non_trainable_variables",
    "optimizer_variables",
    "metrics_variables",
)


def synchronize(model: Model) -> None:
    """Writes values that JAX's trainer holds in `fit` back to variables."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()


class BuildsMembers(KerasMixin):
    """A model that builds its members and their metrics before a step.

    JAX's trainer reads all variables before it traces the first step.
    """

    def _symbolic_build(self, iterator=None, data_batch=None):
        if all(_knows_metrics(member) for member in self.members):
            return
        if data_batch is None:
            _, _, batches = next(iter(iterator))
            listed = isinstance(batches, (list, tuple))
            data_batch = batches[0] if listed else next(batches)
        for i, member in enumerate(self.members):
            batch = self.batch_of(i, data_batch, self.runs_on_own_batches)
            member._symbolic_build(data_batch=batch)


def _knows_metrics(model):
    parts = (model._compile_metrics, model._compile_loss)
    return all(part is None or part.built for part in parts)


def compiled_metrics(model: Model) -> list:
    """The metric objects that a model was compiled with."""
    names = ("_user_metrics", "_user_weighted_metrics")
    given = [getattr(model._compile_metrics, name, None) for name in names]
    return [m for m in tree.flatten(given) if hasattr(m, "update_state")]


def compute_loss(
    model: Model,
    x: typing.Any,
    y: typing.Any,
    y_pred: Tensor,
    sample_weight: Tensor | None,
) -> Tensor:
    """The training loss, as the trainer of the backend computes it."""
    return model._compute_loss(
        x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True
    )


def compiled_as(model: Model, loss: typing.Any) -> typing.Any:
    """The compiled loss that Keras would make of another loss."""
    own = model._compile_loss
    return type(own)(
        loss, own._user_loss_weights, output_names=own.output_names
    )


def compiled_loss(model: Model) -> typing.Any:
    """The compiled loss that Keras made of the loss given to `compile`."""
    return model._compile_loss


def penalties(model: Model) -> Tensor:
    """The sum of a model's additional losses (regularization, `add_loss`)."""
    return sum(model._aggregate_additional_loss(one) for one in model.losses)


def track_loss(model: Model, loss: Tensor, batch_size: Tensor) -> None:
    """Updates the mean loss that the progress bar shows."""
    model._loss_tracker.update_state(loss, sample_weight=batch_size)


def call_model(model: Model, x: typing.Any) -> typing.Any:
    """Calls a model, in training mode if its `call` has that argument."""
    if model._call_has_training_arg:
        return model(x, training=True)
    return model(x)


def improvement_of(model: Model, monitor: str, mode: str | None) -> Callable:
    """Keras' comparison of a monitored value with the best so far.

    Raises:
        ValueError: If `mode` is "auto" and Keras cannot tell the direction.
    """
    callback = MonitorCallback(monitor, mode)
    callback.set_model(model)
    try:
        callback._set_monitor_op()
    except ValueError as error:
        raise ValueError(
            "`mode` must be 'min' or 'max' for a log that is not a metric with "
            f"a known direction. Received: mode={mode!r}, "
            f"monitor={monitor!r}"
        ) from error
    return callback._is_improvement


def begin_at_epoch(model: Model, epoch: int | None) -> None:
    """Lets the running `fit` start at an epoch, as BackupAndRestore does.

    Keras keeps the number for the next `fit` unless it is reset to `None`.
    """
    model._initial_epoch = epoch


def updated_by_call(
    model: Model, x: typing.Any, variables: Sequence[Variable]
) -> list[Tensor]:
    """Values that a call in training mode would assign to variables."""
    others = model.non_trainable_variables
    place = {id(v): i for i, v in enumerate(others)}
    _, values = model.stateless_call(
        [v.value for v in model.trainable_variables],
        [v.value for v in others],
        ops.convert_to_tensor(x) if hasattr(x, "shape") else x,
        training=True,
    )
    return [values[place[id(v)]] for v in variables]
