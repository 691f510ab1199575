"""The training step on TensorFlow: Keras' own, but for `apply_gradients`."""

import contextlib
import sys

import keras
import tensorflow as tf
from keras import tree

from keras_freetickets import keras_adapter
from keras_freetickets.models.trainers import compiled_steps
from keras_freetickets.models.trainers import step


def check_fit(model):
    """Refuses what Keras' own `fit` breaks off at, in words of TensorFlow.

    Args:
        model: A compiled `SparseModel`.

    Raises:
        ValueError: If the strategy spans several workers (keras issue 20585),
            or several steps are to run at once (19246), gradients to be
            accumulated, averages to overwrite the weights or XLA to compile
            the step on several replicas.
    """
    strategy = model.distribute_strategy
    count = strategy.num_replicas_in_sync
    if count == 1:
        return
    if count > len(strategy.extended.worker_devices):
        raise ValueError(
            "The strategy must have one worker: `fit` of Keras 3 cannot feed "
            "several, as of MultiWorkerMirroredStrategy. Several machines "
            "train on the JAX backend, with keras.distribution. "
            f"Received: strategy={type(strategy).__name__} with {count} "
            "replicas"
        )
    optimizer = model.optimizer
    overwriting = optimizer.use_ema and optimizer.ema_overwrite_frequency
    for name, value, right in (
        ("steps_per_execution", model.steps_per_execution, 1),
        ("jit_compile", model.jit_compile, False),
        (
            "gradient_accumulation_steps",
            keras_adapter.accumulation_steps(optimizer),
            None,
        ),
        ("ema_overwrite_frequency", overwriting or None, None),
    ):
        if value != right:
            raise ValueError(
                f"`{name}` must be {right} under a strategy with several "
                f"replicas, where `fit` of Keras 3 fails. Received: {name}="
                f"{value}, strategy={type(strategy).__name__}"
            )


def train_step(model, data):
    """One step of `fit` on one batch."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    if not model.built:
        keras_adapter.build_from_batch(model, x)
    x, y, sample_weight = model.training_batch(x, y, sample_weight)
    stand_ins = step.forward_kernels(model)
    kernels = [tf.identity(kernel.value) for kernel, _ in stand_ins]
    for kernel, value in stand_ins:
        kernel.assign(value)
    with tf.GradientTape() as tape:
        y_pred = keras_adapter.call_model(model, x)
        loss = keras_adapter.compute_loss(model, x, y, y_pred, sample_weight)
        _track_loss(model, loss, x)
        loss = model.optimizer.scale_loss(loss)
    gradients = tape.gradient(loss, model.trainable_weights)
    for (kernel, _), value in zip(stand_ins, kernels):
        kernel.assign(value)
    model.apply_gradients(gradients, batch=(x, y, sample_weight))
    return model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)


def _track_loss(model, loss, x):
    first = next(i for i in tree.flatten(x) if i is not None)
    keras_adapter.track_loss(model, loss * replicas(), tf.shape(first)[0])


@tf.autograph.experimental.do_not_convert  # no more than in `fit`
def apply_gradients(model, gradients, batch=None):
    """The rest of a step, from dense gradients on."""
    gradients = _dense(gradients)
    step.apply_gradients(sys.modules[__name__], model, gradients, batch)


def _dense(gradients):
    """Gradients as tensors: those of embeddings come as slices of rows."""
    return [
        tf.convert_to_tensor(g) if isinstance(g, tf.IndexedSlices) else g
        for g in gradients
    ]


def function(python_function):
    """Traced once; for what is called with many batches between steps."""
    return tf.function(python_function, autograph=False)


def value_and_gradients(function, values):
    """A function's value at a list of tensors, and its gradients there."""
    values = [tf.convert_to_tensor(value) for value in values]
    with tf.GradientTape() as tape:
        tape.watch(values)
        result = function(values)
    return result, _dense(tape.gradient(result, values))


def scope(model):
    """Where variables of a model are made: on all replicas of its strategy."""
    if model.distribute_strategy.num_replicas_in_sync == 1:
        return contextlib.nullcontext()
    return model.distribute_strategy.scope()


def replicas():
    """How many replicas share a batch, and each a loss of its part."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def _in_replica():
    """Whether this runs on each of several replicas, and they can talk."""
    return tf.distribute.get_replica_context() is not None and replicas() > 1


def sum_over_replicas(gradients):
    """The gradients of the whole batch, the same on every replica.

    A replica's own are those of its share of the loss: Keras divides it by
    the number of replicas.
    """
    if not _in_replica():
        return gradients
    context = tf.distribute.get_replica_context()
    present = [g for g in gradients if g is not None]
    reduced = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, present))
    return [None if g is None else next(reduced) for g in gradients]


def of_replicas(value):
    """The scalars of all replicas, as a vector."""
    if not _in_replica():
        return tf.reshape(value, (1,))
    context = tf.distribute.get_replica_context()
    number = context.replica_id_in_sync_group
    place = tf.one_hot(number, context.num_replicas_in_sync, dtype=value.dtype)
    return context.all_reduce(tf.distribute.ReduceOp.SUM, place * value)


_PROGRAMS = compiled_steps.SharedPrograms()


def compiled(function, traits):
    """One XLA program, whatever the step around it is compiled to.

    Args:
        function: Function of arrays.
        traits: List of what else decides its result: functions of equal
            traits share a program.
    """

    def make():
        return tf.function(function, jit_compile=True, autograph=False)

    if tf.distribute.has_strategy():  # traced once for each replica
        return make()
    return _PROGRAMS.get([*traits, keras.config.floatx()], make)


def apply(optimizer, gradients, variables, skip=None):
    """The optimizer's own step, left out where `skip` is true."""
    if _in_replica():
        # The optimizer sums over replicas once more.
        count = replicas()
        gradients = [None if g is None else g / count for g in gradients]

    def run():
        # Copies, as the optimizer's all-reduce refuses tensors of two graphs
        # where this is a branch.
        copies = [None if g is None else tf.identity(g) for g in gradients]
        optimizer.apply(copies, variables)

    if skip is None:
        run()
        return
    if not tf.distribute.has_strategy():
        tf.cond(skip, lambda: None, run)
        return
    # Replicas cannot talk within a branch: the step is made and taken back.
    touched = [*variables, *optimizer.variables]
    before = [tf.identity(v.value) for v in touched]
    run()
    for variable, value in zip(touched, before):
        variable.assign(tf.where(skip, value, variable.value))


def any_member(done):
    """Whether an update took place; each model has counters of its own."""
    return done


def step_of_members(model, name, own, data):
    """A step of each member of a `SideBySide`, one after the other.

    They share no variables, so that a graph may run them at the same time.

    Args:
        model: A `SideBySide`.
        name: `"train_step"` or `"test_step"`.
        own: Whether each member has a batch of its own in `data`.
        data: A batch.

    Returns:
        List of the members' logs.
    """
    return [
        getattr(member, name)(model.batch_of(i, data, own))
        for i, member in enumerate(model.members)
    ]


def masked(gradient, mask):
    """The gradient, 0 where the mask is false, whatever it was there.

    In graphs half as slow again with `tf.where` and a scalar.
    """
    return tf.math.multiply_no_nan(gradient, tf.cast(mask, gradient.dtype))


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
    never = tf.constant(False)

    def values():
        return [[tf.convert_to_tensor(v.value) for v in g] for g in groups]

    def assign(new):
        for variable, value in zip(_flat(groups), _flat(new)):
            variable.assign(value)

    if tf.distribute.has_strategy():
        # Replicas cannot talk within a branch, and assignments let them, also
        # those of the only replica.
        new, done = tf.cond(
            due, lambda: update(values()), lambda: (values(), never)
        )
        assign(new)
        return done

    def trip(pending, done):
        new, done = update(values())
        assign(new)
        return never, done

    return tf.while_loop(lambda pending, done: pending, trip, (due, never))[1]


def _flat(groups):
    return [value for group in groups for value in group]
