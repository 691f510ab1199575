"""The training step on TensorFlow.

The step is Keras' own, but for `apply_gradients`: gradients are masked before
the optimizer sees them, kernels and slots projected onto the masks after it,
and behind one conditional on the update counter the masks change. The update
is a function compiled by XLA even where the step around it is not, as Keras
compiles no step on CPUs.
"""

import keras
import tensorflow as tf
from keras import tree

from keras_freetickets import keras_adapter
from keras_freetickets.models.trainers import update as updates


def train_step(model, data):
    """One step of `fit` on one batch."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    if not model.built:
        keras_adapter.build_from_batch(model, x)
    with tf.GradientTape() as tape:
        y_pred = keras_adapter.call_model(model, x)
        loss = keras_adapter.compute_loss(model, x, y, y_pred, sample_weight)
        _track_loss(model, loss, x)
        loss = model.optimizer.scale_loss(loss)
    gradients = tape.gradient(loss, model.trainable_weights)
    model.apply_gradients(gradients)
    return model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)


def _track_loss(model, loss, x):
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    first = next(i for i in tree.flatten(x) if i is not None)
    keras_adapter.track_loss(model, loss * replicas, tf.shape(first)[0])


def gradients_at(model, kernels, x, y, sample_weight):
    """Gradients of the loss at other kernel values, leaving no trace."""
    variables = model.trainable_variables
    values = [v.value for v in variables]
    place = {id(v): i for i, v in enumerate(variables)}
    for record, kernel in zip(model.connections, kernels):
        values[place[id(record.kernel)]] = kernel
    values = [tf.convert_to_tensor(value) for value in values]
    others = [v.value for v in model.non_trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(values)
        y_pred, _ = model.stateless_call(values, others, x, training=True)
        loss = model.compute_loss(
            x, y, y_pred, sample_weight=sample_weight, training=True
        )
    wanted = [values[place[id(r.kernel)]] for r in model.connections]
    return tape.gradient(loss, wanted)


def apply_gradients(model, gradients):
    """Steps 2 to the end of a training step, from dense gradients on."""
    variables = model.trainable_variables
    optimizer = model.optimizer
    if not optimizer.built:
        optimizer.build(variables)
    gradients = [
        None if g is None else tf.convert_to_tensor(g) for g in gradients
    ]
    gradients = _mean_over_replicas(gradients)
    step = _Step(model, variables, gradients)
    if model.method is None:
        step.apply_masked()
        step.project(step.masks, step.masks)
        return
    step.run(model.method, model.topology)


def _mean_over_replicas(gradients):
    """The same dense gradients on every replica (masks must agree).

    The optimizer sums over replicas once more, so it is given the mean.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return gradients
    present = [g for g in gradients if g is not None]
    reduced = iter(context.all_reduce(tf.distribute.ReduceOp.MEAN, present))
    return [None if g is None else next(reduced) for g in gradients]


class _Step:
    """The variables of one step, matched by identity."""

    def __init__(self, model, variables, gradients):
        place = {id(v): i for i, v in enumerate(variables)}
        self.optimizer = model.optimizer
        self.variables = variables
        self.gradients = gradients
        # A frozen layer, or a kernel that the loss does not reach, rests.
        self.records = [
            r
            for r in model.connections
            if id(r.kernel) in place
            and gradients[place[id(r.kernel)]] is not None
        ]
        self.places = [place[id(r.kernel)] for r in self.records]
        kernels = [r.kernel for r in self.records]
        self.slots = keras_adapter.optimizer_slots(self.optimizer, kernels)
        self.masks = [tf.convert_to_tensor(r.mask.value) for r in self.records]
        self.dense = [gradients[i] for i in self.places]
        # Kernels of density 1 are left alone.
        self.changing = [
            i for i, r in enumerate(self.records) if r.active < r.size
        ]

    def run(self, method, topology):
        states = self.observe(method)
        if not self.changing:
            self.apply_masked(method, states)
            self.project(self.masks, self.masks)
            return
        before = topology.is_due(self.optimizer, method)
        if not method.apply_on_update:
            if tf.distribute.get_strategy().num_replicas_in_sync > 1:
                raise ValueError(
                    "`apply_on_update` must be True under a tf.distribute "
                    "strategy. Received: apply_on_update=False"
                )
            skip = tf.logical_and(before, updates.all_finite(self.dense))
            tf.cond(
                skip, lambda: None, lambda: self.apply_masked(method, states)
            )
            due = before
        else:
            self.apply_masked(method, states)
            due = topology.is_due(self.optimizer, method)
        masks, survivors, share, done = self.masks_after(
            method, topology, states, due
        )
        self.project(masks, survivors, method.grown_value)
        _track_ever_active(self.records, masks)
        for record, mask in zip(self.records, masks):
            record.mask.assign(mask)
        topology.record(self.optimizer, method, share, done)

    def observe(self, method):
        """Updates and returns the method's state of each connection."""
        states = [
            {name: tf.convert_to_tensor(v.value) for name, v in r.state.items()}
            for r in self.records
        ]
        if not method.connection_state:
            return states
        inputs = self.inputs(states, 0.0, 0, 0, 0)
        states = method.observe(inputs.connections())
        for record, state in zip(self.records, states):
            for name in method.connection_state:
                record.state[name].assign(state[name])
        return states

    def inputs(self, states, fraction, step, update, seed):
        scale = keras_adapter.loss_scale(self.optimizer)
        dense = self.dense
        if scale is not None:
            dense = [g / tf.cast(scale, g.dtype) for g in dense]
        kernels = [tf.convert_to_tensor(r.kernel.value) for r in self.records]
        return updates.Inputs(
            kernels, self.masks, dense, states, fraction, step, update, seed
        )

    def apply_masked(self, method=None, states=None):
        """Gives the optimizer the gradients of the active connections."""
        # Copies, as the optimizer's all-reduce refuses tensors of two graphs
        # where this is a branch.
        gradients = [
            None if g is None else tf.identity(g) for g in self.gradients
        ]
        given = self.dense
        if method is not None and self.records:
            inputs = self.inputs(states, 0.0, 0, 0, 0)
            given = method.transform_gradients(given, inputs.connections())
        for place, gradient, mask in zip(self.places, given, self.masks):
            gradients[place] = tf.where(mask, gradient, tf.zeros_like(gradient))
        self.optimizer.apply(gradients, self.variables)

    def masks_after(self, method, topology, states, due):
        """The masks of the next step; changed behind one conditional."""

        def update():
            inputs = self.inputs(
                states,
                topology.fraction(self.optimizer, method),
                topology.step_of(self.optimizer),
                topology.update_count.value,
                topology.seed.value,
            )
            masks, survivors = list(self.masks), list(self.masks)
            # One XLA program, also inside a step that is not one.
            compiled = tf.function(
                lambda arrays: updates.new_masks(
                    method, updates.Inputs(**arrays)
                ),
                jit_compile=True,
                autograph=False,
            )
            new, alive, share, done = compiled(_pick(inputs, self.changing))
            for i, mask, kept in zip(self.changing, new, alive):
                masks[i], survivors[i] = mask, kept
            return masks, survivors, share, done

        def rest():
            return (
                list(self.masks),
                list(self.masks),
                tf.convert_to_tensor(topology.replaced.value),
                tf.constant(False),
            )

        return tf.cond(due, update, rest)

    def project(self, masks, survivors, grown_value=0.0):
        """Clears kernels and slots wherever no connection lives."""
        for record, slots, mask, alive in zip(
            self.records, self.slots, masks, survivors
        ):
            kernel = tf.convert_to_tensor(record.kernel.value)
            record.kernel.assign(
                updates.projected(kernel, alive, mask, 0.0, grown_value)
            )
            for slot, initial in slots:
                value = tf.convert_to_tensor(slot.value)
                slot.assign(updates.projected(value, alive, mask, initial))


def _track_ever_active(records, masks):
    for record, mask in zip(records, masks):
        if "ever_active" in record.state:
            ever = record.state["ever_active"]
            was = tf.logical_or(ever.value, record.mask.value)
            ever.assign(tf.logical_or(was, mask))


def _pick(inputs, which):
    """The arrays of some of the kernels, by the names of `Inputs`."""
    per_kernel = ("kernels", "masks", "gradients", "states")
    return {
        name: [value[i] for i in which] if name in per_kernel else value
        for name, value in vars(inputs).items()
    }
