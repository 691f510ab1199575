"""The base class of sparse-training methods; subclasses override hooks."""

import contextlib
import math
import typing

import keras
import numpy as np
from keras import ops

from keras_freetickets.arguments import check_choice
from keras_freetickets.arguments import is_integer
from keras_freetickets.arguments import is_real
from keras_freetickets.signatures import ShowsArguments
from keras_freetickets.topology import criteria
from keras_freetickets.topology import schedules
from keras_freetickets.topology.kernel_view import KernelView
from keras_freetickets.topology.kernel_view import best
from keras_freetickets.topology.kernel_view import fraction_of
from keras_freetickets.topology.selection import sort_keys
from keras_freetickets.types import Config
from keras_freetickets.types import Tensor
from keras_freetickets.types import Tensors

_REGROWN = ("keep", "reset")
_ROUNDING = ("ceil", "floor", "nearest")
_SCOPES = ("layer", "global")
# The selections of one update, for the hash that breaks ties.
DROP, GROW, PRUNE, REGROW = range(4)
_FLOAT_MAX = float(np.finfo("float32").max)


def _check_schedule(schedule: typing.Any) -> None:
    """Its first value, as later ones are only known in the compiled step."""
    first = schedule(ops.convert_to_tensor(0))
    with contextlib.suppress(TypeError, ValueError):
        first = float(first)
    if not isinstance(first, float) or not 0.0 <= first <= 1.0:
        raise ValueError(
            "`drop_fraction` must be in [0, 1]: the fraction of active "
            f"weights that an update replaces. Received: {first} at step 0"
        )


class Method(ShowsArguments):
    """Drop-and-grow of every masked kernel at a fixed interval.

    Every `update_interval` optimizer updates each layer drops a fraction of
    its active connections and grows as many. Subclasses change a hook:

    - which connections: `drop_score`, `grow_score`, or all of `keep`, `grow`;
    - how many: `budget`;
    - what is remembered of each connection: `connection_state` with
      `initial_state`, `observe` (every step) and `after_update`;
    - what the weights do: `forward_kernels`, `transform_gradients`,
      `after_apply`.

    Args:
        update_interval: Positive integer, optimizer updates (not
            micro-batches, not epochs) from one topology update to the next;
            the first comes with the `update_interval`-th. Defaults to 1000
            (FreeTickets, CIFAR, batches of 128).
        drop_fraction: Float in [0, 1] or a schedule of
            `keras_freetickets.topology.schedules`: the share of active
            weights that an update replaces, counted in steps of 1/10,000
            (what a schedule gives beyond [0, 1] is cut off).
            Defaults to 0.5 (FreeTickets).
        drop: `"magnitude"` (default: SET, RigL, FreeTickets), `"random"` or a
            callable of `KernelView`.
        growth: `"gradient"` (default: RigL, FreeTickets' README), `"random"`
            or a callable of `KernelView`.
        scope: `"layer"` (all code bases' default): connections compete within
            their kernel, whose number of connections stays. `"global"`: they
            compete with those of all kernels, and connections move from one
            to another; each kernel keeps one at least, its best, and the
            update drops fewer where that needs it.
        start_step: Integer, no topology update comes before this many optimizer
            updates. Defaults to 0.
        stop_step: Integer, no topology update comes after this many optimizer
            updates; `None` for no end (FreeTickets, ITOP).
        regrown: Whether a connection that is dropped and grown by one update
            keeps its value and optimizer slots (`"keep"`: RigL, JaxPruner,
            ITOP) or starts again (`"reset"`: FreeTickets' CIFAR code).
        grown_value: Float, the value of new connections. Defaults to 0 (all
            code bases). Their optimizer slots start at the initial value.
        rounding: `"ceil"` (FreeTickets, ITOP), `"floor"` (RigL) or
            `"nearest"` of the number of replaced connections.
        apply_on_update: Whether the optimizer also moves the weights in a
            step that updates the topology (FreeTickets, ITOP: yes; RigL: no).
        seed: Integer in [0, 2**31) that makes random growth and ties
            reproducible.

    Raises:
        ValueError: If an argument is out of range or of the wrong type.

    Example:

    ```python
    method = Method(update_interval=100, drop_fraction=0.3, growth="random")
    model.attach(method)
    ```

    Reference:
        Liu et al., 2022, arXiv:2106.14568 (FreeTickets).
    """

    # Callbacks that do a part of the method's work in `fit`: names of classes
    # in `keras_freetickets.callbacks`, or callback classes. `DropAndGrow`,
    # `EDST` and `DST` make them, and pass on the arguments that they take.
    companions: tuple[typing.Any, ...] = ()
    # Whether `evaluate`, `predict` and `strip` use `forward_kernels` too, as
    # for ternary weights; CigL's random masks are for training alone. A call
    # `model(x)`, `EnsembleModel` and packed files use the kernels themselves.
    effective_at_inference = False
    # Name -> dtype of what the method keeps for each connection.
    connection_state: dict[str, str] = {}
    # Names of what it keeps for each trainable variable, in its dtype.
    variable_state: tuple[str, ...] = ()
    # Name -> initial value of the floats that it keeps.
    scalar_state: dict[str, float] = {}
    # Whether an update of one kernel looks at no other kernel: kernels of one
    # shape then share a compiled program. A subclass that overrides a hook
    # that is given all kernels says it again if it still holds.
    kernelwise = True

    def __init__(
        self,
        update_interval: int = 1000,
        drop_fraction: typing.Any = 0.5,
        drop: typing.Any = "magnitude",
        growth: typing.Any = "gradient",
        scope: str = "layer",
        start_step: int = 0,
        stop_step: int | None = None,
        regrown: str = "keep",
        grown_value: float = 0.0,
        rounding: str = "ceil",
        apply_on_update: bool = True,
        seed: typing.Any = 0,
    ) -> None:
        if not is_integer(update_interval) or update_interval < 1:
            raise ValueError(
                "`update_interval` must be a positive number of optimizer "
                f"updates. Received: update_interval={update_interval}"
            )
        check_choice("regrown", regrown, _REGROWN)
        check_choice("rounding", rounding, _ROUNDING)
        check_choice("scope", scope, _SCOPES)
        if not is_integer(start_step) or start_step < 0:
            raise ValueError(
                "`start_step` must be a number of optimizer updates. "
                f"Received: start_step={start_step}"
            )
        if stop_step is not None and (
            not is_integer(stop_step) or stop_step < 0
        ):
            raise ValueError(
                "`stop_step` must be a number of optimizer updates or None. "
                f"Received: stop_step={stop_step}"
            )
        if not is_integer(seed) or not 0 <= seed < 2**31:
            raise ValueError(
                "`seed` must be an integer in [0, 2**31). "
                f"Received: seed={seed}"
            )
        if not is_real(grown_value) or not math.isfinite(grown_value):
            raise ValueError(
                "`grown_value` must be a finite number, the value of new "
                f"connections. Received: grown_value={grown_value}"
            )
        if not isinstance(apply_on_update, bool):
            raise ValueError(
                "`apply_on_update` must be True or False. "
                f"Received: apply_on_update={apply_on_update}"
            )
        self.update_interval = int(update_interval)
        self.drop_fraction = schedules.get(drop_fraction)
        _check_schedule(self.drop_fraction)
        self.drop = drop
        self.growth = growth
        self.scope = scope
        self.start_step = start_step
        self.stop_step = stop_step
        self.regrown = regrown
        self.grown_value = grown_value
        self.rounding = rounding
        self.apply_on_update = apply_on_update
        self.seed = int(seed)
        self._drop_score = criteria.get_drop(drop)
        self._grow_score = criteria.get_growth(growth)

    @property
    def earliest_step(self) -> int:
        """No topology update comes before this many optimizer updates."""
        return self.start_step

    def begin(self, masked_kernels: list[typing.Any]) -> None:
        """Called when the method is attached to a model.

        Args:
            masked_kernels: List of `MaskedKernel`, the model's connections.
        """

    def takes_part(self, active: int, size: int) -> bool:
        """Whether a kernel's mask may change; by default, if it is sparse.

        Args:
            active: Integer, its active connections.
            size: Integer, its entries.
        """
        return active < size

    def drop_fraction_at(self, step: Tensor) -> Tensor:
        """The share of active connections that an update replaces.

        A hook, called in the compiled step. By default the schedule that was
        given as `drop_fraction`.

        Args:
            step: `int32` scalar tensor, optimizer updates so far.

        Returns:
            Float scalar tensor; what lies beyond [0, 1] is cut off.
        """
        return self.drop_fraction(step)

    def drop_score(self, view: KernelView) -> Tensor:
        """Scores active connections; those with the lowest score are dropped.

        A hook, called in the compiled step for each kernel that changes: use
        `keras.ops`. NaN and infinite scores go first. By default the
        criterion that was given as `drop`.

        Args:
            view: `KernelView` of one kernel, its values those after
                the optimizer's step.

        Returns:
            Float tensor of the kernel's shape; values at absent connections
            are ignored.
        """
        return self._drop_score(view)

    def grow_score(self, view: KernelView) -> Tensor:
        """Scores absent connections; those with the highest score are grown.

        A hook, called as `drop_score` is. NaN and infinite scores come last.
        By default the criterion that was given as `growth`.

        Args:
            view: `KernelView` of one kernel, as for `drop_score`;
                what was just dropped is still active in its mask.

        Returns:
            Float tensor of the kernel's shape; values at connections that
            were kept are ignored.
        """
        return self._grow_score(view)

    def budget(
        self, views: list[KernelView], fraction: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """How many connections each layer drops and grows.

        Args:
            views: List of `KernelView`.
            fraction: Float tensor, the share to replace.

        Returns:
            Two lists of `int32` scalars, dropped and grown. With
            `scope="global"` only their sums count.
        """
        counts = [
            fraction_of(view.count(), fraction, self.rounding) for view in views
        ]
        return counts, counts

    def counts(
        self, views: list[KernelView], fraction: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The budget; in global scope one that leaves each kernel one."""
        dropped, grown = self.budget(views, fraction)
        if self.scope != "global":
            return dropped, grown
        active = sum(view.count() for view in views)
        least = sum(ops.cast(ops.any(view.mask), "int32") for view in views)
        excess = ops.maximum(sum(dropped) - (active - least), 0)
        dropped, grown = (
            as_counts(ops.maximum(sum(counts) - excess, 0), len(views))
            for counts in (dropped, grown)
        )
        return dropped, grown

    def keep(
        self, views: list[KernelView], drop_counts: list[Tensor]
    ) -> list[Tensor]:
        """Boolean tensors: the active connections that are not dropped."""
        masks = [view.mask for view in views]
        counts = [
            view.count() - d for view, d in zip(views, drop_counts, strict=True)
        ]
        scores = [self.drop_score(view) for view in views]
        return self.strongest(views, scores, masks, counts, DROP)

    def strongest(
        self,
        views: list[KernelView],
        scores: list[Tensor],
        masks: list[Tensor],
        counts: typing.Any,
        stage: int,
    ) -> list[Tensor]:
        """`best` in the method's scope; no layer loses all connections."""
        if self.scope == "global":
            scores = [
                first_wins(s, m) for s, m in zip(scores, masks, strict=True)
            ]
        return best(views, scores, masks, counts, stage, self.scope)

    def grow(
        self, views: list[KernelView], kept: Tensors, grow_counts: Tensors
    ) -> Tensors:
        """Boolean tensors: the connections that come.

        Those just dropped may grow again at once (RigL, issue 5 of
        google-research/rigl): they are absent when growth is decided.
        """
        absent = [ops.logical_not(k) for k in kept]
        scores = [self.grow_score(view) for view in views]
        return best(views, scores, absent, grow_counts, GROW, self.scope)

    def update(
        self, views: list[KernelView], fraction: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """One update of the topology.

        Args:
            views: List of `KernelView`.
            fraction: Float tensor, the share to replace.

        Returns:
            List of pairs of boolean tensors `(kept, grown)`; the new mask is
            their union.
        """
        drop_counts, grow_counts = self.counts(views, fraction)
        kept = self.keep(views, drop_counts)
        grown = self.grow(views, kept, grow_counts)
        return list(zip(kept, grown, strict=True))

    def initial_state(self, mask: np.ndarray) -> dict[str, np.ndarray]:
        """Values of `connection_state` when the method is first attached.

        Args:
            mask: Boolean array.

        Returns:
            Dict of arrays of the mask's shape; what is missing starts at 0.
        """
        return {}

    def observe(self, views: list[KernelView]) -> list[dict[str, Tensor]]:
        """New state of each connection; a hook called in every step.

        Args:
            views: List of `KernelView`, before the optimizer's step.

        Returns:
            List of dicts from the names in `connection_state` to tensors of
            the kernel's shape.
        """
        return [view.state for view in views]

    def after_update(
        self, state: dict[str, Tensor], mask: Tensor
    ) -> dict[str, Tensor]:
        """New state of one kernel's connections after an update.

        Args:
            state: Dict of tensors.
            mask: Boolean tensor, the new mask.
        """
        return state

    def forward_kernels(self, views: list[KernelView]) -> list[Tensor]:
        """What the layers compute with in a step in place of the kernels.

        Args:
            views: List of `KernelView`, without gradients.

        Returns:
            List of tensors. The gradients are those at them.
        """
        return [view.kernel for view in views]

    def transform_gradients(
        self, gradients: list[Tensor], context: typing.Any
    ) -> list[Tensor]:
        """What the optimizer gets in place of the gradients.

        Args:
            gradients: List of dense gradients, one for each trainable
                variable; `None` where the loss does not reach.
            context: A `keras_freetickets.trainers.step.Context`:
                connections, variables of the method, gradients elsewhere.
        """
        return gradients

    def after_apply(
        self, old: list[Tensor], new: list[Tensor], views: list[KernelView]
    ) -> list[Tensor]:
        """The kernels that the optimizer's step is to leave.

        Args:
            old: List of kernels before it.
            new: List of kernels after it.
            views: List of `KernelView`, as they were before it.
        """
        return new

    def get_config(self) -> Config:
        return {
            "update_interval": self.update_interval,
            "drop_fraction": keras.saving.serialize_keras_object(
                self.drop_fraction
            ),
            "drop": self.drop,
            "growth": self.growth,
            "scope": self.scope,
            "start_step": self.start_step,
            "stop_step": self.stop_step,
            "regrown": self.regrown,
            "grown_value": self.grown_value,
            "rounding": self.rounding,
            "apply_on_update": self.apply_on_update,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: Config) -> typing.Any:
        return cls(**config)


# Hooks of an update that are given all kernels.
_HOOKS_OF_ALL = ("update", "budget", "counts", "keep", "strongest", "grow")


def overrides(method: Method, name: str) -> bool:
    """Whether a method has a hook of its own.

    Args:
        method: A `Method`.
        name: Name of the hook.
    """
    return getattr(type(method), name) is not getattr(Method, name)


def is_kernelwise(method: Method) -> bool:
    """Whether a method's update of one kernel looks at no other kernel.

    Args:
        method: A `Method`.

    Returns:
        Boolean. False where a class overrides a hook that is given all
        kernels and does not set `kernelwise` itself.

    Example:

    ```python
    is_kernelwise(RigL())  # True
    is_kernelwise(RigL(scope="global"))  # False
    ```
    """
    if method.scope == "global" or not method.kernelwise:
        return False
    classes = type(method).__mro__

    def depth(name: str) -> int:
        return next(i for i, one in enumerate(classes) if name in vars(one))

    said = depth("kernelwise")
    overridden = any(name in vars(method) for name in _HOOKS_OF_ALL)
    return not overridden and all(said <= depth(n) for n in _HOOKS_OF_ALL)


def as_counts(total: typing.Any, length: int) -> list[Tensor]:
    """Counts of which only the sum matters."""
    return [total] + [ops.zeros_like(total)] * (length - 1)


def first_wins(score: Tensor, mask: Tensor) -> Tensor:
    """Lifts the best active score above all others, of whatever layer."""
    keys = ops.reshape(sort_keys(score, mask), (-1,))
    place = ops.arange(keys.shape[0], dtype="int32")
    is_first = ops.equal(place, ops.cast(ops.argmax(keys), "int32"))
    return ops.where(ops.reshape(is_first, score.shape), _FLOAT_MAX, score)
