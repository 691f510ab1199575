"""The callback that attaches a sparse-training method to a model."""

import warnings

import keras
import numpy as np
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.callbacks.claims import claim
from keras_freetickets.callbacks.claims import described
from keras_freetickets.callbacks.claims import release_claims
from keras_freetickets.inspection.units import count_units
from keras_freetickets.models.side_by_side import SideBySide
from keras_freetickets.models.side_by_side import members_of
from keras_freetickets.models.sparse_model import SparseModel
from keras_freetickets.signatures import ShowsArguments
from keras_freetickets.topology import methods


def _check_model(callback, model):
    if isinstance(model, SideBySide) and not callback.serves_members:
        raise ValueError(
            f"{type(callback).__name__} trains one SparseModel at a time; "
            "DropAndGrow and DST train members side by side. "
            f"Received: model of type {type(model).__name__}"
        )
    if not isinstance(model, (SparseModel, SideBySide)):
        raise ValueError(
            f"{type(callback).__name__} needs a SparseModel: call "
            "keras_freetickets.sparsify(model, sparsity=...) first. "
            f"Received: model of type {type(model).__name__}"
        )


def _check_no_method(callback, model):
    attached = members_of(model)[0].method
    if attached is not None:
        raise ValueError(
            "`model` must have no method attached when a callback attaches "
            "its own: call `model.detach()` first. Received: "
            f"{type(attached).__name__} attached, and {described(callback)}"
        )


def _check_companion(callback, method):
    """Refuses a method of which a part would stay undone."""
    if method.companion not in (None, *callback.companion_of):
        name = f"keras_freetickets.callbacks.{method.companion}"
        raise ValueError(
            f"`method` must be one that {type(callback).__name__} can train "
            f"with: {type(method).__name__} works only with the callback "
            f"{name}, which takes it as its own `method`. "
            f"Received: method={type(method).__name__}"
        )


class DropAndGrow(ShowsArguments, keras.callbacks.Callback):
    """Lets a method change the connections of a `SparseModel` in `fit`.

    All work is done inside the compiled step; the callback attaches the
    method when training begins, detaches it when it ends, and adds to the
    logs of each epoch `phase`, `density` and `replaced`, the share of
    connections that the last update replaced. Callbacks that read these logs
    (CSVLogger, TensorBoard) come after it in the list. Of a
    `keras_freetickets.SideBySide` they are means over its members.

    Args:
        method: A `keras_freetickets.topology.Method`.
        track_ever_active: Whether to log `ever_active` as well, the share of
            weights that were active at least once (R_s of ITOP,
            arXiv:2102.02887). Costs one byte a weight.

    Raises:
        ValueError: If `method` is not a `Method`, or is one of which another
            callback does a part (`AGENT`, `CigL`), the model is not a
            `SparseModel` or has a method attached already, or another callback
            of the same `fit` changes the topology.

    Example:

    ```python
    method = keras_freetickets.topology.RigL(update_interval=100)
    model.fit(x, y, callbacks=[DropAndGrow(method)])
    ```
    """

    serves_members = True
    # Names of the methods that need more than a step, and get it here.
    companion_of = ()

    def __init__(self, method, track_ever_active=False):
        super().__init__()
        if not isinstance(method, methods.Method):
            raise ValueError(
                "`method` must be a keras_freetickets.topology.Method. "
                f"Received: method={method}"
            )
        _check_companion(self, method)
        self.method = method
        self.track_ever_active = track_ever_active

    def set_model(self, model):
        super().set_model(model)
        _check_model(self, model)
        claim(self, "lets a method change the topology")
        _check_no_method(self, model)
        self._dead = set()  # names of the kernels that were warned of
        self._before = (0, 0)  # steps and updates when training begins
        if self.track_ever_active:
            model.run.track_ever_active()
        model.attach(self.method)
        model.run.defer(self.release)

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        if self.model.run.step_is_new() and self.params.get("verbose"):
            keras_adapter.print_message(
                f"Compiling the training step of {self._label()}: "
                "the first step and the first topology update take longer."
            )
        self._before = self._steps_and_updates()

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        # A run that a backup resumes begins later, and keeps what it has.
        if epoch == 0:
            self.model.run.restart_scalar_state()

    def release(self):
        """Leaves the model as it was found, but for what it learned."""
        self.model.detach()

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        self._warn_of_dead_layers()
        if logs is None:
            return
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

    def on_train_end(self, logs=None):
        super().on_train_end(logs)
        # The last thing Keras does may be to load averaged weights.
        self.model.project()
        self._warn_if_never_updated()
        self.model.run.release()
        release_claims(self)

    def _warn_of_dead_layers(self):
        """A layer that lets little through is seldom wanted: said once."""
        members = members_of(self.model)
        for kernel in [k for one in members for k in count_units(one)]:
            dead = kernel.dead > kernel.units / 2
            if dead and kernel.name not in self._dead:
                self._dead.add(kernel.name)
                warnings.warn(
                    f"{kernel.dead} of {kernel.units} units of kernel "
                    f"'{kernel.name}' have lost all their inputs. A lower "
                    "sparsity of this layer, or another distribution, may "
                    "serve better.",
                    stacklevel=3,
                )

    def _label(self):
        """What a user knows the training by: a preset, or a method."""
        named = self if type(self) is not DropAndGrow else self.method
        return type(named).__name__

    def _steps_and_updates(self):
        """Optimizer updates and topology updates of the model so far."""
        topology = members_of(self.model)[0].update_state
        counts = (self.model.optimizer.iterations, topology.update_count)
        return tuple(int(ops.convert_to_numpy(count)) for count in counts)

    def updates_asked_for(self):
        """Topology updates that no interval brought, but the callback."""
        return 0

    def _warn_if_never_updated(self):
        """An interval longer than the training makes masks that rest."""
        steps, updates = self._steps_and_updates()
        begin, before = self._before
        took_place = updates - before - self.updates_asked_for()
        if steps == begin or took_place > 0 or not self._could_update(begin):
            return
        method = self.method
        start = (
            f" from update {method.earliest_step} on"
            if method.earliest_step
            else ""
        )
        warnings.warn(
            f"{self._label()} never updated the topology: optimizer updates "
            f"of the training: {steps - begin}, `update_interval`: "
            f"{method.update_interval}{start}. A longer training, or a shorter "
            "interval, lets the connections change.",
            stacklevel=2,
        )

    def _could_update(self, begin):
        """Whether updates were to come, and some kernel takes part in them."""
        stop = self.method.stop_step
        return (stop is None or begin < stop) and any(
            self.method.takes_part(masked.active, masked.size)
            for masked in members_of(self.model)[0].masked_kernels
        )
