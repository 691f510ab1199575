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
    """Checks the initial value; later ones exist only in the compiled step."""
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
    its active connections and grows as many. Subclasses override hooks:

    - which connections: `drop_score`, `grow_score`, or `keep` and `grow`;
    - how many: `budget`;
    - the state of each connection: `connection_state` with `initial_state`,
      `observe` (every step) and `after_update`;
    - what layers compute with and how weights are trained:
      `forward_kernels`, `transform_gradients`, `after_apply`.

    Args:
        update_interval: Positive integer, optimizer updates (not
            micro-batches, not epochs) between topology updates; the first is
            at the `update_interval`-th optimizer update. Defaults to 1000
            (FreeTickets, CIFAR, batches of 128).
        drop_fraction: Float in [0, 1] or a schedule of
            `keras_freetickets.topology.schedules`: the share of active
            weights that an update replaces, rounded to 1/10,000. Values of a
            schedule are clipped to [0, 1]. Defaults to 0.5 (FreeTickets).
        drop: `"magnitude"` (default: SET, RigL, FreeTickets), `"random"` or a
            callable of `KernelView`.
        growth: `"gradient"` (default: RigL, FreeTickets' README), `"random"`
            or a callable of `KernelView`.
        scope: `"layer"` (default, as in all published codes): connections
            compete within their kernel, whose number of connections does not
            change. `"global"`: connections of all kernels compete, so that
            they move between kernels. Each kernel keeps at least its best
            connection; the update drops fewer if necessary.
        start_step: Non-negative integer, the number of optimizer updates
            before which no topology update takes place. Defaults to 0.
        stop_step: Non-negative integer, the number of optimizer updates after
            which no topology update takes place. `None` (default) for no end
            (FreeTickets, ITOP).
        regrown: Whether a connection that an update drops and grows again
            keeps its value and optimizer slots (`"keep"`, default: RigL,
            JaxPruner, ITOP) or starts again (`"reset"`: FreeTickets' CIFAR
            code).
        grown_value: Float, the value of new connections. Defaults to 0 (all
            published codes). Their optimizer slots start at the initial value.
        rounding: How the number of replaced connections is rounded: `"ceil"`
            (default: FreeTickets, ITOP), `"floor"` (RigL) or `"nearest"`.
        apply_on_update: Whether the optimizer also changes the weights in a
            step that updates the topology. Defaults to `True` (FreeTickets,
            ITOP); RigL uses `False`.
        seed: Integer in [0, 2**31) of random growth and ties. Defaults to 0.

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
    # `EDST` and `DST` make them and pass their arguments on.
    companions: tuple[typing.Any, ...] = ()
    # Whether `evaluate`, `predict` and `strip` also use `forward_kernels`, as
    # for ternary weights; CigL's random masks are only for training. A call
    # `model(x)` uses the kernels themselves. `EnsembleModel` takes what `strip`
    # returns, and `SideBySide` refuses the method.
    effective_at_inference = False
    # Name -> dtype of the state of each connection.
    connection_state: dict[str, str] = {}
    # Names of the state of each trainable variable, which has its dtype.
    variable_state: tuple[str, ...] = ()
    # Name -> initial value of the scalar state, which is float.
    scalar_state: dict[str, float] = {}
    # Whether the update of a kernel does not depend on other kernels: kernels
    # of one shape then share a compiled program. A subclass that overrides a
    # hook that receives all kernels must set it again if it still holds.
    kernelwise = True
    # Whether an update leaves no kernel with more connections than it began
    # training with, and whether it reads gradients through the criteria
    # alone. As for `kernelwise`, a subclass that overrides a hook that
    # receives all kernels must set them again if they still hold.
    counts_never_rise = True
    reads_criteria_alone = True
    # Whether an update is what `criteria_by_name` says and nothing else. As
    # for `kernelwise`, a subclass that overrides a hook that receives all
    # kernels must set it again if it still holds.
    updates_by_criteria = True
    # Whether the hooks of an update read the interval, the drop fraction, the
    # first and last step and the seed from views alone: methods that differ in
    # these then share a program. It is not inherited, since a subclass may
    # read them from itself: each class sets it for its own hooks.
    settings_from_views = True

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
        """Optimizer updates before which no topology update takes place."""
        return self.start_step

    def begin(self, masked_kernels: list[typing.Any]) -> None:
        """Called when the method is attached to a model.

        Args:
            masked_kernels: List of the model's `MaskedKernel`s.
        """

    def takes_part(self, active: int, size: int) -> bool:
        """Whether a kernel's mask may change; by default, if it is sparse.

        Args:
            active: Integer, the kernel's number of active connections.
            size: Integer, the kernel's number of entries.
        """
        return active < size

    def reads_gradients(self) -> bool:
        """Whether an update reads `view.gradient`.

        By default it does unless it drops by magnitude or at random, and grows
        at random. Compressed kernels make a dense gradient only for methods
        that read it; the others find zeros.
        """
        by_name = {criteria.magnitude, criteria.random}
        blind = self._drop_score in by_name
        blind = blind and self._grow_score is criteria.random
        own = any(overrides(self, n) for n in ("drop_score", "grow_score"))
        return own or not blind or not _holds(self, "reads_criteria_alone")

    def criteria_by_name(self) -> tuple[str, str] | None:
        """Names of the criteria that drop and grow, if both have one.

        An update of compressed kernels by these makes no dense array.

        Returns:
            Tuple of a key of `kernels.drop_and_grow.DROP` and one of `GROWTH`.
        """
        drop = {"magnitude": criteria.magnitude, "random": criteria.random}
        growth = {"gradient": criteria.gradient, "random": criteria.random}
        return _names_of((drop, self._drop_score), (growth, self._grow_score))

    def drop_fraction_at(self, step: Tensor) -> Tensor:
        """The share of active connections that an update replaces.

        A hook, called in the compiled step. By default it is the schedule
        given as `drop_fraction`.

        Args:
            step: `int32` scalar tensor, optimizer updates so far.

        Returns:
            Float scalar tensor; it is clipped to [0, 1].
        """
        return self.drop_fraction(step)

    def drop_score(self, view: KernelView) -> Tensor:
        """Scores active connections; those with the lowest score are dropped.

        A hook, called in the compiled step for each kernel that changes: use
        `keras.ops`. Connections with NaN or infinite scores are dropped first.
        By default it is the criterion given as `drop`.

        Args:
            view: `KernelView` of one kernel, with the values after the
                optimizer's step.

        Returns:
            Float tensor of the kernel's shape; values at absent connections
            are ignored.
        """
        return self._drop_score(view)

    def grow_score(self, view: KernelView) -> Tensor:
        """Scores absent connections; those with the highest score are grown.

        A hook, called like `drop_score`. Connections with NaN or infinite
        scores are grown last. By default it is the criterion given as
        `growth`.

        Args:
            view: `KernelView` of one kernel, as for `drop_score`. Connections
                that were just dropped are still active in its mask.

        Returns:
            Float tensor of the kernel's shape; values at connections that
            were kept are ignored.
        """
        return self._grow_score(view)

    def budget(
        self, views: list[KernelView], fraction: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The numbers of connections that each layer drops and grows.

        Args:
            views: List of `KernelView`.
            fraction: Float tensor, the share to replace.

        Returns:
            Two lists of `int32` scalars, dropped and grown. With
            `scope="global"` only their sums matter.
        """
        counts = [
            fraction_of(view.count(), fraction, self.rounding) for view in views
        ]
        return counts, counts

    def counts(
        self, views: list[KernelView], fraction: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The budget; in global scope, limited so that no kernel is empty."""
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
        """`best` in the method's scope; each layer keeps a connection."""
        if self.scope == "global":
            scores = [
                first_wins(s, m) for s, m in zip(scores, masks, strict=True)
            ]
        return best(views, scores, masks, counts, stage, self.scope)

    def grow(
        self, views: list[KernelView], kept: Tensors, grow_counts: Tensors
    ) -> Tensors:
        """Boolean tensors: the connections that grow.

        Connections that were just dropped count as absent, so they may grow
        again in the same update (RigL, issue 5 of google-research/rigl).
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
            Dict of arrays of the mask's shape; missing names start at 0.
        """
        return {}

    def observe(self, views: list[KernelView]) -> list[dict[str, Tensor]]:
        """Updates the state of each connection; called in every step.

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
        """Updates the state of one kernel's connections after an update.

        Args:
            state: Dict of tensors.
            mask: Boolean tensor, the new mask.
        """
        return state

    def forward_kernels(self, views: list[KernelView]) -> list[Tensor]:
        """The values that layers use instead of the kernels in a step.

        Args:
            views: List of `KernelView`, without gradients.

        Returns:
            List of tensors. Gradients are computed at these values.
        """
        return [view.kernel for view in views]

    def transform_gradients(
        self, gradients: list[Tensor], context: typing.Any
    ) -> list[Tensor]:
        """The gradients that the optimizer receives.

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
        """The values of the kernels after the optimizer's step.

        Args:
            old: List of kernels before the step.
            new: List of kernels after the step.
            views: List of `KernelView` from before the step.
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


_SETTINGS_IN_VIEWS = (
    "update_interval",
    "drop_fraction",
    "start_step",
    "stop_step",
    "seed",
)
# Hooks of an update that receive all kernels.
_HOOKS_OF_ALL = ("update", "budget", "counts", "keep", "strongest", "grow")


def overrides(method: Method, name: str) -> bool:
    """Whether a method has a hook of its own.

    Args:
        method: A `Method`.
        name: Name of the hook.
    """
    return getattr(type(method), name) is not getattr(Method, name)


def is_kernelwise(method: Method) -> bool:
    """Whether a method updates each kernel independently of the others.

    Args:
        method: A `Method`.

    Returns:
        Boolean. False if a class overrides a hook that receives all kernels
        and does not set `kernelwise` itself.

    Example:

    ```python
    is_kernelwise(RigL())  # True
    is_kernelwise(RigL(scope="global"))  # False
    ```
    """
    return method.scope != "global" and _holds(method, "kernelwise")


def named_criteria(method: Method) -> tuple[str, str] | None:
    """As `Method.criteria_by_name`, if they are all that an update looks at.

    Args:
        method: A `Method`.

    Returns:
        Tuple of two strings, or `None`.

    Example:

    ```python
    named_criteria(RigL())  # ("magnitude", "gradient")
    named_criteria(RigL(scope="global"))  # None
    ```
    """
    own = any(overrides(method, n) for n in ("drop_score", "grow_score"))
    alone = is_kernelwise(method) and _holds(method, "updates_by_criteria")
    return method.criteria_by_name() if alone and not own else None


def _names_of(*chosen: tuple[dict[str, typing.Any], typing.Any]) -> typing.Any:
    """The names of functions, each in a dict, or `None` if one has none."""
    names = [
        next((name for name, one in known.items() if one is function), None)
        for known, function in chosen
    ]
    return None if None in names else tuple(names)


def _holds(method: Method, claim: str) -> bool:
    """Whether a class claims something of its hooks that receive all kernels.

    A claim does not hold for hooks that a subclass overrides without it.
    """
    if not getattr(method, claim):
        return False
    classes = type(method).__mro__

    def depth(name: str) -> int:
        return next(i for i, one in enumerate(classes) if name in vars(one))

    said = depth(claim)
    overridden = any(name in vars(method) for name in _HOOKS_OF_ALL)
    return not overridden and all(said <= depth(n) for n in _HOOKS_OF_ALL)


# Hooks that see a weight, active or not, in every step.
_HOOKS_OF_STEPS = (
    "observe",
    "forward_kernels",
    "transform_gradients",
    "after_apply",
)


def reason_against_compressed(method: Method) -> str:
    """Why a method cannot train compressed kernels, "" if it can.

    Args:
        method: A `Method`.

    Returns:
        String, the end of a sentence that begins with "because".

    Example:

    ```python
    reason_against_compressed(RigL())  # ""
    ```
    """
    hooks = [name for name in _HOOKS_OF_STEPS if overrides(method, name)]
    if hooks:
        return f"its hook `{hooks[0]}` looks at all weights in every step"
    if method.connection_state or method.variable_state:
        return "it keeps a state of every connection, active or not"
    if method.scope == "global":
        return "connections would move between kernels with scope='global'"
    if not _holds(method, "counts_never_rise"):
        return (
            "it overrides how many connections an update leaves, and does not "
            "set `counts_never_rise`"
        )
    return ""


def program_traits(method: Method) -> typing.Any:
    """What of a method may be part of the compiled program of an update.

    Args:
        method: A `Method`.

    Returns:
        The method, or its class and a dict of attributes if the class sets
        `settings_from_views`: without the settings that views hold.

    Example:

    ```python
    program_traits(RigL(seed=1)) == program_traits(RigL(seed=2))  # True
    ```
    """
    if not vars(type(method)).get("settings_from_views", False):
        return method
    attributes = vars(method).items()
    return type(method), {
        name: value
        for name, value in attributes
        if name not in _SETTINGS_IN_VIEWS
    }


def as_counts(total: typing.Any, length: int) -> list[Tensor]:
    """Splits a total into counts of which only the sum matters."""
    return [total] + [ops.zeros_like(total)] * (length - 1)


def first_wins(score: Tensor, mask: Tensor) -> Tensor:
    """Raises the best active score above all scores of all layers."""
    keys = ops.reshape(sort_keys(score, mask), (-1,))
    place = ops.arange(keys.shape[0], dtype="int32")
    is_first = ops.equal(place, ops.cast(ops.argmax(keys), "int32"))
    return ops.where(ops.reshape(is_first, score.shape), _FLOAT_MAX, score)
