"""A sparse training step from the dense gradients on, on any backend.

Gradients are masked before the optimizer sees them, and if an update of the
topology is due, masks change, and kernels and slots with them. A step without
an update costs one look at a counter more than the optimizer and the masking;
optimizers that stray from the masks are put right after each step. What
differs between backends (the optimizer's call, control flow, compilation,
replicas) is in their modules, one of which is handed in here.
"""

import functools

from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.models.trainers import update as updates


def apply_gradients(backend, model, gradients):
    """One optimizer step of a sparse model.

    Args:
        backend: The trainer module, with the functions `apply`, `compiled`,
            `masked`, `mean_over_replicas` and `once`.
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
        states = self.states()
        if method is None or not self.changing:
            self.apply_masked(method, states)
        else:
            closes = self.window.closes()
            mean = self.mean_gradients()
            states = self.observe(method, mean, closes)
            update = functools.partial(
                self.update_topology, method, topology, states, mean, closes
            )
            if method.apply_on_update:
                self.apply_masked(method, states)
                update()
            else:
                # The update does not wait for the optimizer, which rests
                # in this step if it takes place.
                self.apply_masked(method, states, skip=update())
        self.clear_strays()

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
            gradients[place] = self.backend.masked(gradient, mask)
        self.window.mask(self.masks)
        self.backend.apply(self.optimizer, gradients, self.variables, skip)
        if skip is not None:
            self.window.restart(skip)

    def update_topology(self, method, topology, states, gradients, closes):
        """Changes masks, kernels and slots if that is due.

        Returns:
            Boolean tensor, whether it took place.
        """
        rooms = [self._room(i) for i in self.changing]

        def update(values):
            kernels, masks = [[v[j] for v in values] for j in (0, 1)]
            inputs = updates.Inputs(
                kernels,
                masks,
                [gradients[i] for i in self.changing],
                [states[i] for i in self.changing],
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
            new, alive, share, done = compiled(dict(vars(inputs)))
            moved = [
                room.moved(value, mask, kept, method.grown_value)
                for room, value, mask, kept in zip(rooms, values, new, alive)
            ]
            counted = topology.counted(self.optimizer, method, share, done)
            return [*moved, counted], done

        variables = [room.variables for room in rooms]
        return self.backend.once(
            self.is_due(method, topology, closes),
            [*variables, topology.counters],
            update,
        )

    def _room(self, i):
        return Room(self.records[i], self.slots[i])

    def clear_strays(self):
        """Clears what the optimizer leaves outside the masks, if it does."""
        for i, record in enumerate(self.records):
            if keras_adapter.keeps_zeros(self.optimizer, record.kernel):
                continue
            mask = ops.convert_to_tensor(record.mask.value)
            for variable, fill in [(record.kernel, 0.0), *self.slots[i]]:
                value = ops.convert_to_tensor(variable.value)
                variable.assign(updates.projected(value, mask, mask, fill))


class Room:
    """The variables of one kernel that change in an update.

    Attributes:
        variables: List of variables: kernel, mask, slots and, where it is
            tracked, which connections were ever active.
    """

    def __init__(self, record, slots):
        self.fills = [initial for _, initial in slots]
        self.variables = [record.kernel, record.mask, *(s for s, _ in slots)]
        if "ever_active" in record.state:
            self.variables.append(record.state["ever_active"])

    def moved(self, values, mask, alive, grown_value):
        """The values after an update.

        Args:
            values: List of tensors, the values of `variables` before it.
            mask: Boolean tensor, the mask from now on.
            alive: Boolean tensor, where values are kept.
            grown_value: Float, the value of new connections.
        """
        kernel, _, *rest = values
        slots, ever_active = rest[: len(self.fills)], rest[len(self.fills) :]
        return [
            updates.projected(kernel, alive, mask, 0.0, grown_value),
            mask,
            *(
                updates.projected(slot, alive, mask, fill)
                for slot, fill in zip(slots, self.fills)
            ),
            *(ops.logical_or(ever, mask) for ever in ever_active),
        ]


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
