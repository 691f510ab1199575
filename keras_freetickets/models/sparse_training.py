"""The training interface that `SparseModel` and `SideBySide` share.

Both train members: a `SparseModel` only itself, a `SideBySide` several. The
mixin `TrainsMembers` is their public interface. `TrainingRun`, a model's
`run`, is the interface for callbacks and trainers of this package.
"""

import inspect
import typing
import warnings
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.layers.kernels import MasksKernels
from keras_freetickets.topology.methods import Method
from keras_freetickets.trainers import compiled_steps
from keras_freetickets.trainers import get_backend
from keras_freetickets.trainers import step
from keras_freetickets.trainers.step_variant import StepVariant
from keras_freetickets.types import Batch
from keras_freetickets.types import KerasMixin
from keras_freetickets.types import Model
from keras_freetickets.types import Optimizer
from keras_freetickets.types import Tensor

BatchTransform = Callable[[Tensor, Tensor, Tensor, Tensor], Batch]


class TrainingRun:
    """The interface of a model for the callbacks and trainers that train it.

    Args:
        model: A `SparseModel` or `SideBySide`.
        members: List of the `SparseModel`s that it trains; `None` for only
            `model`.

    Attributes:
        members: List of the `SparseModel`s.
        method: The attached `Method`, or `None`.
        attached_to: The optimizer whose updates the method counts.
        effective_method: The last attached method, if it sets
            `effective_at_inference`; kept when the method is detached.
        objective: The loss of `set_objective`, or `None`.
        softmax: The softmax that a training step leaves out, or `None`.
        batch_transforms: List of the functions of `add_batch_transform`.
        variant: The `StepVariant` that trains now, or `None` for the model's
            usual step.

    Example:

    ```python
    model.run.defer(lambda: print("fit has ended"))
    ```
    """

    def __init__(self, model: Model, members: list | None = None) -> None:
        # Not an attribute of the model, because Keras saves lists, and this
        # one contains the model itself.
        self.members = [model] if members is None else members
        self._model = model
        self._deferred: list[Callable[[], None]] = []
        self._compiled_steps = compiled_steps.CompiledSteps()
        self.method: Method | None = None
        self.attached_to: Optimizer | None = None
        self.effective_method: Method | None = None
        self.objective: typing.Any = None
        self.softmax: typing.Any = None
        self.batch_transforms: list[BatchTransform] = []
        self.variant: StepVariant | None = None

    def defer(self, action: Callable[[], None]) -> None:
        """Calls `action()` when `fit` ends, even if `fit` raises.

        Args:
            action: Callable without arguments.
        """
        self._deferred.append(action)

    def release(self) -> None:
        """Calls the deferred actions, once each."""
        deferred, self._deferred = self._deferred, []
        for action in deferred:
            action()

    def step_is_new(self) -> bool:
        """Whether the next step must compile; true only once for a step."""
        return self._compiled_steps.is_new(self._model)

    def keep_step(self) -> None:
        """Remembers the model's current compiled step."""
        self._compiled_steps.keep(self._model, self._step_traits())

    def choose_step(self) -> None:
        """Chooses the compiled step of an equal configuration, or a new one."""
        self._compiled_steps.choose(self._model, self._step_traits())

    def use_variant(self, variant: StepVariant | None) -> None:
        """Trains with another step on the same variables from now on.

        A callback may call it before any batch. Each step is compiled when it
        is first used and kept, so that steps can take turns. Whoever calls it
        returns to the usual step when `fit` ends (`defer`).

        Args:
            variant: A `StepVariant`, or `None` for the usual step. The same
                object must be passed each time, as it identifies the step.
        """
        if variant is not self.variant:
            self.variant = variant
            self.choose_step()

    def _step_traits(self) -> list:
        """Everything that is traced into a step; equal lists share a step."""
        return [_traits(member) for member in self.members]

    def transformed_batch(
        self, x: Tensor, y: Tensor, sample_weight: Tensor
    ) -> Batch:
        """The batch that a step trains on, after all batch transforms.

        Args:
            x: Inputs of a batch.
            y: Targets of the batch.
            sample_weight: Weights of its examples, or `None`.

        Returns:
            Tuple `(x, y, sample_weight)`.

        Raises:
            ValueError: If a transform does not return a batch.
        """
        batch: Batch = (x, y, sample_weight)
        transforms = list(self.batch_transforms)
        if self.variant is not None and self.variant.transform is not None:
            transforms.append(self.variant.transform)
        if not transforms:
            return batch
        model = self._model
        count = model.update_state.step_of(model.optimizer)
        for transform in transforms:
            made = transform(*batch, count)
            if not isinstance(made, tuple) or len(made) != 3:
                raise ValueError(
                    "A function of `add_batch_transform` must return a tuple "
                    f"(x, y, sample_weight). Received: {made}"
                )
            batch = made
        return batch

    def scope(self) -> typing.ContextManager:
        """Context in which to make variables of a run, on all replicas."""
        return get_backend().scope(self._model)

    def restart_connection_state(self) -> None:
        """Resets the attached method's state of each connection.

        For example the visits of `DSTEE`, which start with the current masks.
        """
        for member in up_to_date(self._model):
            method = member.run.method
            names = method.connection_state if method is not None else ()
            for layer in member.sparse_layers:
                for name in names:
                    begin_connection_state(layer, method, name)

    def restart_scalar_state(self) -> None:
        """Resets the scalar state of the method and the objective's state.

        For `AGENT` that is its estimate `tau` and whether there is a snapshot;
        for MOON's loss its running loss and `alpha`; for `Contrastive` its
        queue. Callbacks call it before the first epoch of a training.
        """
        for member in self.members:
            for part in (member.run.method, member.run.objective):
                if part is not None:
                    member.update_state.restart_scalars(part.scalar_state)
            tensors = getattr(member.run.objective, "tensor_state", {})
            member.update_state.restart_tensors(tensors)

    def track_ever_active(self) -> None:
        """Records for each connection whether it was ever active (R_s)."""
        for member in up_to_date(self._model):
            with member.run.scope():
                for layer in member.sparse_layers:
                    layer.add_state("ever_active", "bool")
            for masked in member.masked_kernels:
                ever = ops.convert_to_numpy(masked.state["ever_active"].value)
                masked.state["ever_active"].assign(
                    np.logical_or(ever, masked.mask_array())
                )
            member.run.choose_step()
        self.choose_step()

    def ever_active(self) -> float:
        """Share of maskable weights that were ever active, over members."""
        members = up_to_date(self._model)
        return float(np.mean([_ever_active(member) for member in members]))

    def forward_values(self) -> list[Tensor]:
        """Values of the trained variables in the last forward pass.

        They equal the variables, unless the attached method replaces kernels
        in the forward pass (CigL).

        Returns:
            List of tensors, one for each of `trainable_variables`.
        """
        model = self._model
        stand_ins = {}
        if self.method is not None:
            kernels = step.forward_kernels(model, steps_ago=1)
            stand_ins = {id(kernel): value for kernel, value in kernels}
        variables = model.trainable_variables
        return [stand_ins.get(id(v), v.value) for v in variables]


def up_to_date(model: Model) -> list:
    """The members of a model, after JAX's trainer has written back values.

    Args:
        model: A `SparseModel` or `SideBySide`.
    """
    keras_adapter.synchronize(model)
    return model.run.members


def begin_connection_state(
    layer: MasksKernels, method: Method, name: str
) -> None:
    """Sets a method's state of each connection to its initial values.

    Args:
        layer: A layer with the state.
        method: A `Method`.
        name: One of the names in `method.connection_state`.
    """
    for masked in layer.masked_kernels:
        initial = method.initial_state(masked.mask_array())
        if name in initial:
            masked.state[name].assign(initial[name])


def _traits(member: Model) -> list:
    method, masked_kernels = member.run.method, member.masked_kernels
    changing = method is not None and [
        method.takes_part(masked.active, masked.size)
        for masked in masked_kernels
    ]
    return [
        [member.run_eagerly, member.jit_compile, member.steps_per_execution],
        member.trainable_variables,
        [sorted(masked.state) for masked in masked_kernels],
        changing,
        method,
        member.run.objective,
        member.run.batch_transforms,
        member.run.variant,
    ]


def _ever_active(member: Model) -> float:
    counts = [
        int(np.sum(ops.convert_to_numpy(masked.state["ever_active"].value)))
        for masked in member.masked_kernels
    ]
    return sum(counts) / sum(masked.size for masked in member.masked_kernels)


class TrainsMembers(KerasMixin):
    """Sparse training of the models in `run.members`.

    A mixin for classes with a `run`; list it before `keras.Model` in the
    bases. The class defines how it attaches a method and what it does before
    and after `fit`.
    """

    run: TrainingRun

    @property
    def method(self) -> Method | None:
        """The attached sparse-training method, or `None`.

        With several members it is the method of the first.
        """
        return self.run.members[0].run.method

    def detach(self) -> None:
        """Detaches the method: masks do not change from the next step on."""
        for member in up_to_date(self):
            member.run.method = None
            member.run.choose_step()
        self.run.choose_step()

    def project(self) -> None:
        """Clears kernels and optimizer slots outside the masks."""
        for member in up_to_date(self):
            _project(member)

    @property
    def density(self) -> float:
        """Share of maskable weights that are active, averaged over members."""
        densities = [_density(member) for member in up_to_date(self)]
        return float(np.mean(densities))

    def _before_fit(self, arguments: dict) -> None:
        pass

    def _after_fit(self) -> None:
        pass

    def fit(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any:
        """As `keras.Model.fit`; kernels are zero outside their masks after it.

        Args:
            *args: As for `keras.Model.fit`.
            **kwargs: As for `keras.Model.fit`.
        """
        fit = inspect.signature(keras.Model.fit)
        arguments = fit.bind(self, *args, **kwargs).arguments
        check_companions(
            self.run.members[0].run.method, arguments.get("callbacks")
        )
        self._before_fit(arguments)
        _warn_of_idle_weights(self)
        # An exception in `fit`, or Ctrl-C, would leave a method attached.
        try:
            history = super().fit(*args, **kwargs)
        finally:
            try:
                keras_adapter.synchronize(self)
            finally:
                self.run.release()
        self._after_fit()
        self.project()  # EarlyStopping restores masks, but no slots
        return history

    def make_train_function(self, force: bool = False) -> None:
        """As Keras' own; remembers the step for the attached method.

        Args:
            force: As for Keras' own.
        """
        with keras_adapter.own_step(self, "train_step"):
            super().make_train_function(force)
        self.run.keep_step()


def _warn_of_idle_weights(model: Model) -> None:
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not keras_adapter.makes_idle_weights_nan(optimizer):
        return
    warnings.warn(
        "Adafactor makes a whole kernel NaN as soon as one of its inputs and "
        "one of its units have no gradient, which is common in sparse kernels, "
        "unless its `epsilon_1` is larger. Pass Adafactor(epsilon_1=1e-16). "
        f"Received: optimizer={optimizer.name!r}",
        stacklevel=3,
    )


def check_companions(method: Method | None, callbacks: typing.Any) -> None:
    """Raises if `fit` lacks a callback that does a part of a method's work.

    Callbacks that take a method bring these along; `model.attach` cannot.

    Args:
        method: The method that is attached when `fit` is called, or `None`.
        callbacks: The argument of `fit`.

    Raises:
        ValueError: If one of `Method.companions` is not among them.
    """
    if method is None or not method.companions:
        return
    given = getattr(callbacks, "callbacks", callbacks) or []
    given = given if isinstance(given, (list, tuple)) else [given]
    kinds = {kind.__name__ for one in given for kind in type(one).__mro__}
    names = [getattr(one, "__name__", one) for one in method.companions]
    missing = [name for name in names if name not in kinds]
    if missing:
        kind = type(method).__name__
        raise ValueError(
            f"`callbacks` must hold {' and '.join(missing)}, a part of the "
            f"method {kind} that was attached: pass it to `fit` too, or call "
            "`model.detach()` and pass "
            "keras_freetickets.callbacks.DropAndGrow(method, ...), which "
            f"brings it along. Received: method={kind} and callbacks of type "
            f"{[type(one).__name__ for one in given]}"
        )


def _project(member: Model) -> None:
    # Outside a compressed kernel there is nothing.
    masked_kernels = [m for m in member.masked_kernels if not m.compressed]
    slots: list[list] = [[] for _ in masked_kernels]
    if member.compiled and member.optimizer.built:
        kernels = [masked.kernel for masked in masked_kernels]
        slots = keras_adapter.optimizer_slots(member.optimizer, kernels)
    for masked, found in zip(masked_kernels, slots, strict=True):
        mask = masked.mask_array()
        for variable, initial in [(masked.kernel, 0.0), *found]:
            value = ops.convert_to_numpy(variable.value)
            fill = np.full_like(value, initial)
            variable.assign(np.where(mask, value, fill))


def _density(member: Model) -> float:
    masked_kernels = member.masked_kernels
    size = sum(masked.size for masked in masked_kernels)
    active = sum(masked.count() for masked in masked_kernels)
    return active / size if size else 1.0
