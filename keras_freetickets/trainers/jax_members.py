"""Steps of members side by side on JAX, one after the other or by `vmap`."""

import contextlib
import contextvars
import typing
from collections.abc import Iterator
from collections.abc import Sequence

import jax

from keras_freetickets import keras_adapter
from keras_freetickets.types import Logs
from keras_freetickets.types import Model
from keras_freetickets.types import Tensor

# The axis of members that train side by side, where they are vectorized.
_MEMBERS = "members"
_vectorized = contextvars.ContextVar("vectorized", default=False)


@contextlib.contextmanager
def _members_axis() -> Iterator[None]:
    token = _vectorized.set(True)
    try:
        yield
    finally:
        _vectorized.reset(token)


def any_member(done: Tensor) -> Tensor:
    """Whether an update took place: for members that share counters, in any.

    Args:
        done: Boolean tensor, whether it took place in this member.
    """
    if not _vectorized.get():
        return done
    return jax.lax.pmax(done.astype("int32"), _MEMBERS) > 0


class JaxMembers:
    """The `MembersBackend` of JAX."""

    def has_accelerator(self) -> bool:
        """Whether steps run on something else than the processor."""
        return jax.default_backend() != "cpu"

    def step(
        self,
        model: Model,
        name: str,
        own: bool,
        state: tuple,
        data: typing.Any,
    ) -> tuple[list[Logs], tuple]:
        """A step of each member; see `MembersBackend`.

        Args:
            model: A `SideBySide`.
            name: `"train_step"` or `"test_step"`.
            own: Whether each member has a batch of its own in `data`.
            state: The model's state, lists of values.
            data: A batch.

        Returns:
            List of the members' logs and the new state.
        """
        count = len(model.members)
        if not model.vectorize:
            steps = [
                getattr(member, name)(share, model.batch_of(i, data, own))
                for i, (member, share) in enumerate(
                    zip(model.members, _shares(state, count), strict=True)
                )
            ]
            parts = zip(*(after for _, after in steps), strict=True)
            return (
                [logs for logs, _ in steps],
                tuple([v for one in part for v in one] for part in parts),
            )
        axes = self.state_axes(model)
        axes = axes if len(state) == len(axes) else (*axes[:2], axes[3])
        with _members_axis():
            step = jax.vmap(
                getattr(model.members[0], name),
                in_axes=(axes, 1 if own else None),
                out_axes=(0, axes),
                axis_name=_MEMBERS,
            )
            stacked, state = step(state, data)
        logs = [{n: v[i] for n, v in stacked.items()} for i in range(count)]
        return logs, state

    def state_axes(self, model: Model) -> tuple[list[int | None], ...]:
        """Which values are stacked, 0, and which members share, `None`.

        What decides whether an update is due must be shared: for a condition
        of each member's own both branches would be computed in every step.

        Args:
            model: A `SideBySide`.
        """
        member = model.members[0]
        counters = keras_adapter.shared_counters(member.optimizer)
        shared = {id(v) for v in counters}
        shared |= {id(v) for v in member.update_state.shared_counters}
        groups = (
            member.trainable_variables,
            member.non_trainable_variables,
            member.optimizer.variables,
            member.metrics_variables,
        )
        return tuple(
            [None if id(v) in shared else 0 for v in group] for group in groups
        )

    def pack(
        self, values: Sequence[Tensor], axes: Sequence[int | None]
    ) -> list[Tensor]:
        """Stacks the values of members, member after member; see `unpack`."""
        count = len(axes)
        each = [values[i::count] for i in range(count)]
        return [
            jax.numpy.stack(one) if axis == 0 else one[0]
            for axis, one in zip(axes, each, strict=True)
        ]

    def unpack(
        self, values: Sequence[Tensor], axes: Sequence[int | None], count: int
    ) -> list[Tensor]:
        """The values of `count` members, member after member.

        Copies, as each member may hand its own to a step that donates them.
        """
        return [
            value[i] if axis == 0 else jax.numpy.copy(value)
            for i in range(count)
            for value, axis in zip(values, axes, strict=True)
        ]


def _shares(state: tuple, count: int) -> Iterator[tuple]:
    """The state of each member: equal parts, member after member."""
    for i in range(count):
        yield tuple(
            part[i * len(part) // count : (i + 1) * len(part) // count]
            for part in state
        )
