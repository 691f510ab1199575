"""The callback that attaches a sparse-training method to a model."""

import typing
import warnings
from collections.abc import Callable
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.callbacks.claims import claim
from keras_freetickets.callbacks.claims import described
from keras_freetickets.callbacks.claims import end_claims
from keras_freetickets.callbacks.claims import name_of
from keras_freetickets.callbacks.companions import with_companions
from keras_freetickets.callbacks.composite import CompositeCallback
from keras_freetickets.callbacks.composite import outermost
from keras_freetickets.callbacks.weight_averaging import WeightAveraging
from keras_freetickets.inspection.units import count_units
from keras_freetickets.models.side_by_side import SideBySide
from keras_freetickets.models.side_by_side import members_of
from keras_freetickets.models.sparse_model import SparseModel
from keras_freetickets.signatures import ShowsArguments
from keras_freetickets.topology import methods
from keras_freetickets.types import Logs
from keras_freetickets.types import Model


def check_one_model(callback: keras.callbacks.Callback, model: Model) -> None:
    """Raises if a callback that trains one model is used with `SideBySide`.

    Args:
        callback: The Keras callback.
        model: A Keras model.

    Raises:
        ValueError: If it is a `SideBySide`.

    Example:

    ```python
    check_one_model(self, model)  # in set_model
    ```
    """
    if isinstance(model, SideBySide):
        raise ValueError(
            f"{name_of(callback)} trains one SparseModel at a time; "
            "DropAndGrow and DST train members side by side. "
            f"Received: model of type {type(model).__name__}"
        )


def _check_model(callback: "DropAndGrow", model: Model) -> None:
    if callback.parts:
        check_one_model(callback, model)
    if not isinstance(model, (SparseModel, SideBySide)):
        raise ValueError(
            f"{name_of(callback)} needs a SparseModel: call "
            "keras_freetickets.sparsify(model, sparsity=...) first. "
            f"Received: model of type {type(model).__name__}"
        )


def _check_no_method(callback: "DropAndGrow", model: Model) -> None:
    attached = members_of(model)[0].method
    if attached is not None:
        raise ValueError(
            "`model` must not have a method attached when a callback attaches "
            "one: call `model.detach()` first. Received: "
            f"{type(attached).__name__} attached, and {described(callback)}"
        )


def method_of_kind(
    kind: type[methods.Method],
    method: methods.Method | None,
    arguments: dict[str, typing.Any],
    make: Callable[..., methods.Method] | None = None,
) -> methods.Method:
    """Returns `method`, or makes one from `arguments`.

    Args:
        kind: Class that the method must have.
        method: A `Method`, or `None` to make one from `arguments`.
        arguments: Dict of the method's arguments.
        make: Callable that makes the method from them. `None` for `kind`.

    Raises:
        ValueError: If both are given, or the method has another class.

    Example:

    ```python
    method_of_kind(methods.CigL, None, {"random_drop": 0.1})  # a CigL
    ```
    """
    if method is not None and arguments:
        raise ValueError(
            "Give either `method` or its arguments. "
            f"Received: method={method} and {sorted(arguments)}"
        )
    if method is None:
        method = (make or kind)(**arguments)
    if not isinstance(method, kind):
        raise ValueError(
            f"`method` must be a keras_freetickets.topology.{kind.__name__}. "
            f"Received: method={method}"
        )
    return method


class DropAndGrow(ShowsArguments, CompositeCallback):
    """Lets a method change the connections of a `SparseModel` in `fit`.

    The callback attaches the method when training begins and detaches it when
    training ends; the compiled step does the work. Each epoch the callback
    logs `phase`, `density` (the share of weights that are active) and
    `replaced` (the share of connections that the last update replaced). For a
    `keras_freetickets.SideBySide` the last two are means over its members. Put
    callbacks that read the logs (CSVLogger, TensorBoard) after it in the list.

    A method may need other callbacks (`Method.companions`): `AGENT` needs
    `GradientSnapshots`, `CigL` needs `WeightAveraging`. They become parts of
    this callback, which passes their arguments to them.

    Args:
        method: A `keras_freetickets.topology.Method`, or another argument of
            `keras_freetickets.topology.get`, such as `"rigl"`.
        track_ever_active: Whether to log `ever_active` too, the share of
            weights that were active at least once (R_s of ITOP,
            arXiv:2102.02887). It needs one byte per weight.
        companions: List of callbacks that do a part of the method's work.
            Those that the method needs and that are not in the list are made
            from `**kwargs`.
        **kwargs: Arguments of the callbacks that the method needs, such as
            `data`, and, if `method` is a name, arguments of the method.

    Attributes:
        method: The `Method`.

    Raises:
        ValueError: If `method` is not a method, a required argument of a
            callback is missing, the model is not a `SparseModel` or already
            has a method attached, or another callback of the same `fit`
            changes the topology.
        TypeError: If the method does not have one of the arguments.

    Example:

    ```python
    rigl = DropAndGrow("rigl", update_interval=100)
    model.fit(x, y, callbacks=[rigl])
    agent = DropAndGrow(keras_freetickets.topology.AGENT(), data=train)
    ```
    """

    def __init__(
        self,
        method: typing.Any,
        track_ever_active: bool = False,
        companions: Sequence[keras.callbacks.Callback] = (),
        **kwargs: typing.Any,
    ) -> None:
        self.method, parts = with_companions(method, companions, kwargs)
        super().__init__(parts)
        self.track_ever_active = track_ever_active
        self._requested = 0

    def set_model(self, model: Model) -> None:
        _check_model(self, model)
        keras.callbacks.Callback.set_model(self, model)
        claim(self, "lets a method change the topology")
        _check_no_method(self, model)
        self._dead: set[str] = set()  # kernels already warned about
        self._before = (0, 0)  # steps and updates when training begins
        self._requested = 0
        if self.track_ever_active:
            model.run.track_ever_active()
        model.attach(self.method)
        model.run.defer(model.detach)
        super().set_model(model)  # the parts need the attached method

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if self.model.run.step_is_new() and self.params.get("verbose"):
            keras_adapter.print_message(
                f"Compiling the training step of {self._label()}: "
                "the first step and the first topology update take longer."
            )
        self._before = self._steps_and_updates()
        super().on_train_begin(logs)
        self._warn_if_averaged_while_moving()

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        # A resumed run starts at a later epoch and keeps its state.
        if epoch == 0:
            self.model.run.restart_scalar_state()
        super().on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._warn_of_dead_layers()
        if logs is not None:
            self._log(logs)
        super().on_epoch_end(epoch, logs)

    def _log(self, logs: Logs) -> None:
        topologies = [one.update_state for one in members_of(self.model)]
        logs["phase"] = int(ops.convert_to_numpy(topologies[0].phase.value))
        logs["density"] = self.model.density
        logs["replaced"] = float(
            np.mean(
                [ops.convert_to_numpy(t.replaced.value) for t in topologies]
            )
        )
        if self.track_ever_active:
            logs["ever_active"] = self.model.run.ever_active()

    def on_train_end(self, logs: Logs | None = None) -> None:
        super().on_train_end(logs)
        # Keras, or a part, may just have loaded averaged weights.
        self.model.project()
        self._warn_if_never_updated()
        self.model.run.release()
        end_claims(self)

    def replace_once(self, fraction: float) -> None:
        """Makes the next batch replace a share of the connections once.

        Args:
            fraction: Float in (0, 1], used instead of the method's fraction.
        """
        topology = members_of(self.model)[0].update_state
        topology.global_drop.assign(np.float32(fraction))
        self._requested += 1

    def _warn_if_averaged_while_moving(self) -> None:
        """A connection that grows late would be averaged with zeros."""
        averages = [p for p in self.parts if isinstance(p, WeightAveraging)]
        batches, stop = self.params.get("steps"), self.method.stop_step
        for average in averages:
            # The first average is taken at the end of its epoch.
            rests = batches and batches * (average.start_epoch + 1)
            if stop is not None and (not rests or stop <= rests):
                continue
            warnings.warn(
                "The topology may change while weights are averaged, from the "
                f"end of epoch {average.start_epoch} on: set `stop_step` to an "
                "earlier optimizer update. Received: "
                f"stop_step={stop}",
                stacklevel=2,
            )

    def _warn_of_dead_layers(self) -> None:
        """Warns once about each layer if most of its units have no inputs."""
        members = members_of(self.model)
        for kernel in [k for one in members for k in count_units(one)]:
            dead = kernel.dead > kernel.units / 2
            if dead and kernel.name not in self._dead:
                self._dead.add(kernel.name)
                warnings.warn(
                    f"{kernel.dead} of {kernel.units} units of kernel "
                    f"'{kernel.name}' have lost all their inputs. Try a lower "
                    "sparsity for this layer, or another distribution.",
                    stacklevel=3,
                )

    def _label(self) -> str:
        """The name that the user knows: of a preset, or of the method."""
        callback = outermost(self)
        named = callback if type(callback) is not DropAndGrow else self.method
        return type(named).__name__

    def _steps_and_updates(self) -> tuple[int, int]:
        """Optimizer updates and topology updates of the model so far."""
        topology = members_of(self.model)[0].update_state
        counts = (self.model.optimizer.iterations, topology.update_count)
        steps, updates = (int(ops.convert_to_numpy(n)) for n in counts)
        return steps, updates

    def _warn_if_never_updated(self) -> None:
        """Warns if the interval was too long for any update."""
        steps, updates = self._steps_and_updates()
        begin, before = self._before
        took_place = updates - before - self._requested
        if steps == begin or took_place > 0 or not self._could_update(begin):
            return
        method = self.method
        start = (
            f" from update {method.earliest_step} on"
            if method.earliest_step
            else ""
        )
        warnings.warn(
            f"{self._label()} never updated the topology: the training had "
            f"{steps - begin} optimizer updates, and `update_interval` is "
            f"{method.update_interval}{start}. Train longer, or use a shorter "
            "interval.",
            stacklevel=2,
        )

    def _could_update(self, begin: int) -> bool:
        """Whether updates were possible and some kernel takes part in them."""
        stop = self.method.stop_step
        return (stop is None or begin < stop) and any(
            self.method.takes_part(masked.active, masked.size)
            for masked in members_of(self.model)[0].masked_kernels
        )
