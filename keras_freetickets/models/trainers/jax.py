"""The training step on JAX: Keras' own, but for `stateless_apply`.

A step is a function from state to state there. The part that all backends
share runs in a scope in which variables read and write that state.
"""

import contextlib
import contextvars
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


def scope(model):
    """Where variables of a model are made; its layout says on which devices."""
    return contextlib.nullcontext()


def replicas():
    """One: a compiled step sees the whole batch, however it is laid out."""
    return 1


def sum_over_replicas(gradients):
    """The gradients of the whole batch, as they are."""
    return gradients


def of_replicas(value):
    """The scalars of all replicas, as a vector."""
    return jax.numpy.reshape(value, (1,))


def compiled(function, traits):
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


# The axis of members that train side by side, where they are vectorized.
_MEMBERS = "members"
_vectorized = contextvars.ContextVar("vectorized", default=False)


@contextlib.contextmanager
def _members_axis():
    token = _vectorized.set(True)
    try:
        yield
    finally:
        _vectorized.reset(token)


def any_member(done):
    """Whether an update took place: for members that share counters, in any."""
    if not _vectorized.get():
        return done
    return jax.lax.pmax(done.astype("int32"), _MEMBERS) > 0


def step_of_members(model, name, own, state, data):
    """A step of each member of a `SideBySide`.

    Args:
        model: A `SideBySide`.
        name: `"train_step"` or `"test_step"`.
        own: Whether each member has a batch of its own in `data`.
        state: The model's state, lists of values.
        data: A batch.

    Returns:
        List of the members' logs and the new state.
    """
    count = len(model.members)
    if not model.vectorize:
        steps = [
            getattr(member, name)(share, model.batch_of(i, data, own))
            for i, (member, share) in enumerate(
                zip(model.members, _shares(state, count))
            )
        ]
        logs, states = zip(*steps)
        return list(logs), tuple(sum(one, []) for one in zip(*states))
    axes = state_axes(model)
    axes = axes if len(state) == len(axes) else (*axes[:2], axes[3])
    with _members_axis():
        step = jax.vmap(
            getattr(model.members[0], name),
            in_axes=(axes, 1 if own else None),
            out_axes=(0, axes),
            axis_name=_MEMBERS,
        )
        logs, state = step(state, data)
    return [{n: v[i] for n, v in logs.items()} for i in range(count)], state


def has_accelerator():
    """Whether steps run on something else than the processor."""
    return jax.default_backend() != "cpu"


def _shares(state, count):
    """The state of each member: equal parts, member after member."""
    for i in range(count):
        yield tuple(
            part[i * len(part) // count : (i + 1) * len(part) // count]
            for part in state
        )


def state_axes(model):
    """Which values are stacked, 0, and which members share, `None`.

    What decides whether an update is due must be shared: for a condition of
    each member's own both branches would be computed in every step.
    """
    member = model.members[0]
    shared = {id(v) for v in keras_adapter.shared_counters(member.optimizer)}
    shared |= {id(v) for v in member.update_state.shared_counters}
    return tuple(
        [None if id(v) in shared else 0 for v in group]
        for group in (*_groups(member), member.metrics_variables)
    )


def pack(values, axes):
    """Stacks the values of members, member after member, but shared ones."""
    count = len(axes)
    each = [values[i::count] for i in range(count)]
    return [
        jax.numpy.stack(one) if axis == 0 else one[0]
        for axis, one in zip(axes, each)
    ]


def unpack(values, axes, count):
    """The values of `count` members, member after member.

    Copies, as each member may hand its own to a step that donates them.
    """
    return [
        value[i] if axis == 0 else jax.numpy.copy(value)
        for i in range(count)
        for value, axis in zip(values, axes)
    ]


def masked(gradient, mask):
    """The gradient, 0 where the mask is false, whatever it was there."""
    return jax.numpy.where(mask, gradient, 0)


def update_if_due(due, groups, update):
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
