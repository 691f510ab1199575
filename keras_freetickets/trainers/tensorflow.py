"""The training step on TensorFlow: Keras' own, but for `apply_gradients`."""

import contextlib
import typing
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence

import keras
import tensorflow as tf
from keras import tree

from keras_freetickets import keras_adapter
from keras_freetickets.trainers import compiled_steps
from keras_freetickets.trainers import step
from keras_freetickets.trainers.backend import Groups
from keras_freetickets.trainers.backend import GroupsUpdate
from keras_freetickets.trainers.backend import VariableGroups
from keras_freetickets.types import Batch
from keras_freetickets.types import Gradients
from keras_freetickets.types import Logs
from keras_freetickets.types import Model
from keras_freetickets.types import Tensor

_PROGRAMS = compiled_steps.SharedPrograms()


class TensorFlowBackend:
    """The `Backend` of TensorFlow, where a step changes variables in place."""

    def check_fit(self, model: Model) -> None:
        """Raises early for what Keras' `fit` does not support on replicas.

        Args:
            model: A compiled `SparseModel`.

        Raises:
            ValueError: If the strategy spans several workers (keras issue
                20585), or if on several replicas several steps are to run at
                once (19246), gradients are to be accumulated, averages are to
                overwrite the weights or XLA is to compile the step.
        """
        strategy = model.distribute_strategy
        count = strategy.num_replicas_in_sync
        if count == 1:
            return
        if count > len(strategy.extended.worker_devices):
            raise ValueError(
                "The strategy must have one worker: `fit` of Keras 3 cannot "
                "feed several, as of MultiWorkerMirroredStrategy. Several "
                "machines train on the JAX backend, with keras.distribution. "
                f"Received: strategy={type(strategy).__name__} with {count} "
                "replicas"
            )
        optimizer = model.optimizer
        overwriting = optimizer.use_ema and optimizer.ema_overwrite_frequency
        wanted: list[tuple[str, typing.Any, typing.Any]] = [
            ("steps_per_execution", model.steps_per_execution, 1),
            ("jit_compile", model.jit_compile, False),
            (
                "gradient_accumulation_steps",
                keras_adapter.accumulation_steps(optimizer),
                None,
            ),
            ("ema_overwrite_frequency", overwriting or None, None),
        ]
        for name, value, right in wanted:
            if value != right:
                raise ValueError(
                    f"`{name}` must be {right} under a strategy with several "
                    f"replicas, where `fit` of Keras 3 fails. Received: {name}="
                    f"{value}, strategy={type(strategy).__name__}"
                )

    def train_step(self, model: Model, data: typing.Any) -> Logs:
        """One step of `fit` on one batch.

        Args:
            model: A `SparseModel`.
            data: A batch.

        Returns:
            The logs.
        """
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if not model.built:
            keras_adapter.build_from_batch(model, x)
        x, y, sample_weight = model.run.transformed_batch(x, y, sample_weight)
        stand_ins = step.forward_kernels(model)
        kernels = [tf.identity(kernel.value) for kernel, _ in stand_ins]
        for kernel, value in stand_ins:
            kernel.assign(value)
        with tf.GradientTape() as tape:
            y_pred = keras_adapter.call_model(model, x)
            loss = keras_adapter.compute_loss(
                model, x, y, y_pred, sample_weight
            )
            self._track_loss(model, loss, x)
            loss = model.optimizer.scale_loss(loss)
        gradients = tape.gradient(loss, model.trainable_weights)
        for (kernel, _), value in zip(stand_ins, kernels, strict=True):
            kernel.assign(value)
        model.apply_gradients(gradients, batch=(x, y, sample_weight))
        return model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    def _track_loss(self, model: Model, loss: Tensor, x: typing.Any) -> None:
        first = next(i for i in tree.flatten(x) if i is not None)
        size = tf.shape(first)[0]
        keras_adapter.track_loss(model, loss * self.replicas(), size)

    def inference_step(
        self, model: Model, keras_step: Callable, data: typing.Any
    ) -> typing.Any:
        """Keras' step of evaluation or prediction, on effective kernels."""
        stand_ins = step.effective_kernels(model)
        kernels = [tf.identity(kernel.value) for kernel, _ in stand_ins]
        for kernel, value in stand_ins:
            kernel.assign(value)
        outcome = keras_step(data)
        for (kernel, _), value in zip(stand_ins, kernels, strict=True):
            kernel.assign(value)
        return outcome

    @tf.autograph.experimental.do_not_convert  # no more than in `fit`
    def apply_gradients(
        self, model: Model, gradients: Gradients, batch: Batch | None = None
    ) -> None:
        """The rest of a step, from dense gradients on."""
        step.apply_gradients(self, model, _dense(gradients), batch)

    def stateless_apply(self, *args: typing.Any) -> typing.NoReturn:
        """Not on TensorFlow, whose steps change variables in place.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError(
            "`stateless_apply` is for loops on JAX; on TensorFlow call "
            "`model.apply_gradients(gradients)`. "
            "Received: KERAS_BACKEND='tensorflow'"
        )

    def function(self, python_function: Callable) -> Callable:
        """Traced once; for what is called with many batches."""
        return tf.function(python_function, autograph=False)

    def value_and_gradients(
        self, function: Callable, values: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """A function's value at a list of tensors, and its gradients there."""
        values = [tf.convert_to_tensor(value) for value in values]
        with tf.GradientTape() as tape:
            tape.watch(values)
            result = function(values)
        return result, _dense(tape.gradient(result, values))

    def scope(self, model: Model) -> typing.ContextManager:
        """Where variables are made: on all replicas of a model's strategy."""
        if model.distribute_strategy.num_replicas_in_sync == 1:
            return contextlib.nullcontext()
        return model.distribute_strategy.scope()

    def replicas(self) -> int:
        """How many replicas share a batch, each with the loss of its part."""
        return tf.distribute.get_strategy().num_replicas_in_sync

    def _in_replica(self) -> bool:
        """Whether this runs on one of several replicas that can talk."""
        inside = tf.distribute.get_replica_context() is not None
        return inside and self.replicas() > 1

    def sum_over_replicas(self, gradients: Gradients) -> list[Tensor | None]:
        """The gradients of the whole batch, the same on every replica.

        A replica's own are those of its share of the loss: Keras divides it
        by the number of replicas.
        """
        if not self._in_replica():
            return list(gradients)
        context = tf.distribute.get_replica_context()
        present = [g for g in gradients if g is not None]
        reduced = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, present))
        return [None if g is None else next(reduced) for g in gradients]

    def of_replicas(self, value: Tensor) -> Tensor:
        """The scalars of all replicas, as a vector."""
        if not self._in_replica():
            return tf.reshape(value, (1,))
        context = tf.distribute.get_replica_context()
        number = context.replica_id_in_sync_group
        place = tf.one_hot(
            number, context.num_replicas_in_sync, dtype=value.dtype
        )
        return context.all_reduce(tf.distribute.ReduceOp.SUM, place * value)

    def compiled(self, function: Callable, traits: list) -> Callable:
        """One XLA program, whatever the step around it is compiled to.

        Args:
            function: Function of arrays.
            traits: List of what else decides its result: functions of equal
                traits share a program.
        """

        def make() -> Callable:
            return tf.function(function, jit_compile=True, autograph=False)

        if tf.distribute.has_strategy():  # traced once for each replica
            return make()
        return _PROGRAMS.get([*traits, keras.config.floatx()], make)

    def apply(
        self, model: Model, gradients: Gradients, skip: Tensor | None = None
    ) -> None:
        """The optimizer's own step, left out where `skip` is true."""
        optimizer, variables = model.optimizer, model.trainable_variables
        if self._in_replica():
            # The optimizer sums over replicas once more.
            count = self.replicas()
            gradients = [None if g is None else g / count for g in gradients]

        def run() -> None:
            # Copies, as the optimizer's all-reduce refuses tensors of two
            # graphs where this is a branch.
            copies = [None if g is None else tf.identity(g) for g in gradients]
            optimizer.apply(copies, variables)

        if skip is None:
            run()
            return
        if not tf.distribute.has_strategy():
            tf.cond(skip, lambda: None, run)
            return
        # Replicas cannot talk within a branch: the step is made and taken
        # back.
        touched = [*variables, *optimizer.variables]
        before = [tf.identity(v.value) for v in touched]
        run()
        for variable, value in zip(touched, before, strict=True):
            variable.assign(tf.where(skip, value, variable.value))

    def any_member(self, done: Tensor) -> Tensor:
        """Whether an update took place; each model has its own counters."""
        return done

    def masked(self, gradient: Tensor, mask: Tensor) -> Tensor:
        """The gradient, 0 where the mask is false, even if it is NaN there.

        `tf.where` with a scalar is 1.5 times slower in graph mode.
        """
        return tf.math.multiply_no_nan(gradient, tf.cast(mask, gradient.dtype))

    def after(self, before: Tensor | None, values: typing.Any) -> typing.Any:
        """Tensors that are made only after another one."""
        if before is None:
            return values
        with tf.control_dependencies([before]):
            return tree.map_structure(tf.identity, values)

    def places(self, flags: Tensor, room: int) -> Tensor:
        """Where flags are true, rising; beyond those the number of flags."""
        found = tf.cast(tf.where(flags)[:room, 0], tf.int32)
        rest = tf.fill([room - tf.shape(found)[0]], flags.shape[0])
        return tf.ensure_shape(tf.concat([found, rest], 0), (room,))

    def update_if_due(
        self, due: Tensor, groups: VariableGroups, update: GroupsUpdate
    ) -> Tensor:
        """Gives variables new values if that is due; see `Backend`."""
        never = tf.constant(False)

        def values() -> Groups:
            return [[tf.convert_to_tensor(v.value) for v in g] for g in groups]

        def assign(new: Groups) -> None:
            for variable, value in zip(_flat(groups), _flat(new), strict=True):
                variable.assign(value)

        if tf.distribute.has_strategy():
            # Replicas cannot talk within a branch, and assignments let them,
            # also those of the only replica.
            new, done = tf.cond(
                due, lambda: update(values()), lambda: (values(), never)
            )
            assign(new)
            return done

        def trip(pending: Tensor, done: Tensor) -> tuple[Tensor, Tensor]:
            new, done = update(values())
            assign(new)
            return never, done

        return tf.while_loop(lambda pending, done: pending, trip, (due, never))[
            1
        ]


def _dense(gradients: Iterable[Tensor | None]) -> list[Tensor | None]:
    """Gradients as tensors: those of embeddings come as slices of rows."""
    return [
        tf.convert_to_tensor(g) if isinstance(g, tf.IndexedSlices) else g
        for g in gradients
    ]


def _flat(groups: Iterable[Sequence[typing.Any]]) -> list[typing.Any]:
    return [value for group in groups for value in group]
