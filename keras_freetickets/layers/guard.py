"""Guards that raise if an optimizer step ignores the mask of a kernel."""

import contextlib
import typing
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

from keras_freetickets.types import Tensor
from keras_freetickets.types import Variable


class MaskGuard:
    """A constraint of a masked kernel that raises if a step ignores masks.

    On every backend and in every loop, an optimizer's step ends with the
    constraint of each variable that it trained. So a constraint notices every
    step that ignores masks: the step of another model around the layer, of a
    custom `train_step`, or of a second optimizer. The error is raised while
    the first step is traced, before any weight changes. (A step that runs
    eagerly has changed the weights once by then.)

    The step of a `SparseModel` disables the guard while it runs and restores
    the kernel's own constraint, so the guard costs nothing there.

    Args:
        name: Path of the kernel, for the error message.
        constraint: The kernel's own constraint, or `None`.

    Example:

    ```python
    kernel.constraint = MaskGuard("dense/kernel", kernel.constraint)
    ```
    """

    def __init__(self, name: str, constraint: Callable | None = None) -> None:
        self.name = name
        self.constraint = constraint
        self.lowered = 0  # a count: TensorFlow traces replicas in turns

    def __call__(self, value: typing.Any) -> Tensor:
        raise ValueError(
            f"The kernel '{self.name}' has a mask, but this optimizer step "
            "ignores masks: the kernel would become dense. Train with `fit` "
            "of the SparseModel itself. In a custom `train_step` or training "
            "loop call `sparse_model.apply_gradients(gradients)`, or on JAX "
            "`sparse_model.stateless_apply(...)`, instead of the optimizer's "
            "method (docs/own_training_loop.md). A model around the layer "
            "must be a SparseModel too. To train a dense model use "
            "keras_freetickets.strip(model). "
            f"Received: an optimizer step on '{self.name}'"
        )


def guard(kernel: Variable, name: str) -> None:
    """Guards a masked kernel, once even if several layers share it.

    Args:
        kernel: A variable.
        name: Path of the kernel, for the error message.

    Example:

    ```python
    guard(layer.kernel, "dense/kernel")
    ```
    """
    if getattr(kernel, "mask_guard", None) is None:
        kernel.mask_guard = MaskGuard(name, kernel.constraint)
        kernel.constraint = kernel.mask_guard


@contextlib.contextmanager
def guards_lowered(kernels: Sequence[Variable]) -> Iterator[None]:
    """Context in which an optimizer may train masked kernels.

    Args:
        kernels: List of variables, guarded or not.

    Example:

    ```python
    with guards_lowered(model.trainable_variables):
        optimizer.apply(masked_gradients, model.trainable_variables)
    ```
    """
    guards = {}
    for kernel in kernels:
        guard = getattr(kernel, "mask_guard", None)
        if guard is not None:
            guards[id(kernel)] = (kernel, guard)
    for kernel, guard in guards.values():
        guard.lowered += 1
        kernel.constraint = guard.constraint
    try:
        yield
    finally:
        for kernel, guard in guards.values():
            guard.lowered -= 1
            if not guard.lowered:
                kernel.constraint = guard
