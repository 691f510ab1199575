"""Further training steps of one model, which take turns in `fit`."""

import contextlib
import dataclasses
from collections.abc import Callable

from keras_freetickets.types import Batch


@dataclasses.dataclass(eq=False, frozen=True)
class StepVariant:
    """A training step that differs from a model's usual one.

    Both train the same variables with the same optimizer. What differs is
    decided while the step is traced, so that each is compiled once, and a
    callback chooses before a batch which of them trains on it
    (`model.run.use_variant`). The arguments are the attributes.

    Args:
        name: String, for messages.
        scope: Callable without arguments that returns a context, in which the
            forward pass and the loss are traced: layers look there for what
            they have to compute. Defaults to a context that does nothing.
        transform: As for `SparseModel.add_batch_transform`, the last one to
            be applied, or `None`.
        updates_topology: Whether the step may change masks, and the state by
            which methods decide on them. If not, an update that is due waits
            for the next step that may. Defaults to True.

    Example:

    ```python
    half = StepVariant("half", transform=lambda x, y, w, step: (x / 2, y, w))
    model.run.use_variant(half)
    model.run.use_variant(None)
    ```
    """

    name: str
    scope: Callable[[], contextlib.AbstractContextManager] = (
        contextlib.nullcontext
    )
    transform: Callable[..., Batch] | None = None
    updates_topology: bool = True
