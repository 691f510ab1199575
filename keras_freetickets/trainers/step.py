"""A sparse training step from the dense gradients on, on any backend.

Gradients are masked before the optimizer sees them, and if an update of the
topology is due, masks change, and kernels and slots with them. A step without
an update adds one look at a counter to the work of the optimizer and of the
masking. What an optimizer leaves outside the masks is cleared after each step.
What
differs between backends (the optimizer's call, control flow, compilation,
replicas) is in a `Backend`, which is handed in here.
"""

import dataclasses
import typing
from collections.abc import Callable
from collections.abc import Sequence

from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.layers.guard import guards_lowered
from keras_freetickets.layers.sparse import MaskedKernel
from keras_freetickets.layers.update_state import UpdateState
from keras_freetickets.topology.kernel_view import KernelView
from keras_freetickets.topology.methods import Method
from keras_freetickets.topology.methods.method import overrides
from keras_freetickets.trainers import update as updates
from keras_freetickets.trainers.accumulation import AccumulationWindow
from keras_freetickets.trainers.backend import Backend
from keras_freetickets.trainers.topology_update import TopologyUpdate
from keras_freetickets.types import Batch
from keras_freetickets.types import Gradients
from keras_freetickets.types import Model
from keras_freetickets.types import Tensor
from keras_freetickets.types import Variable


def forward_kernels(
    model: Model, steps_ago: int = 0
) -> list[tuple[Variable, Tensor]]:
    """The tensors that layers compute with in this step instead of kernels.

    A frozen kernel is used as it is: it does not take part in the training.

    Args:
        model: A `SparseModel`.
        steps_ago: Integer, 1 for the step before.

    Returns:
        List of pairs of a kernel and the tensor that stands in for it.
    """
    method = model.run.method
    if method is None or not overrides(method, "forward_kernels"):
        return []
    trained = {id(variable) for variable in model.trainable_variables}
    chosen = [
        (index, masked)
        for index, masked in enumerate(model.masked_kernels)
        if id(masked.kernel) in trained
    ]
    steps = model.update_state.step_of(model.optimizer) - steps_ago
    return _stand_ins(method, model.update_state, chosen, steps)


def effective_kernels(model: Model) -> list[tuple[Variable, Tensor]]:
    """What layers compute with in evaluation, prediction and `strip`.

    The method is told the step 0, whatever the optimizer's: predictions do
    not depend on how long a model has been trained.

    Args:
        model: A `SparseModel`.

    Returns:
        List of pairs of a kernel and the tensor that stands in for it; empty
        unless a method was attached that says `effective_at_inference`.
    """
    method = model.run.effective_method
    if method is None or not overrides(method, "forward_kernels"):
        return []
    chosen = list(enumerate(model.masked_kernels))
    zero = ops.zeros((), "int32")
    return _stand_ins(method, model.update_state, chosen, zero)


def _stand_ins(
    method: Method,
    update_state: UpdateState,
    chosen: list[tuple[int, MaskedKernel]],
    steps: Tensor,
) -> list[tuple[Variable, Tensor]]:
    masked_kernels = [masked for _, masked in chosen]
    inputs = updates.KernelBatch(
        [ops.convert_to_tensor(r.kernel.value) for r in masked_kernels],
        [ops.convert_to_tensor(r.mask.value) for r in masked_kernels],
        [None for _ in masked_kernels],
        [_state_of(r) for r in masked_kernels],
        step=steps,
        update=ops.copy(update_state.update_count.value),
        seed=ops.copy(update_state.seed.value),
        kernel_indices=[index for index, _ in chosen],
    )
    values = method.forward_kernels(inputs.views())
    return [
        (masked.kernel, ops.cast(value, masked.kernel.dtype))
        for masked, value in zip(masked_kernels, values, strict=True)
    ]


def other_values(model: Model) -> tuple[list[Tensor], list[Tensor]]:
    """Values of all variables of a model that are not trained.

    Zeros for those of metrics, on which no loss depends: while JAX trains
    they have no values.
    """
    values = [v.value for v in model.non_trainable_variables]
    metrics = [ops.zeros(v.shape, v.dtype) for v in model.metrics_variables]
    return values, metrics


def loss_at(
    model: Model,
    values: Sequence[Tensor],
    batch: Batch,
    others: tuple[list[Tensor], list[Tensor]] | None = None,
) -> Tensor:
    """The loss of a batch at other values of the trainable variables.

    It is that of training, but leaves batch-normalization statistics, seeds
    and all other variables as they are.

    Args:
        model: A `SparseModel`.
        values: List of tensors, one for each of `model.trainable_variables`.
        batch: Tuple `(x, y, sample_weight)`.
        others: What `other_values` returns; `None` for the values of now.
    """
    x, y, sample_weight = batch
    rest, metrics = others or other_values(model)
    with model.training_scope():
        y_pred, _ = model.stateless_call(values, rest, x, training=True)
        loss, _ = model.stateless_compute_loss(
            values,
            rest,
            metrics,
            x=x,
            y=y,
            y_pred=y_pred,
            sample_weight=sample_weight,
            training=True,
        )
    return loss


def gradients_at(
    backend: Backend, model: Model, kernels: Sequence[Tensor], batch: Batch
) -> list[Tensor | None]:
    """Gradients of the loss of a batch at other values of masked kernels."""
    variables = model.trainable_variables
    values = [ops.convert_to_tensor(v.value) for v in variables]
    place = {id(v): i for i, v in enumerate(variables)}
    places = [place[id(masked.kernel)] for masked in model.masked_kernels]
    for i, kernel in zip(places, kernels, strict=True):
        values[i] = kernel
    _, gradients = backend.value_and_gradients(
        lambda values: loss_at(model, values, batch), values
    )
    return [gradients[i] for i in places]


def apply_gradients(
    backend: Backend,
    model: Model,
    gradients: Gradients,
    batch: Batch | None = None,
) -> None:
    """One optimizer step of a sparse model.

    Args:
        backend: A `Backend`.
        model: A `SparseModel`.
        gradients: List of dense gradients, one for each of the model's
            trainable variables; `None` where the loss does not reach.
        batch: Tuple `(x, y, sample_weight)` of which they are the gradients,
            for methods that look at it once more.
    """
    optimizer = model.optimizer
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    gradients = [
        None if g is None else ops.convert_to_tensor(g) for g in gradients
    ]
    gradients = backend.sum_over_replicas(gradients)
    step = Step(backend, model, gradients, batch)
    with guards_lowered(step.variables):
        step.run(model.run.method, model.update_state)


@dataclasses.dataclass
class Context:
    """What `Method.transform_gradients` may look at.

    Attributes:
        views: List of `KernelView` of the masked kernels.
        gradient_indices: List of integers, where their gradients are in the
            list.
        state: Dict from the names of `Method.variable_state` to lists with a
            variable for each trainable variable, and of
            `Method.scalar_state` to variables.
        gradients_at: Callable that takes values of all trainable variables
            and returns the gradients of the same batch there.
    """

    views: list[KernelView]
    gradient_indices: list[int]
    state: dict[str, typing.Any]
    gradients_at: Callable[[Sequence[Tensor]], list[Tensor | None]]


class Step:
    """The variables of one step, matched by identity."""

    def __init__(
        self,
        backend: Backend,
        model: Model,
        gradients: Gradients,
        batch: Batch | None,
    ) -> None:
        self.backend = backend
        self.model = model
        self.batch = batch
        self.optimizer = model.optimizer
        self.variables = model.trainable_variables
        self.gradients = gradients
        place = {id(v): i for i, v in enumerate(self.variables)}
        masked_kernels = model.masked_kernels
        # A frozen layer, or a kernel that the loss does not reach, rests.
        self.kernel_indices = [
            i
            for i, r in enumerate(masked_kernels)
            if id(r.kernel) in place
            and gradients[place[id(r.kernel)]] is not None
        ]
        self.masked_kernels = [masked_kernels[i] for i in self.kernel_indices]
        self.gradient_indices = [
            place[id(r.kernel)] for r in self.masked_kernels
        ]
        kernels = [r.kernel for r in self.masked_kernels]
        self.slots = keras_adapter.optimizer_slots(self.optimizer, kernels)
        # `None` for compressed kernels, outside of which there is nothing.
        self.masks = [
            None if r.compressed else ops.convert_to_tensor(r.mask.value)
            for r in self.masked_kernels
        ]
        self.dense: list[Tensor] = [gradients[i] for i in self.gradient_indices]
        self.window = AccumulationWindow(self.optimizer, kernels, gradients)

    def run(self, method: Method | None, update_state: UpdateState) -> None:
        """Trains on the gradients and updates the topology if that is due."""
        self.clear_assigned()
        changing = self.changing(method)
        if method is None or not changing:
            self.apply_masked(method, update_state)
        else:
            closes = self.window.closes()
            mean = self.mean_gradients()
            states = self.observe(method, mean, closes)
            topology = TopologyUpdate(
                self, method, update_state, changing, mean, states
            )

            def update() -> Tensor:
                return topology.run(self.is_due(method, update_state, closes))

            if method.apply_on_update:
                self.apply_masked(method, update_state)
                update()
            else:
                # The update does not wait for the optimizer, which rests
                # in this step if it takes place.
                self.apply_masked(method, update_state, skip=update())
        self.clear_strays()

    def changing(self, method: Method | None) -> list[int]:
        """The places of kernels whose masks the method may change."""
        variant = self.model.run.variant
        if method is None or not (variant is None or variant.updates_topology):
            return []
        return [
            i
            for i, r in enumerate(self.masked_kernels)
            if method.takes_part(r.active, r.size)
        ]

    def is_due(
        self,
        method: Method,
        update_state: UpdateState,
        closes: Tensor | None,
    ) -> Tensor:
        """Whether this step updates the topology, as a boolean tensor."""
        due = update_state.is_due(self.optimizer, method)
        return due if closes is None else ops.logical_and(due, closes)

    def mean_gradients(self) -> list[Tensor]:
        """Dense gradients without loss scale, the mean over micro-batches."""
        scale = keras_adapter.loss_scale(self.optimizer)
        dense = self.dense
        if scale is not None:
            dense = [g / ops.cast(scale, g.dtype) for g in dense]
        return self.window.mean(dense)

    def observe(
        self, method: Method, gradients: list[Tensor], closes: Tensor | None
    ) -> list[dict[str, Tensor]]:
        """Updates and returns the method's state of each connection.

        It stays as it is until the last micro-batch of a window, and where a
        gradient is not finite: one overflow would never leave an average.
        """
        states = [_state_of(r) for r in self.masked_kernels]
        if not overrides(method, "observe"):
            return states
        inputs = self.inputs(self.model.update_state, gradients, states)
        new = method.observe(inputs.views())
        counts = updates.all_finite(gradients)
        if closes is not None:
            counts = ops.logical_and(counts, closes)
        for masked, old, state in zip(
            self.masked_kernels, states, new, strict=True
        ):
            for name in method.connection_state:
                state[name] = ops.where(counts, state[name], old[name])
                masked.state[name].assign(state[name])
        return new

    def inputs(
        self,
        update_state: UpdateState,
        gradients: Gradients,
        states: list[dict[str, Tensor]],
    ) -> updates.KernelBatch:
        """All that an update depends on, as it is now."""
        return updates.KernelBatch(
            [
                ops.convert_to_tensor(r.kernel.value)
                for r in self.masked_kernels
            ],
            self.masks,
            gradients,
            states,
            step=update_state.step_of(self.optimizer),
            update=ops.copy(update_state.update_count.value),
            seed=ops.copy(update_state.seed.value),
            kernel_indices=self.kernel_indices,
        )

    def apply_masked(
        self,
        method: Method | None,
        update_state: UpdateState,
        skip: Tensor | None = None,
    ) -> None:
        """Gives the optimizer the gradients of the active connections."""
        gradients = self.transformed(method, update_state)
        closes = self.window.closes()
        for place, mask in zip(self.gradient_indices, self.masks, strict=True):
            if mask is None:
                continue
            if closes is not None:
                # Until the last micro-batch the sums stay dense, for growth,
                # and at absent connections as the loss gave them.
                raw = self.gradients[place]
                if gradients[place] is not raw:
                    gradients[place] = ops.where(mask, gradients[place], raw)
                mask = ops.logical_or(mask, ops.logical_not(closes))
            gradients[place] = self.backend.masked(gradients[place], mask)
        self.window.mask(self.masks)
        before = None
        if method is not None and overrides(method, "after_apply"):
            states = [_state_of(r) for r in self.masked_kernels]
            before = self.inputs(update_state, self.dense, states)
            # Read now, as they are about to change.
            before.kernels = [ops.copy(kernel) for kernel in before.kernels]
        self.backend.apply(self.model, gradients, skip)
        if skip is not None:
            self.window.restart(skip)
        if method is not None and before is not None:
            self.after_apply(method, before)

    def transformed(
        self, method: Method | None, update_state: UpdateState
    ) -> list[Tensor | None]:
        """The gradients that the optimizer gets, before they are masked."""
        gradients = list(self.gradients)
        if method is None or not overrides(method, "transform_gradients"):
            return gradients
        states = [_state_of(r) for r in self.masked_kernels]
        inputs = self.inputs(update_state, self.mean_gradients(), states)
        context = Context(
            inputs.views(),
            self.gradient_indices,
            update_state.state,
            self.gradients_of_batch,
        )
        scale = keras_adapter.loss_scale(self.optimizer)
        if scale is None:
            new = list(method.transform_gradients(gradients, context))
        else:
            plain = [_times(g, 1.0 / scale) for g in gradients]
            plain = method.transform_gradients(plain, context)
            new = [_times(g, scale) for g in plain]
        return [
            old if keras_adapter.takes_gradient_as_value(variable) else gradient
            for variable, old, gradient in zip(
                self.variables, gradients, new, strict=True
            )
        ]

    def gradients_of_batch(
        self, values: Sequence[Tensor]
    ) -> list[Tensor | None]:
        """Gradients of this step's batch at other values of all variables."""
        batch = self.batch
        if batch is None:
            raise ValueError(
                f"{type(self.model.method).__name__} looks at the batch a "
                "second time: pass it, model.apply_gradients(gradients, "
                "batch=(x, y, sample_weight)). Received: batch=None"
            )
        _, gradients = self.backend.value_and_gradients(
            lambda values: loss_at(self.model, values, batch), values
        )
        return self.backend.sum_over_replicas(gradients)

    def after_apply(self, method: Method, before: updates.KernelBatch) -> None:
        """Lets the method correct what the optimizer did to the kernels."""
        old = [view.kernel for view in before.views()]
        new = [
            ops.convert_to_tensor(r.kernel.value) for r in self.masked_kernels
        ]
        kernels = method.after_apply(old, new, before.views())
        for masked, kernel in zip(self.masked_kernels, kernels, strict=True):
            masked.kernel.assign(ops.cast(kernel, masked.kernel.dtype))

    def clear_assigned(self) -> None:
        """Clears what was assigned outside the masks since the last step.

        A callback may do so. Before the optimizer looks, since averages of
        the weights would keep it.
        """
        for masked, mask in zip(self.masked_kernels, self.masks, strict=True):
            if mask is None:
                continue
            value = ops.convert_to_tensor(masked.kernel.value)
            masked.kernel.assign(self.backend.masked(value, mask))

    def clear_strays(self) -> None:
        """Clears what the optimizer leaves outside the masks, if it does."""
        for i, masked in enumerate(self.masked_kernels):
            keeps = keras_adapter.keeps_zeros(self.optimizer, masked.kernel)
            if masked.compressed or keeps:
                continue
            mask = ops.convert_to_tensor(masked.mask.value)
            for variable, fill in [(masked.kernel, 0.0), *self.slots[i]]:
                value = ops.convert_to_tensor(variable.value)
                variable.assign(updates.projected(value, mask, mask, fill))


def _state_of(masked: MaskedKernel) -> dict[str, Tensor]:
    return {
        name: ops.convert_to_tensor(variable.value)
        for name, variable in masked.state.items()
    }


def _times(gradient: Tensor | None, factor: Tensor) -> Tensor | None:
    if gradient is None:
        return None
    return gradient * ops.cast(factor, gradient.dtype)
