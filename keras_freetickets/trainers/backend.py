"""What a sparse training step asks of a Keras backend.

`step.py` is the step from the dense gradients on, written once. All that
differs between TensorFlow and JAX is behind the two protocols here: `Backend`
for the step of one model, `MembersBackend` for members that train side by
side. A further backend is two classes with these methods, named in
`trainers/__init__.py`.
"""

import typing
from collections.abc import Callable
from collections.abc import Sequence

from keras_freetickets.types import Batch
from keras_freetickets.types import Gradients
from keras_freetickets.types import Model
from keras_freetickets.types import Tensor
from keras_freetickets.types import Variable

# Values of groups of variables, e.g. of a kernel with its mask and slots.
Groups = list[list[Tensor]]
VariableGroups = Sequence[Sequence[Variable]]
# Function from values to new values, and whether they differ.
GroupsUpdate = Callable[[Groups], tuple[Groups, Tensor]]


class Backend(typing.Protocol):
    """The parts of a training step that differ between backends."""

    def check_fit(self, model: Model) -> None:
        """Raises early for what Keras' `fit` does not support.

        Args:
            model: A compiled `SparseModel`.

        Raises:
            ValueError: If `fit` could not train the model as it is compiled.
        """

    def train_step(self, model: Model, *args: typing.Any) -> typing.Any:
        """One step of `fit` on one batch.

        Args:
            model: A `SparseModel`.
            *args: What Keras' trainer hands to `train_step`: a batch on
                TensorFlow, the state and a batch on JAX.

        Returns:
            What Keras' trainer expects: the logs, on JAX with the new state.
        """

    def inference_step(
        self, model: Model, keras_step: Callable, *args: typing.Any
    ) -> typing.Any:
        """A step of evaluation or prediction, on a method's own kernels.

        Args:
            model: A `SparseModel` with a method that says
                `effective_at_inference`.
            keras_step: Keras' `test_step` or `predict_step` of the model.
            *args: What Keras' trainer hands to it.

        Returns:
            What `keras_step` returns; the kernels are as before.
        """

    def apply_gradients(
        self, model: Model, gradients: Gradients, batch: Batch | None = None
    ) -> None:
        """The rest of a step, from the dense gradients on.

        Args:
            model: A `SparseModel`.
            gradients: List of tensors, one for each trainable variable;
                `None` where the loss does not reach.
            batch: The batch of these gradients, for methods that compute
                gradients elsewhere too.
        """

    def stateless_apply(
        self,
        model: Model,
        trainable: Sequence[Tensor],
        others: Sequence[Tensor],
        slots: Sequence[Tensor],
        gradients: Gradients,
        batch: Batch | None = None,
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """`apply_gradients` as a function from values to values.

        Args:
            model: A `SparseModel`.
            trainable: Values of `model.trainable_variables`.
            others: Values of `model.non_trainable_variables`.
            slots: Values of `model.optimizer.variables`.
            gradients: As for `apply_gradients`.
            batch: As for `apply_gradients`.

        Raises:
            RuntimeError: If the backend's steps change variables in place.
        """

    def function(self, python_function: Callable) -> Callable:
        """Compiles a function that is called with many batches.

        Args:
            python_function: Function of nested tensors.
        """

    def value_and_gradients(
        self, function: Callable, values: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """A function's value at a list of tensors, and its gradients there.

        Args:
            function: Function from a list of tensors to a scalar.
            values: List of tensors.
        """

    def scope(self, model: Model) -> typing.ContextManager:
        """Context in which variables of a run are made.

        Args:
            model: A `SparseModel`.
        """

    def replicas(self) -> int:
        """How many replicas share a batch."""

    def sum_over_replicas(self, gradients: Gradients) -> list[Tensor | None]:
        """The gradients of the whole batch, the same on every replica.

        Args:
            gradients: List of this replica's gradients; `None` where the loss
                does not reach.
        """

    def of_replicas(self, value: Tensor) -> Tensor:
        """The scalars of all replicas, as a vector.

        Args:
            value: Scalar of this replica.
        """

    def compiled(self, function: Callable, traits: list) -> Callable:
        """A function of arrays as one compiled program.

        Args:
            function: Function of nested arrays.
            traits: List of what else decides its result: functions of equal
                traits may share a program.
        """

    def apply(
        self, model: Model, gradients: Gradients, skip: Tensor | None = None
    ) -> None:
        """The optimizer's own step.

        Args:
            model: A `SparseModel` whose optimizer is built.
            gradients: List of gradients of the whole batch, one for each
                trainable variable.
            skip: Boolean tensor, true to leave all as it is; `None` for
                never.
        """

    def any_member(self, done: Tensor) -> Tensor:
        """Whether an update took place in any member that shares counters.

        Args:
            done: Boolean tensor, whether it took place in this model.
        """

    def masked(self, gradient: Tensor, mask: Tensor) -> Tensor:
        """The gradient, 0 where the mask is false, even if it is NaN there.

        Args:
            gradient: Float tensor.
            mask: Boolean tensor of the same shape.
        """

    def after(self, before: Tensor | None, values: typing.Any) -> typing.Any:
        """Tensors that are made only after another one.

        What is large then exists in turns.

        Args:
            before: Tensor; `None` for no wait.
            values: Nested tensors.

        Returns:
            The same tensors.
        """

    def places(self, flags: Tensor, room: int) -> Tensor:
        """Where flags are true, rising; beyond those the number of flags.

        Args:
            flags: Boolean tensor of shape `(size,)`.
            room: Integer, at least the number of true flags.

        Returns:
            `int32` tensor of shape `(room,)`.
        """

    def update_if_due(
        self, due: Tensor, groups: VariableGroups, update: GroupsUpdate
    ) -> Tensor:
        """Gives variables new values if that is due.

        A while_loop that runs at most once: XLA updates in place what a loop
        carries, but copies what goes through a conditional, taken or not.

        Args:
            due: Boolean tensor.
            groups: List of lists of variables.
            update: Function from lists of values to lists of new values, and
                a boolean tensor that tells whether they differ.

        Returns:
            The boolean tensor; false if nothing was due.
        """


class MembersBackend(typing.Protocol):
    """The parts of a step of `SideBySide` that differ between backends."""

    def has_accelerator(self) -> bool:
        """Whether vectorized members would run on a GPU or TPU."""

    def step(
        self, model: Model, name: str, own: bool, *args: typing.Any
    ) -> typing.Any:
        """A step of each member.

        Args:
            model: A `SideBySide`.
            name: `"train_step"` or `"test_step"`.
            own: Whether each member has a batch of its own.
            *args: What Keras' trainer hands to the step: a batch on
                TensorFlow, the state and a batch on JAX.

        Returns:
            List of the members' logs; on JAX a tuple of it and the new state.
        """

    def state_axes(self, model: Model) -> tuple[list[int | None], ...]:
        """Which values of the state are stacked, and which are shared.

        Args:
            model: A `SideBySide` that is vectorized.

        Returns:
            For each part of the state a list with 0 for each value that is
            stacked over members and `None` for one that they share.
        """

    def pack(
        self, values: Sequence[Tensor], axes: Sequence[int | None]
    ) -> list[Tensor]:
        """Stacks the members' values, except shared ones.

        Args:
            values: List of tensors, member after member.
            axes: As `state_axes` gives them for this part of the state.
        """

    def unpack(
        self, values: Sequence[Tensor], axes: Sequence[int | None], count: int
    ) -> list[Tensor]:
        """Undoes `pack`.

        Args:
            values: List of tensors, packed.
            axes: As for `pack`.
            count: Number of members.

        Returns:
            List of tensors, member after member.
        """
