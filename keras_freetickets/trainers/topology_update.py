"""An update of the topology within a step: masks, kernels and slots change."""

import typing
from collections.abc import Callable

from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.layers import taps
from keras_freetickets.layers.compressed_kernels import CompressedKernel
from keras_freetickets.layers.update_state import UpdateState
from keras_freetickets.topology.methods import Method
from keras_freetickets.topology.methods.method import named_criteria
from keras_freetickets.trainers import update as updates
from keras_freetickets.trainers.compressed_update import CompressedUpdate
from keras_freetickets.trainers.compressed_update import settings_of
from keras_freetickets.trainers.kernel_update import KernelUpdate
from keras_freetickets.types import Tensor

Values = list[Tensor]  # of the variables of one kernel


class TopologyUpdate:
    """What one step changes if an update of the topology is due.

    Args:
        step: A `trainers.step.Step`.
        method: A `Method`.
        update_state: The model's `UpdateState`.
        changing: List of the places among the step's kernels of those that
            may change.
        gradients: List of mean gradients of all of the step's kernels.
        states: List of the method's states of all of the step's kernels.
    """

    def __init__(
        self,
        step: typing.Any,
        method: Method,
        update_state: UpdateState,
        changing: list[int],
        gradients: list[Tensor],
        states: list[dict[str, Tensor]],
    ) -> None:
        self.step, self.backend = step, step.backend
        self.method, self.update_state = method, update_state
        self.gradients = [gradients[i] for i in changing]
        self.states = [states[i] for i in changing]
        self.masked_kernels = [step.masked_kernels[i] for i in changing]
        self.places = [step.kernel_indices[i] for i in changing]
        self.kernels: list[typing.Any] = [
            CompressedUpdate(masked, step.slots[i], method, self.backend)
            if masked.compressed
            else KernelUpdate(masked, step.slots[i], method)
            for i, masked in zip(changing, self.masked_kernels, strict=True)
        ]
        names = named_criteria(method)
        self.names = names or ("", "")
        everything = range(len(self.kernels))
        # Those that one operation drops and grows, and the others.
        self.by_criteria = [
            j
            for j in everything
            if names is not None and self.kernels[j].compressed
        ]
        self.by_masks = [j for j in everything if j not in self.by_criteria]
        # XLA takes seconds and 130 MB to compile an update, inside a step that
        # is not compiled too. That pays unless the large kernels need none.
        self.compiled = (
            updates.as_is if self.by_criteria else self.backend.compiled
        )
        # Now, so that what is missing is said before an update is due.
        self.noted = {
            j: self._noted(masked)
            for j, masked in enumerate(self.masked_kernels)
            if masked.compressed and method.reads_gradients()
        }
        seen = {step.gradient_indices[i] for i in changing}
        self.others = [
            g
            for i, g in enumerate(step.gradients)
            if i not in seen and g is not None
        ]

    def run(self, due: Tensor) -> Tensor:
        """Changes the variables if that is due.

        Args:
            due: Boolean tensor.

        Returns:
            Boolean tensor, whether the update took place.
        """
        groups = [one.variables for one in self.kernels]
        groups.append(self.update_state.counters)
        return self.backend.update_if_due(due, groups, self.updated)

    def updated(self, values: list[Values]) -> tuple[list[Values], Tensor]:
        """New values of all variables, and whether the update took place."""
        *values, _ = values  # the counters', which `counted` reads
        optimizer, state = self.step.optimizer, self.update_state
        settings = {
            "fraction": state.fraction(optimizer, self.method),
            "step": state.step_of(optimizer),
            # Read here: the program is shared with models that outlive this
            # one's variables.
            "update": ops.copy(state.update_count.value),
            "seed": ops.copy(state.seed.value),
        }
        proposed = {
            j: self._dropped_and_grown(j, values[j], settings)
            for j in self.by_criteria
        }
        finite = [ops.equal(report[2], 1) for _, report in proposed.values()]
        moved, counts, done = self._by_masks(values, settings, finite)
        for j, (new, report) in proposed.items():
            moved[j] = [
                ops.where(done, *both)
                for both in zip(new, values[j], strict=True)
            ]
            born = ops.where(done, report[0], 0)
            counts.append((born, report[1]))
        share = updates.share_of(counts)
        counted = state.counted(optimizer, self.method, share, done)
        return [*(moved[j] for j in range(len(values))), counted], done

    def _dropped_and_grown(
        self, j: int, values: Values, settings: dict[str, Tensor]
    ) -> tuple[Values, Tensor]:
        """As `CompressedUpdate.dropped_and_grown`, of one kernel."""
        pairs = self._rows(j, self.noted.get(j, []))
        scale = keras_adapter.loss_scale(self.step.optimizer)
        if scale is not None:
            pairs = [(x, dy / ops.cast(scale, dy.dtype)) for x, dy in pairs]
        numbers = settings_of(
            self.method,
            self.names,
            settings["fraction"],
            settings["seed"],
            settings["update"],
            self.places[j],
        )
        return self.kernels[j].dropped_and_grown(values, pairs, numbers)

    def _by_masks(
        self,
        values: list[Values],
        settings: dict[str, Tensor],
        finite: list[Tensor],
    ) -> tuple[dict[int, Values], list[tuple[Tensor, Tensor]], Tensor]:
        """Updates the kernels whose masks a program of the backend chooses.

        Args:
            values: List of the values of all kernels.
            settings: Dict of attributes of `KernelBatch`.
            finite: List of boolean tensors: whether other kernels' gradients
                are finite.

        Returns:
            Tuple of a dict from a kernel's number to its new values, of pairs
            of counts as `share_of` takes them, and of whether the update
            took place.
        """
        others = list(self.others)
        if not self.method.reads_gradients():
            others += [self.gradients[j] for j in self.by_criteria]
        turns = updates.turns(
            self.method,
            [self.kernels[j].compressed for j in self.by_masks],
        )
        turns = [[self.by_masks[i] for i in turn] for turn in turns if turn]
        dense = {j: self._dense_gradient(j) for j in self.by_masks}
        if finite or len(turns) != 1:
            flag = updates.all_finite_in_turn(
                others, finite, list(dense.values())
            )
            others = [ops.reshape(ops.where(flag, 0.0, float("nan")), (1,))]
            done = self.backend.any_member(flag)
        moved: dict[int, Values] = {}
        counts = []
        before = None
        for turn in turns:
            # One dense kernel at a time, where kernels are compressed.
            ready = [self.backend.after(before, values[j]) for j in turn]
            pairs = [
                self.kernels[j].dense(value)
                for j, value in zip(turn, ready, strict=True)
            ]
            batch = updates.KernelBatch(
                [kernel for kernel, _ in pairs],
                [mask for _, mask in pairs],
                [dense[j](before) for j in turn],
                [self.states[j] for j in turn],
                kernel_indices=updates.indices_of(
                    [self.places[j] for j in turn], len(turns) > 1
                ),
                others=others,
                **settings,
            )
            new, alive, count, done = updates.masks_and_counts(
                self.method, batch, self.compiled
            )
            before = done = self.backend.any_member(done)
            counts.append(count)
            for j, value, mask, kept in zip(
                turn, ready, new, alive, strict=True
            ):
                moved[j] = self.kernels[j].moved(value, mask, kept)
        return moved, counts, done

    def _dense_gradient(self, j: int) -> Callable[[typing.Any], Tensor]:
        """A function that makes the dense gradient of a kernel.

        It takes a tensor that has to be there before, or `None`.
        """
        masked, gradient = self.masked_kernels[j], self.gradients[j]
        if not masked.compressed:
            return lambda before: gradient
        if j not in self.noted:
            # Not finite if the gradient of an active weight is not.
            flag = ops.sum(gradient * 0.0)
            return lambda before: ops.broadcast_to(flag, masked.shape)
        pairs = self.noted[j]
        scale = keras_adapter.loss_scale(self.step.optimizer)

        def dense(before: typing.Any) -> Tensor:
            ready = self.backend.after(before, pairs)
            total = taps.dense_gradient(self._rows(j, ready))
            if scale is not None:
                total = total / ops.cast(scale, total.dtype)
            return ops.reshape(total, masked.shape)

        return dense

    def _rows(
        self, j: int, pairs: list[tuple[Tensor, Tensor]]
    ) -> list[tuple[Tensor, Tensor]]:
        """Pairs whose inputs are the rows that a kernel multiplies."""
        layer = self.masked_kernels[j].layer
        return [(layer.rows_of(x), dy) for x, dy in pairs]

    def _noted(self, masked: CompressedKernel) -> list[tuple[Tensor, Tensor]]:
        """What products of a compressed kernel noted in this step."""
        noted = taps.current()
        pairs = [] if noted is None else noted.noted.get(id(masked.kernel), [])
        if not pairs:
            raise ValueError(
                f"{type(self.method).__name__} reads the gradient of all "
                "weights, which nothing noted for compressed kernels: train "
                "with `fit`, or on TensorFlow compute and apply gradients "
                "within `model.training_scope()`; else use random growth or "
                f"storage='mask'. Received: kernel '{masked.name}'"
            )
        return pairs
