"""Several sparse models of one architecture, trained in one program."""

import copy
import re
import typing
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.ensembles.ensemble_model import EnsembleModel
from keras_freetickets.ensembles.members import architecture
from keras_freetickets.layers.parameters import CountsParameters
from keras_freetickets.models.compressed_training import check_masked
from keras_freetickets.models.sparse_model import SparseModel
from keras_freetickets.models.sparse_training import TrainingRun
from keras_freetickets.models.sparse_training import TrainsMembers
from keras_freetickets.models.sparse_training import up_to_date
from keras_freetickets.topology.methods import Method
from keras_freetickets.trainers import get_backend
from keras_freetickets.trainers import get_members_backend
from keras_freetickets.types import Config
from keras_freetickets.types import Model
from keras_freetickets.types import Tensor

_SEEDS = 2**31


@keras.saving.register_keras_serializable(package="keras_freetickets")
class SideBySide(
    TrainsMembers,
    CountsParameters,
    keras_adapter.BuildsMembers,
    keras_adapter.PacksState,
    keras.Model,
):
    """Trains several sparse models of one architecture at the same time.

    A small network leaves most of a device idle. The steps of several
    networks, in one compiled program, use it better. Each member keeps its own
    weights, masks, optimizer slots, batch-normalization statistics and seeds,
    so it trains as it would alone on the same batches. After training the
    members are the tickets of a DST ensemble.

    `fit`, `evaluate` and callbacks see one model. Its `optimizer` sets the
    learning rate of all members. A log such as `val_accuracy` is the mean over
    members; `val_accuracy_0`, `val_accuracy_1` ... are those of each member.
    `predict` returns an array of shape `(examples, members, ...)`.

    Args:
        members: List of built `SparseModel`s with the same architecture,
            compiled with the same arguments, each with its own optimizer.
            They are trained in place.
        member_batches: Whether each member trains on its own batches. Arrays
            of training batches then have a members axis after the examples
            axis. Evaluation uses the same batches for all members.
        vectorize: Whether the same operations compute all members, on arrays
            with a members axis (`jax.vmap`). `None` for `True` on accelerators
            under JAX, else `False`: on CPUs separate operations are faster,
            and TensorFlow supports only those (docs/side_by_side.md).
        name: Name of the model.

    Attributes:
        members: List of the `SparseModel`s.

    Raises:
        TypeError: If a member is not a `SparseModel`.
        ValueError: If `members` is empty; a member is not built, not compiled,
            has compressed kernels or has a method attached; a member differs
            from the first in its architecture or in the arguments of
            `compile`, or shares variables or an optimizer with it; or
            `vectorize=True` is not supported.
        RuntimeError: If Keras' backend is neither TensorFlow nor JAX.

    Example:

    ```python
    models = []
    for seed in range(4):
        keras.utils.set_random_seed(seed)
        model = keras_freetickets.sparsify(build(), sparsity=0.9, seed=seed)
        model.compile("sgd", "sparse_categorical_crossentropy")
        models.append(model)
    together = keras_freetickets.SideBySide(models)
    dst = keras_freetickets.callbacks.DST("run/tickets", update_interval=100)
    together.fit(train, validation_data=val, epochs=100, callbacks=[dst])
    ensemble = dst.ensemble()
    ```

    Reference:
        DST ensembles of Liu et al., 2022, arXiv:2106.14568.
    """

    def __init__(
        self,
        members: Sequence[Model],
        member_batches: bool = False,
        vectorize: bool | None = None,
        name: str | None = None,
    ) -> None:
        get_backend()
        _check_members(members)
        super().__init__(name=name)
        for member in members:
            if not member.optimizer.built:
                member.optimizer.build(member.trainable_variables)
        _check_variables(members)
        self.members = list(members)
        self.member_batches = bool(member_batches)
        self._given = vectorize
        self.vectorize = _chosen(vectorize, members)
        self._trains = False
        self.run = TrainingRun(self, list(members))
        self.built = True
        first = members[0]
        self.compile(
            optimizer=_Optimizers([member.optimizer for member in members]),
            jit_compile=first.jit_compile,
            run_eagerly=first.run_eagerly,
            steps_per_execution=first.steps_per_execution,
            auto_scale_loss=False,
        )

    def ensemble(self, **kwargs: typing.Any) -> EnsembleModel:
        """Returns the `EnsembleModel` of the members in their current state.

        Args:
            **kwargs: Further arguments of `EnsembleModel`.
        """
        return EnsembleModel(list(up_to_date(self)), **kwargs)

    def attach(self, method: Method) -> None:
        """Lets a method update the topology of every member.

        Args:
            method: A `keras_freetickets.topology.Method`. Member `i` gets a
                copy with the seed `method.seed + i`.

        Raises:
            ValueError: If `method` is not a `Method`, or needs a callback for
                each model (AGENT); or if members are vectorized and have
                different numbers of connections in a kernel.

        Example:

        ```python
        together.attach(keras_freetickets.topology.RigL(update_interval=100))
        ```
        """
        self._check_method(method)
        for i, member in enumerate(up_to_date(self)):
            own = copy.copy(method)
            own.seed = (method.seed + i) % _SEEDS
            member.attach(own)
        self.run.choose_step()

    def _check_method(self, method):
        if not isinstance(method, Method):
            raise ValueError(
                "`method` must be a keras_freetickets.topology.Method. "
                f"Received: method={method}"
            )
        if method.variable_state:
            raise ValueError(
                f"{type(method).__name__} keeps {list(method.variable_state)} "
                "for each model, which a callback sets: train the models one "
                f"by one. Received: method={type(method).__name__}"
            )
        if method.effective_at_inference:
            raise ValueError(
                f"{type(method).__name__} predicts with kernels of its own "
                "(`effective_at_inference`), and SideBySide with those of its "
                "members: train the models one by one. "
                f"Received: method={type(method).__name__}"
            )
        counts = [
            [int(np.sum(ops.convert_to_numpy(c.mask.value))) for c in m]
            for m in (member.masked_kernels for member in up_to_date(self))
        ]
        for i, count in enumerate(counts):
            if self.vectorize and count != counts[0]:
                raise ValueError(
                    "To be vectorized, `members` must have the same number of "
                    "connections in each kernel; use SideBySide(members, "
                    f"vectorize=False) for others. Received: {counts[0]} "
                    f"in member 0 and {count} in member {i}"
                )

    def fit(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any:
        self._trains = True
        try:
            return super().fit(*args, **kwargs)
        finally:
            self._trains = False

    def _before_fit(self, arguments):
        _check_one_device(getattr(self, "distribute_strategy", None))
        for name in ("class_weight", "validation_split"):
            if self.member_batches and arguments.get(name):
                raise ValueError(
                    f"`{name}` must not be given with `member_batches=True`: "
                    "Keras would mistake the members axis for classes or "
                    "examples. Use sample weights or `validation_data`. "
                    f"Received: {name}={arguments[name]}"
                )
        self.project()  # weights may have been set or loaded

    def train_on_batch(
        self, *args: typing.Any, **kwargs: typing.Any
    ) -> typing.Any:
        self._trains = True
        try:
            return super().train_on_batch(*args, **kwargs)
        finally:
            self._trains = False

    def batch_of(self, index: int, data: typing.Any, own: bool) -> typing.Any:
        """The batch of one member.

        Args:
            index: Integer, the member's index.
            data: A batch: arrays, in any structure.
            own: Whether `data` has a members axis, with a batch for each.
        """
        if not own:
            return data
        for array in keras.tree.flatten(data):
            self._check_members_axis(array)
        return keras.tree.map_structure(
            lambda array: None if array is None else array[:, index], data
        )

    def _check_members_axis(self, array):
        wanted = len(self.members)
        if array is None:
            return
        if len(array.shape) < 2 or array.shape[1] != wanted:
            raise ValueError(
                "With `member_batches=True` every array of a batch must have "
                f"{wanted} entries on its second axis, one for each member. "
                f"Received: a batch with an array of shape {array.shape}"
            )

    @property
    def runs_on_own_batches(self) -> bool:
        """Whether the running `fit` has separate batches for members."""
        return self._trains and self.member_batches

    def train_step(self, *args: typing.Any) -> typing.Any:
        return self._step("train_step", self.member_batches, *args)

    def test_step(self, *args: typing.Any) -> typing.Any:
        return self._step("test_step", False, *args)

    def _step(self, name, own, *args):
        results = get_members_backend().step(self, name, own, *args)
        if len(args) == 1:  # a batch; on JAX the state precedes it
            return _together(results)
        logs, state = results
        return _together(logs), state

    def call(self, inputs: typing.Any) -> typing.Any:
        return ops.stack([member(inputs) for member in self.members], axis=1)

    @property
    def metrics(self) -> list:
        """The metrics of the first member, for their names and directions."""
        return self.members[0].metrics

    @property
    def metrics_variables(self) -> list:
        return [v for m in self.members for v in m.metrics_variables]

    def reset_metrics(self) -> None:
        for member in self.members:
            member.reset_metrics()

    def get_metrics_result(self) -> dict:
        return _together([m.get_metrics_result() for m in self.members])

    def pack(self, name: str, values: Sequence[Tensor]) -> Sequence[Tensor]:
        """Converts values of one part of the state for the step."""
        if not self.vectorize:
            return values
        return get_members_backend().pack(values, self._axes(name))

    def unpack(self, name: str, values: Sequence[Tensor]) -> Sequence[Tensor]:
        """Converts values of one part of the state back for the variables."""
        if not self.vectorize:
            return values
        axes = self._axes(name)
        return get_members_backend().unpack(values, axes, len(self.members))

    def _axes(self, name):
        place = keras_adapter.STATE.index(name)
        return get_members_backend().state_axes(self)[place]

    def get_config(self) -> Config:
        return {
            "members": [
                keras.saving.serialize_keras_object(member)
                for member in up_to_date(self)
            ],
            "member_batches": self.member_batches,
            "vectorize": self._given,
            "name": self.name,
        }

    @classmethod
    def from_config(
        cls, config: Config, custom_objects: dict | None = None
    ) -> typing.Any:
        members = [
            keras.saving.deserialize_keras_object(one, custom_objects)
            for one in config["members"]
        ]
        return cls(**{**config, "members": members})

    def get_compile_config(self) -> Config | None:
        return None  # members are saved with their own compile configs

    def compile_from_config(self, config: typing.Any) -> None:
        pass


def members_of(model: Model) -> list:
    """The members of a model; a single model, also dense, is its only one."""
    return model.run.members if isinstance(model, TrainsMembers) else [model]


class _Optimizers(keras.optimizers.Optimizer):
    """The optimizers of all members, with one learning rate."""

    def __init__(self, optimizers):
        super().__init__(learning_rate=1.0, name="side_by_side")
        self.optimizers = list(optimizers)
        self.built = True

    @property
    def variables(self):
        return [v for one in self.optimizers for v in one.variables]

    @property
    def iterations(self):
        return self.optimizers[0].iterations

    @property
    def learning_rate(self):
        return self.optimizers[0].learning_rate

    @learning_rate.setter
    def learning_rate(self, value):
        for one in self.optimizers:
            one.learning_rate = value

    def build(self, variables):
        pass  # the members' optimizers are built

    def finalize_variable_values(self, var_list):
        share = len(var_list) // len(self.optimizers)
        for i, one in enumerate(self.optimizers):
            one.finalize_variable_values(var_list[i * share : (i + 1) * share])


def _together(logs):
    """Joins the members' logs into a dict: means, then each member's own."""
    means = {
        name: ops.mean(ops.stack([one[name] for one in logs]))
        for name in logs[0]
    }
    own = {f"{n}_{i}": v for i, o in enumerate(logs) for n, v in o.items()}
    return {**means, **own}


def _check_members(members):
    if not isinstance(members, (list, tuple)) or not members:
        raise ValueError(
            "`members` must be a list of one or more SparseModels. "
            f"Received: members={members}"
        )
    for i, member in enumerate(members):
        if not isinstance(member, SparseModel):
            raise TypeError(
                "`members` must be SparseModels: call "
                "keras_freetickets.sparsify(model, sparsity=...) first. "
                f"Received: member {i} is a {type(member).__name__}"
            )
        check_masked("members", member)
        if not member.built:
            raise ValueError(f"`members` must be built. Received: member {i}")
        if not member.compiled:
            raise ValueError(
                "`members` must be compiled: call `model.compile(...)` on "
                f"each. Received: member {i} ('{member.name}'), not compiled"
            )
        if member.method is not None:
            raise ValueError(
                "`members` must not have a method attached, because one is "
                "attached to all of them: call `detach()`. Received: member "
                f"{i} with {type(member.method).__name__}"
            )
        _check_alike(members[0], member, i)


def _check_one_device(strategy):
    spread = keras.distribution.distribution()
    if getattr(strategy, "num_replicas_in_sync", 1) > 1:
        spread = strategy
    if spread is not None:
        raise ValueError(
            "Members side by side train on one device. With a distribution or "
            "a strategy with several replicas, train them one by one. "
            f"Received: {type(spread).__name__}"
        )


# Config entries in which members may differ and still share a program.
_OWN = re.compile(
    r"name|shared_object_id|seed|sparsity|compile_config|build_config|mask_initializer"
    r"|.*_initializer|initializer"
)


def _check_alike(first, member, i):
    if architecture(first, _OWN) != architecture(member, _OWN):
        raise ValueError(
            "`members` must have the same architecture. Received: member "
            f"{i} ('{member.name}') with different layers or settings of "
            "layers from member 0"
        )
    mine, other = first.get_compile_config(), member.get_compile_config()
    for name in mine:
        if _without_names(mine[name]) != _without_names(other.get(name)):
            raise ValueError(
                "`members` must be compiled with the same arguments. Received: "
                "member "
                f"{i} with {name}={other.get(name)} and member 0 with "
                f"{name}={mine[name]}"
            )


def _without_names(config):
    """A compile config without names, for comparison."""
    if isinstance(config, dict):
        return {
            key: _without_names(value)
            for key, value in config.items()
            if key not in ("name", "shared_object_id")
        }
    if isinstance(config, (list, tuple)):
        return [_without_names(value) for value in config]
    return config


def _check_variables(members):
    """Raises if members share objects or have made different steps."""
    for what, of in (
        ("optimizer", lambda m: [m.optimizer]),
        ("metric", keras_adapter.compiled_metrics),
        ("variable", lambda m: m.variables),
    ):
        held = [id(one) for member in members for one in of(member)]
        if len(held) != len(set(held)):
            raise ValueError(
                f"`members` must not share an object: give each its own "
                f"{what}. Received: members with a common {what}"
            )
    steps = [int(ops.convert_to_numpy(m.optimizer.iterations)) for m in members]
    if len(set(steps)) > 1:
        raise ValueError(
            "`members` must have been trained for the same number of steps. "
            f"Received: members with {steps}"
        )


def _chosen(vectorize, members):
    """Whether to vectorize; raises if it is requested but not supported."""
    on_jax = keras.backend.backend() == "jax"
    if not on_jax and vectorize:
        raise ValueError(
            "`vectorize` must be None or False on TensorFlow, whose "
            "vectorized_map does not support convolutions with a kernel for "
            f"each member. Received: vectorize={vectorize}"
        )
    scaled = hasattr(members[0].optimizer, "inner_optimizer")
    if vectorize and scaled:
        raise ValueError(
            "`vectorize` must be None or False with a LossScaleOptimizer "
            "(mixed_float16), which skips steps of single members. Use "
            f"mixed_bfloat16 instead. Received: vectorize={vectorize}"
        )
    if vectorize is None:
        return on_jax and not scaled and get_members_backend().has_accelerator()
    return bool(vectorize)
