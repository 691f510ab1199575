"""The counters and scalars of a sparse model, in one layer that is saved."""

import typing
from collections.abc import Iterable

import keras
import numpy as np
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.topology.methods import Method
from keras_freetickets.types import Optimizer
from keras_freetickets.types import Tensor
from keras_freetickets.types import Variable


class _Holder:
    """A model's variable and the variable that holds its state.

    Not a tuple: Keras would track the model's variable as one of the layer's.
    """

    def __init__(self, variable, held):
        self.variable = variable
        self.held = held


@keras.saving.register_keras_serializable(package="keras_freetickets")
class UpdateState(keras.layers.Layer):
    """Counters of the drop-and-grow updates of one model.

    It is a layer because Keras saves and clones the variables of layers, and
    carries them in the state of a compiled step, but not those of a model
    itself.

    Args:
        **kwargs: As for `keras.layers.Layer`.

    Attributes:
        update_count: Topology updates so far.
        next_update: Optimizer update at which the next topology update is due.
        phase: Index of the training phase, 0 for exploration.
        global_drop: Drop fraction requested for the next step, 0 for none.
        replaced: Share of connections replaced by the last update.
        seed: Seed of ties and random growth.
        state: Dict from name to the variables of `add_state`, `add_scalar` and
            `add_tensor`.

    Example:

    ```python
    int(model.update_state.update_count.numpy())
    ```
    """

    def __init__(self, **kwargs: typing.Any) -> None:
        super().__init__(**kwargs)
        self.update_count = self._scalar("update_count", "int32")
        self.next_update = self._scalar("next_update", "int32")
        self.phase = self._scalar("phase", "int32")
        self.global_drop = self._scalar("global_drop", "float32")
        self.replaced = self._scalar("replaced", "float32")
        self.seed = self._scalar("seed", "int32")
        self._saved = list(self.weights)
        self.state: dict[str, typing.Any] = {}
        self._holders: dict[str, list[_Holder]] = {}
        self.built = True

    def add_state(self, name: str, variables: list) -> bool:
        """Adds a state variable of the same shape for each of a list.

        They start at zero and are part of a backup, but not of a saved model.
        If it is called again with another list (layers were frozen or
        unfrozen), `state` holds those of the new list. Each variable keeps
        its own state variable.

        Args:
            name: String, the key in `state`.
            variables: List of variables, for example the trainable ones of a
                model.

        Returns:
            Whether the list differs from before, so that old values no longer
            belong together.
        """
        holders = self._holders.setdefault(name, [])
        known = {id(holder.variable): holder for holder in holders}
        with keras_adapter.unlocked(self):
            for variable in variables:
                if id(variable) not in known:
                    held = self._like(variable, f"{name}_{len(holders)}")
                    holders.append(_Holder(variable, held))
                    known[id(variable)] = holders[-1]
        held = [known[id(variable)].held for variable in variables]
        before = self.state.get(name, [])
        self.state[name] = held
        return [id(v) for v in before] != [id(v) for v in held]

    def _like(self, variable, name):
        return self.add_weight(
            name=name,
            shape=variable.shape,
            initializer="zeros",
            dtype=variable.dtype,
            trainable=False,
            autocast=False,
        )

    def add_scalar(self, name: str, initial: float) -> None:
        """Adds a scalar float variable of a run; see `add_state`."""
        if name in self.state:
            return
        with keras_adapter.unlocked(self):
            self.state[name] = self._scalar(name, "float32")
        self.restart_scalars({name: initial})

    def add_tensor(self, name: str, shape: tuple[int, ...]) -> None:
        """Adds a float variable of a run, which begins with zeros.

        If it is there with another shape, it is replaced.

        Args:
            name: String, the key in `state`.
            shape: Tuple of integers.
        """
        held = self.state.get(name)
        if held is not None and tuple(held.shape) == tuple(shape):
            return
        with keras_adapter.unlocked(self):
            self.state[name] = self.add_weight(
                name=name,
                shape=shape,
                initializer="zeros",
                dtype="float32",
                trainable=False,
                aggregation="only_first_replica",
                autocast=False,
            )

    def restart_tensors(self, names: Iterable[str]) -> None:
        """Sets variables of `add_tensor` to zeros.

        Args:
            names: The keys in `state`.
        """
        for name in names:
            self.state[name].assign(ops.zeros_like(self.state[name].value))

    def restart_scalars(self, initial: dict[str, float]) -> None:
        """Resets variables of `add_scalar` to their initial values.

        Args:
            initial: Dict from names to floats.
        """
        for name, value in initial.items():
            self.state[name].assign(value)

    def save_own_variables(self, store: typing.Any) -> None:
        for i, variable in enumerate(self._saved):
            store[f"{i}"] = variable

    def load_own_variables(self, store: typing.Any) -> None:
        for i, variable in enumerate(self._saved):
            variable.assign(store[f"{i}"])

    def _scalar(self, name, dtype):
        return self.add_weight(
            name=name,
            shape=(),
            initializer="zeros",
            dtype=dtype,
            trainable=False,
            aggregation="only_first_replica",
            autocast=False,
        )

    def begin(self, optimizer: Optimizer, method: Method) -> None:
        """Sets when the first update of a newly attached method is due."""
        step = int(ops.convert_to_numpy(self.step_of(optimizer)))
        interval = method.update_interval
        self.next_update.assign((step // interval + 1) * interval)
        self.global_drop.assign(0.0)
        self.seed.assign(np.int32(method.seed))

    def step_of(self, optimizer: Optimizer) -> Tensor:
        """Optimizer updates so far, as an `int32` tensor."""
        count = optimizer.iterations  # not a variable under accumulation
        # The copy reads the value now; TensorFlow's casts and conversions may
        # return the variable itself, which would be read later.
        return ops.cast(ops.copy(getattr(count, "value", count)), "int32")

    def is_due(self, optimizer: Optimizer, method: Method) -> Tensor:
        """Whether this step updates the topology, as a boolean tensor."""
        step = self.step_of(optimizer)
        due = ops.greater_equal(step, self.next_update.value)
        due = ops.logical_and(
            due, ops.greater_equal(step, method.earliest_step)
        )
        if method.stop_step is not None:
            due = ops.logical_and(due, ops.less_equal(step, method.stop_step))
        return ops.logical_or(due, ops.greater(self.global_drop.value, 0.0))

    def fraction(self, optimizer: Optimizer, method: Method) -> Tensor:
        """The share of connections to replace in this step."""
        scheduled = method.drop_fraction_at(self.step_of(optimizer))
        given = self.global_drop.value
        fraction = ops.where(
            ops.greater(given, 0.0), given, ops.cast(scheduled, "float32")
        )
        return ops.clip(fraction, 0.0, 1.0)

    @property
    def counters(self) -> list[Variable]:
        """List of the variables that an update changes."""
        return [*self._timing, self.replaced]

    @property
    def shared_counters(self) -> list[Variable]:
        """List of the variables that say when updates are due."""
        return [*self._timing, self.phase]

    @property
    def _timing(self) -> list[Variable]:
        return [self.update_count, self.next_update, self.global_drop]

    def counted(
        self,
        optimizer: Optimizer,
        method: Method,
        replaced: Tensor,
        done: Tensor,
    ) -> list[Tensor]:
        """New values of `counters`: counts an update and schedules the next.

        Args:
            optimizer: The model's optimizer.
            method: A `Method`.
            replaced: Float tensor, the share of connections replaced.
            done: Boolean tensor, whether the update took place.
        """
        done = ops.cast(done, "bool")
        interval = method.update_interval
        after = (self.step_of(optimizer) // interval + 1) * interval
        return [
            self.update_count.value + ops.cast(done, "int32"),
            ops.where(done, after, self.next_update.value),
            ops.where(done, 0.0, self.global_drop.value),
            ops.where(done, replaced, self.replaced.value),
        ]
