"""A sparse training step from the dense gradients on, on any backend.

Gradients are masked before the optimizer sees them, kernels and slots are
projected onto the masks after it, and behind one conditional on the update
counter the masks change. What differs between backends (the optimizer's call,
compilation, replicas) is in their modules, one of which is handed in here.
"""

import functools

from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.models.trainers import update as updates


def apply_gradients(backend, model, gradients):
    """One optimizer step of a sparse model.

    Args:
        backend: The trainer module, with the functions `apply`, `compiled`
            and `mean_over_replicas`.
        model: A `SparseModel`.
        gradients: List of dense gradients, one for each of the model's
            trainable variables; `None` where the loss does not reach.
    """
    optimizer = model.optimizer
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    gradients = [
        None if g is None else ops.convert_to_tensor(g) for g in gradients
    ]
    gradients = backend.mean_over_replicas(gradients)
    Step(backend, model, gradients).run(model.method, model.topology)


class Step:
    """The variables of one step, matched by identity."""

    def __init__(self, backend, model, gradients):
        self.backend = backend
        self.optimizer = model.optimizer
        self.variables = model.trainable_variables
        self.gradients = gradients
        place = {id(v): i for i, v in enumerate(self.variables)}
        # A frozen layer, or a kernel that the loss does not reach, rests.
        self.records = [
            r
            for r in model.connections
            if id(r.kernel) in place
            and gradients[place[id(r.kernel)]] is not None
        ]
        self.places = [place[id(r.kernel)] for r in self.records]
        # Kernels of density 1 are left alone.
        self.changing = [
            i for i, r in enumerate(self.records) if r.active < r.size
        ]
        kernels = [r.kernel for r in self.records]
        self.slots = keras_adapter.optimizer_slots(self.optimizer, kernels)
        self.masks = [ops.convert_to_tensor(r.mask.value) for r in self.records]
        self.dense = [gradients[i] for i in self.places]
        self.window = Window(self.optimizer, kernels)

    def run(self, method, topology):
        if method is None or not self.changing:
            self.apply_masked(method, self.states())
            self.project(self.masks, self.masks)
            return
        closes = self.window.closes()
        mean = self.mean_gradients()
        states = self.observe(method, mean, closes)
        due = self.is_due(method, topology, closes)
        skip = None
        if not method.apply_on_update:
            skip = ops.logical_and(due, updates.all_finite(self.dense))
        self.apply_masked(method, states, skip)
        if method.apply_on_update:
            due = self.is_due(method, topology, closes)
        masks, survivors, share, done = self.masks_after(
            method, topology, states, mean, due
        )
        self.project(masks, survivors, method.grown_value, done)
        topology.record(self.optimizer, method, share, done)

    def is_due(self, method, topology, closes):
        due = topology.is_due(self.optimizer, method)
        return due if closes is None else ops.logical_and(due, closes)

    def states(self):
        return [
            {
                name: ops.convert_to_tensor(v.value)
                for name, v in r.state.items()
            }
            for r in self.records
        ]

    def mean_gradients(self):
        """Dense gradients without loss scale, the mean over micro-batches."""
        scale = keras_adapter.loss_scale(self.optimizer)
        dense = self.dense
        if scale is not None:
            dense = [g / ops.cast(scale, g.dtype) for g in dense]
        return self.window.mean(dense)

    def observe(self, method, gradients, closes):
        """Updates and returns the method's state of each connection."""
        states = self.states()
        if not method.connection_state:
            return states
        inputs = self.inputs(gradients, states)
        new = method.observe(inputs.connections())
        for record, old, state in zip(self.records, states, new):
            for name in method.connection_state:
                if closes is not None:
                    state[name] = ops.where(closes, state[name], old[name])
                record.state[name].assign(state[name])
        return new

    def inputs(self, gradients, states, **scalars):
        kernels = [ops.convert_to_tensor(r.kernel.value) for r in self.records]
        return updates.Inputs(kernels, self.masks, gradients, states, **scalars)

    def apply_masked(self, method, states, skip=None):
        """Gives the optimizer the gradients of the active connections."""
        gradients = list(self.gradients)
        given = self.dense
        if method is not None and self.records:
            inputs = self.inputs(self.mean_gradients(), states)
            given = method.transform_gradients(given, inputs.connections())
        closes = self.window.closes()
        for place, gradient, mask in zip(self.places, given, self.masks):
            if closes is not None:
                # Until the last micro-batch the sums stay dense, for growth.
                mask = ops.logical_or(mask, ops.logical_not(closes))
            gradients[place] = ops.where(mask, gradient, 0)
        self.window.mask(self.masks)
        self.backend.apply(self.optimizer, gradients, self.variables, skip)
        if skip is not None:
            self.window.restart(skip)

    def masks_after(self, method, topology, states, gradients, due):
        """The masks of the next step; changed behind one conditional."""

        def update():
            inputs = self.inputs(
                gradients,
                states,
                fraction=topology.fraction(self.optimizer, method),
                step=topology.step_of(self.optimizer),
                update=topology.update_count.value,
                seed=topology.seed.value,
            )
            # One compiled program, also inside a step that is not one.
            compiled = self.backend.compiled(
                lambda arrays: updates.new_masks(
                    method, updates.Inputs(**arrays)
                )
            )
            new, alive, share, done = compiled(_pick(inputs, self.changing))
            masks, survivors = list(self.masks), list(self.masks)
            for i, mask, kept in zip(self.changing, new, alive):
                masks[i], survivors[i] = mask, kept
            return masks, survivors, share, done

        def rest():
            share = ops.convert_to_tensor(topology.replaced.value)
            masks = list(self.masks)
            return masks, list(self.masks), share, ops.cast(False, "bool")

        return ops.cond(due, update, rest)

    def project(self, masks, survivors, grown_value=0.0, done=None):
        """Clears kernels and slots wherever no connection lives.

        Args:
            masks: List of boolean tensors, the masks from now on.
            survivors: List of boolean tensors, where values are kept.
            grown_value: Float, the value of new connections.
            done: Boolean tensor, whether the masks have changed; `None` if
                they cannot have.
        """
        everywhere, changed = [], []
        for i, record in enumerate(self.records):
            targets = self._cleared(i, masks[i], survivors[i], grown_value)
            stay = keras_adapter.keeps_zeros(self.optimizer, record.kernel)
            (changed if stay else everywhere).extend(targets)
            changed += self._new_mask(record, masks[i])
        for variable, value in everywhere:
            variable.assign(value())
        if done is not None:
            self.backend.assign_if(
                done,
                [variable for variable, _ in changed],
                lambda: [value() for _, value in changed],
            )

    def _cleared(self, i, mask, alive, grown_value):
        """Kernel and slots, each with a function of its value from now on."""

        def value_of(variable, fill, grown=None):
            value = ops.convert_to_tensor(variable.value)
            return updates.projected(value, alive, mask, fill, grown)

        kernel = self.records[i].kernel
        targets = [(kernel, lambda: value_of(kernel, 0.0, grown_value))]
        for slot, initial in self.slots[i]:
            targets.append((slot, functools.partial(value_of, slot, initial)))
        return targets

    def _new_mask(self, record, mask):
        targets = [(record.mask, lambda: mask)]
        if "ever_active" in record.state:
            ever = record.state["ever_active"]
            targets.append((ever, lambda: ops.logical_or(ever.value, mask)))
        return targets


class Window:
    """The micro-batches that make one update of the optimizer.

    Without gradient accumulation there is one, and nothing to do here.
    """

    def __init__(self, optimizer, kernels):
        self.steps, self.count, self.sums = keras_adapter.accumulators(
            optimizer, kernels
        )

    def closes(self):
        """Whether this micro-batch is the last; `None` if it always is."""
        if not self.steps:
            return None
        return ops.equal((self.count.value + 1) % self.steps, 0)

    def mean(self, gradients):
        if not self.steps:
            return gradients
        return [
            (g + ops.cast(s.value, g.dtype)) / self.steps
            for g, s in zip(gradients, self.sums)
        ]

    def mask(self, masks):
        """Masks the sums that the optimizer is about to use."""
        if not self.steps:
            return
        waits = ops.logical_not(self.closes())
        for total, mask in zip(self.sums, masks):
            kept = ops.logical_or(mask, waits)
            total.assign(ops.where(kept, total.value, 0))

    def restart(self, skipped):
        """Begins the window anew where its update was skipped."""
        if not self.steps:
            return
        for total in self.sums:
            total.assign(ops.where(skipped, 0, total.value))
        back = ops.cast(skipped, self.count.dtype) * (self.steps - 1)
        self.count.assign(self.count.value - back)


def _pick(inputs, which):
    """The arrays of some of the kernels, by the names of `Inputs`."""
    per_kernel = ("kernels", "masks", "gradients", "states")
    return {
        name: [value[i] for i in which] if name in per_kernel else value
        for name, value in vars(inputs).items()
    }
