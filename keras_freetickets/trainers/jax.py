"""The training step on JAX: Keras' own, but for `stateless_apply`.

A step is a function from state to state there. The part that all backends
share runs in a scope in which variables read and write that state.
"""

import contextlib
import typing
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence

import jax
import keras

from keras_freetickets import keras_adapter
from keras_freetickets.layers import taps
from keras_freetickets.trainers import jax_members
from keras_freetickets.trainers import step
from keras_freetickets.trainers.backend import GroupsUpdate
from keras_freetickets.trainers.backend import VariableGroups
from keras_freetickets.types import Batch
from keras_freetickets.types import Gradients
from keras_freetickets.types import Logs
from keras_freetickets.types import Model
from keras_freetickets.types import Tensor
from keras_freetickets.types import Variable


class JaxBackend:
    """The `Backend` of JAX, where values go in and out of each step."""

    def check_fit(self, model: Model) -> None:
        """Accepts every model: Keras carries its distributions on JAX."""

    def train_step(
        self, model: Model, state: tuple, data: typing.Any
    ) -> tuple[Logs, tuple]:
        """One step of `fit`: from the state before it to the state after.

        Args:
            model: A `SparseModel`.
            state: Lists of values: trainable, non-trainable, optimizer's and
                metrics' variables.
            data: A batch.

        Returns:
            The logs and the new state.
        """
        trainable, others, slots, metrics = state
        batch = keras.utils.unpack_x_y_sample_weight(data)
        with _state_scope(model, state[:3]):
            batch = model.run.transformed_batch(*batch)
        x, y, sample_weight = batch
        values = _forward_values(model, state)

        def loss_of(values: list[Tensor], sinks: typing.Any) -> tuple:
            with taps.collecting(taps.Taps(sinks) if sinks else None):
                return model.compute_loss_and_updates(
                    values,
                    others,
                    metrics,
                    x,
                    y,
                    sample_weight,
                    training=True,
                    optimizer_variables=slots,
                )

        noted = taps.current()
        sinks = {}
        if noted is not None:
            # What the products note: first its shapes, then its values.
            jax.eval_shape(
                lambda: model.compute_loss_and_updates(
                    values,
                    others,
                    metrics,
                    x,
                    y,
                    sample_weight,
                    training=True,
                    optimizer_variables=slots,
                )
            )
            sinks = noted.empty_sinks()
        loss_and_gradients = jax.value_and_grad(loss_of, (0, 1), has_aux=True)
        (_, outcome), found = loss_and_gradients(values, sinks)
        gradients, products = found
        if noted is not None:
            noted.noted = products
        loss, y_pred, others, metrics = outcome
        trainable, others, slots = self.stateless_apply(
            model, trainable, others, slots, gradients, batch
        )
        logs, metrics = keras_adapter.updated_metrics(
            model, metrics, loss, (x, y, y_pred, sample_weight)
        )
        return logs, (trainable, others, slots, metrics)

    def inference_step(
        self,
        model: Model,
        keras_step: Callable,
        state: tuple,
        data: typing.Any,
    ) -> tuple:
        """Keras' step of evaluation or prediction, on effective kernels."""
        variables = [*model.trainable_variables, *model.non_trainable_variables]
        held = _flat(state[:2])
        mapping = list(zip(variables, held, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            kernels = step.effective_kernels(model)
        stand_ins = {id(kernel): value for kernel, value in kernels}
        values = [stand_ins.get(id(v), value) for v, value in mapping]
        count = len(state[0])
        computed = (values[:count], values[count:], *state[2:])
        outcome, after = keras_step(computed, data)
        if isinstance(after, tuple):  # of evaluation: the whole state
            return outcome, (state[0], *after[1:])
        return outcome, after

    def stateless_apply(
        self,
        model: Model,
        trainable: Sequence[Tensor],
        others: Sequence[Tensor],
        slots: Sequence[Tensor],
        gradients: Gradients,
        batch: Batch | None = None,
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """The rest of a step, from dense gradients on, as values to values."""
        scope = _state_scope(model, (trainable, others, slots))
        with scope:
            self.apply_gradients(model, gradients, batch)
        trainable, others, slots = (
            [scope.get_current_value(variable) for variable in group]
            for group in _groups(model)
        )
        return trainable, others, slots

    def apply_gradients(
        self, model: Model, gradients: Gradients, batch: Batch | None = None
    ) -> None:
        """The rest of a step, from dense gradients on."""
        step.apply_gradients(self, model, gradients, batch)

    def function(self, python_function: Callable) -> Callable:
        """Compiled once; for what is called with many batches."""
        return jax.jit(python_function)

    def value_and_gradients(
        self, function: Callable, values: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """A function's value at a list of tensors, and its gradients there."""
        return jax.value_and_grad(function)(list(values))

    def scope(self, model: Model) -> typing.ContextManager:
        """No context: the layout of a model says which devices hold it."""
        return contextlib.nullcontext()

    def replicas(self) -> int:
        """One: a compiled step sees the whole batch, wherever it lies."""
        return 1

    def sum_over_replicas(self, gradients: Gradients) -> list[Tensor | None]:
        """The gradients of the whole batch, as they are."""
        return list(gradients)

    def of_replicas(self, value: Tensor) -> Tensor:
        """The scalars of all replicas, as a vector."""
        return jax.numpy.reshape(value, (1,))

    def compiled(self, function: Callable, traits: list) -> Callable:
        """The function: the step is one program already, or runs eagerly."""
        return function

    def apply(
        self, model: Model, gradients: Gradients, skip: Tensor | None = None
    ) -> None:
        """The optimizer's own step, left out where `skip` is true."""
        groups = (model.trainable_variables, model.optimizer.variables)
        before = [[v.value for v in group] for group in groups]
        after = model.optimizer.stateless_apply(before[1], gradients, before[0])
        for variable, old, new in zip(
            _flat(groups), _flat(before), _flat(after), strict=True
        ):
            # Chosen entry by entry, in the loop that computes them; a
            # conditional would copy them all.
            value = new if skip is None else jax.numpy.where(skip, old, new)
            variable.assign(value)

    def any_member(self, done: Tensor) -> Tensor:
        """Whether an update took place: in any of vectorized members."""
        return jax_members.any_member(done)

    def masked(self, gradient: Tensor, mask: Tensor) -> Tensor:
        """The gradient, 0 where the mask is false, even if it is NaN there."""
        return jax.numpy.where(mask, gradient, 0)

    def after(self, before: Tensor | None, values: typing.Any) -> typing.Any:
        """Tensors that are made only after another one."""
        if before is None:
            return values
        return jax.lax.optimization_barrier((before, values))[1]

    def places(self, flags: Tensor, room: int) -> Tensor:
        """Where flags are true, rising; beyond those the number of flags."""
        (found,) = jax.numpy.nonzero(
            flags, size=room, fill_value=flags.shape[0]
        )
        return found.astype("int32")

    def update_if_due(
        self, due: Tensor, groups: VariableGroups, update: GroupsUpdate
    ) -> Tensor:
        """Gives variables new values if that is due; see `Backend`."""
        never = jax.numpy.array(False)

        def trip(state: tuple) -> tuple:
            new, done = update(state[2])
            return never, done, new

        values = [[v.value for v in group] for group in groups]
        state = (due, never, values)
        _, done, values = jax.lax.while_loop(lambda s: s[0], trip, state)
        for variable, value in zip(_flat(groups), _flat(values), strict=True):
            variable.assign(value)
        return done


def _groups(model: Model) -> tuple[list[Variable], ...]:
    return (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
    )


def _state_scope(
    model: Model, values: Iterable[Sequence[Tensor]]
) -> typing.Any:
    variables = _flat(_groups(model))
    mapping = list(zip(variables, _flat(values), strict=True))
    return keras.StatelessScope(state_mapping=mapping)


def _forward_values(model: Model, state: tuple) -> list[Tensor]:
    """The trainable values of a step, with those that stand in for kernels."""
    with _state_scope(model, state[:3]):
        stand_ins = {id(k): value for k, value in step.forward_kernels(model)}
    return [
        stand_ins.get(id(variable), value)
        for variable, value in zip(
            model.trainable_variables, state[0], strict=True
        )
    ]


def _flat(groups: Iterable[Sequence[typing.Any]]) -> list[typing.Any]:
    return [value for group in groups for value in group]
