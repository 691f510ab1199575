"""Raises for optimizer steps that would train a masked kernel past its mask."""

import contextlib
import typing
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

from keras_freetickets.types import Tensor
from keras_freetickets.types import Variable


class MaskGuard:
    """A constraint of a masked kernel, for steps that do not respect masks.

    An optimizer's step ends with the constraint of each variable that it
    trained, on every backend and in every loop: that is the one place where a
    step that ignores masks can be noticed: that of another model around the
    layer, of a custom `train_step`, or of a second optimizer. The
    error comes while the first step is traced, before any weight changes. (A
    step that is run eagerly has changed the weights once by then.)

    The step of a `SparseModel` lowers the guard for its time, so that a kernel
    without a constraint of its own has none there and costs nothing.

    Args:
        name: Path of the kernel, for the error.
        constraint: The kernel's own constraint, or `None`.

    Example:

    ```python
    kernel.constraint = MaskGuard("dense/kernel", kernel.constraint)
    ```
    """

    def __init__(self, name: str, constraint: Callable | None = None) -> None:
        self.name = name
        self.constraint = constraint
        self.lowered = 0  # replicas of TensorFlow trace in turns

    def __call__(self, value: typing.Any) -> Tensor:
        raise ValueError(
            f"The kernel '{self.name}' has a mask, and the optimizer that is "
            "about to train it does not know masks: the kernel would turn "
            "dense. Train with `fit` of the SparseModel itself; in a "
            "`train_step` or a training loop of your own call "
            "`sparse_model.apply_gradients(gradients)`, on JAX "
            "`sparse_model.stateless_apply(...)`, in place of the "
            "optimizer's (docs/own_training_loop.md). A model around the "
            "layer must be a SparseModel too. keras_freetickets.strip(model) "
            "makes a dense model. "
            f"Received: an optimizer step on '{self.name}'"
        )


def guard(kernel: Variable, name: str) -> None:
    """Guards a masked kernel, once for all layers that share it.

    Args:
        kernel: A variable.
        name: Path of the kernel, for the error.

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
        kernels: List of variables, guarded ones and others.

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
