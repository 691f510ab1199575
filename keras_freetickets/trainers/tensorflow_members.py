"""Steps of members side by side on TensorFlow, one after the other."""

import typing
from collections.abc import Sequence

from keras_freetickets.types import Logs
from keras_freetickets.types import Model
from keras_freetickets.types import Tensor


class TensorFlowMembers:
    """The `MembersBackend` of TensorFlow, where nothing is vectorized.

    Its `vectorized_map` has no convolution with kernels of several members.
    """

    def has_accelerator(self) -> bool:
        """Never asked for vectorized members, so false."""
        return False

    def step(
        self, model: Model, name: str, own: bool, data: typing.Any
    ) -> list[Logs]:
        """A step of each member, one after the other.

        They share no variables, so that a graph may run them at the same
        time.

        Args:
            model: A `SideBySide`.
            name: `"train_step"` or `"test_step"`.
            own: Whether each member has a batch of its own in `data`.
            data: A batch.

        Returns:
            List of the members' logs.
        """
        return [
            getattr(member, name)(model.batch_of(i, data, own))
            for i, member in enumerate(model.members)
        ]

    def state_axes(self, model: Model) -> tuple[list[int | None], ...]:
        """No axes: Keras' trainer hands no state to a step."""
        return ()

    def pack(
        self, values: Sequence[Tensor], axes: Sequence[int | None]
    ) -> list[Tensor]:
        """The values as they are."""
        return list(values)

    def unpack(
        self, values: Sequence[Tensor], axes: Sequence[int | None], count: int
    ) -> list[Tensor]:
        """The values as they are."""
        return list(values)
