"""The training step on JAX: Keras' own, but for `stateless_apply`.

A step is a function from state to state there. The part that all backends
share runs in a scope in which variables read and write that state.
"""

import sys

import jax
import keras

from keras_freetickets import keras_adapter
from keras_freetickets.models.trainers import step


def check_fit(model):
    """Refuses nothing: Keras carries its distributions on JAX."""


def train_step(model, state, data):
    """One step of `fit`: the state before it and a batch, to the state after.

    Args:
        model: A `SparseModel`.
        state: Lists of values: trainable, non-trainable, optimizer's and
            metrics' variables.
        data: A batch.

    Returns:
        The logs and the new state.
    """
    trainable, others, slots, metrics = state
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    with _scope(model, state[:3]):
        x, y, sample_weight = model.training_batch(x, y, sample_weight)
    loss_and_gradients = jax.value_and_grad(
        model.compute_loss_and_updates, has_aux=True
    )
    (_, outcome), gradients = loss_and_gradients(
        forward_values(model, state),
        others,
        metrics,
        x,
        y,
        sample_weight,
        training=True,
        optimizer_variables=slots,
    )
    loss, y_pred, others, metrics = outcome
    trainable, others, slots = stateless_apply(
        model, trainable, others, slots, gradients, (x, y, sample_weight)
    )
    logs, metrics = keras_adapter.updated_metrics(
        model, metrics, loss, (x, y, y_pred, sample_weight)
    )
    return logs, (trainable, others, slots, metrics)


def _groups(model):
    return (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
    )


def _scope(model, values):
    variables = [v for group in _groups(model) for v in group]
    values = [v for group in values for v in group]
    return keras.StatelessScope(state_mapping=list(zip(variables, values)))


def forward_values(model, state):
    """The trainable values of a step, with those that stand in for kernels."""
    with _scope(model, state[:3]):
        stand_ins = {id(k): value for k, value in step.forward_kernels(model)}
    return [
        stand_ins.get(id(variable), value)
        for variable, value in zip(model.trainable_variables, state[0])
    ]


def stateless_apply(model, trainable, others, slots, gradients, batch=None):
    """The rest of a step, from dense gradients on, as values to values."""
    scope = _scope(model, (trainable, others, slots))
    with scope:
        apply_gradients(model, gradients, batch)
    return tuple(
        [scope.get_current_value(variable) for variable in group]
        for group in _groups(model)
    )


def apply_gradients(model, gradients, batch=None):
    """The rest of a step, from dense gradients on."""
    step.apply_gradients(sys.modules[__name__], model, gradients, batch)


def function(python_function):
    """Compiled once; for what is called with many batches between steps."""
    return jax.jit(python_function)


def value_and_gradients(function, values):
    """A function's value at a list of tensors, and its gradients there."""
    return jax.value_and_grad(function)(list(values))


def mean_over_replicas(gradients):
    """A compiled step sees the whole batch, however it is laid out."""
    return gradients


def compiled(function):
    """The step is one program already, or wants to be run eagerly."""
    return function


def apply(optimizer, gradients, variables, skip=None):
    """The optimizer's own step, left out where `skip` is true."""
    groups = (variables, optimizer.variables)
    before = [[v.value for v in group] for group in groups]
    after = optimizer.stateless_apply(before[1], gradients, before[0])
    for variable, old, new in zip(_flat(groups), _flat(before), _flat(after)):
        # Chosen entry by entry, in the loop that computes them; a conditional
        # would copy them all.
        value = new if skip is None else jax.numpy.where(skip, old, new)
        variable.assign(value)


def masked(gradient, mask):
    """The gradient, 0 where the mask is false, whatever it was there."""
    return jax.numpy.where(mask, gradient, 0)


def once(due, groups, update):
    """Gives variables new values if that is due.

    A loop of at most one trip: XLA updates in place what a loop carries, but
    copies what goes through a conditional, taken or not.

    Args:
        due: Boolean tensor.
        groups: List of lists of variables.
        update: Callable that maps lists of values to such lists and a boolean
            tensor.

    Returns:
        The boolean tensor, false if nothing was due.
    """
    never = jax.numpy.array(False)

    def trip(state):
        new, done = update(state[2])
        return never, done, new

    values = [[v.value for v in group] for group in groups]
    state = (due, never, values)
    _, done, values = jax.lax.while_loop(lambda s: s[0], trip, state)
    for variable, value in zip(_flat(groups), _flat(values)):
        variable.assign(value)
    return done


def _flat(groups):
    return [value for group in groups for value in group]
