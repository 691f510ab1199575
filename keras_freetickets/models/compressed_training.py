"""What a model with compressed kernels can train with, and what it refuses.

And what becomes of the optimizer's slots when its positions are assigned.
"""

import contextlib
import typing

import keras
import numpy as np
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.arguments import check_model
from keras_freetickets.layers.compressed import Compressed
from keras_freetickets.topology.methods import Method
from keras_freetickets.topology.methods.method import reason_against_compressed
from keras_freetickets.types import Model


def compressed_layers(model: Model) -> list[Compressed]:
    """The compressed layers of a model, nested ones too."""
    parts = keras_adapter.sublayers(model)
    return [part for part in parts if isinstance(part, Compressed)]


@contextlib.contextmanager
def slots_follow(model: Model) -> typing.Iterator[None]:
    """Optimizer slots keep to their connections while weights are assigned.

    Slots are as long as the active weights, in their order: a connection that
    was there before takes its slots to its new place, a new one has those of
    the first step. Slots that are assigned too stay as they are: they belong
    to the new positions.

    Args:
        model: A `SparseModel`.
    """
    kernels = [m for m in model.masked_kernels if m.compressed]
    slots: list[list] = [[] for _ in kernels]
    if model.compiled and model.optimizer.built:
        variables = [masked.kernel for masked in kernels]
        slots = keras_adapter.optimizer_slots(model.optimizer, variables)
    before = [
        (masked, masked.layer.structure, found, _values_of(found))
        for masked, found in zip(kernels, slots, strict=True)
        if found
    ]
    try:
        yield
    finally:
        for masked, structure, found, values in before:
            now = masked.layer.structure
            pairs = zip(values, _values_of(found), strict=True)
            unchanged = all(np.array_equal(*pair) for pair in pairs)
            if unchanged and not structure.has_positions_of(now):
                kept, places = structure.find(now)
                for (slot, initial), value in zip(found, values, strict=True):
                    moved = np.full_like(value, initial)
                    moved[: now.active][kept] = value[places]
                    slot.assign(moved)


def _values_of(slots):
    # Copies: a backend may hand out its own memory.
    return [np.array(ops.convert_to_numpy(slot.value)) for slot, _ in slots]


def check_masked(name: str, model: Model | None) -> None:
    """Raises if a model has compressed kernels.

    Args:
        name: Name of the argument.
        model: A Keras model or `None`.

    Raises:
        TypeError: If it is no Keras model.
        ValueError: If it has compressed kernels.
    """
    if model is None:
        return
    check_model(name, model)
    layers = compressed_layers(model)
    if layers:
        raise ValueError(
            f"`{name}` must have masks, not compressed kernels: call "
            "keras_freetickets.decompress(model). Received: a model with the "
            f"compressed layer '{layers[0].path}'"
        )


def notes_gradients(model: Model) -> bool:
    """Whether a step has to note what the dense gradient is made of."""
    method = model.run.method
    return (
        method is not None
        and method.reads_gradients()
        and any(
            masked.compressed and method.takes_part(masked.active, masked.size)
            for masked in model.masked_kernels
        )
    )


def check_method(model: Model, method: Method) -> None:
    """Raises if a method needs the masks of kernels that are compressed.

    Args:
        model: A compiled `SparseModel`.
        method: A `Method`.

    Raises:
        ValueError: If the model has compressed kernels, and the method looks
            at every weight in every step or moves connections between
            kernels, or grows by a gradient that is accumulated.
    """
    if not compressed_layers(model):
        return
    reason = reason_against_compressed(method)
    if reason:
        raise ValueError(
            f"The method {type(method).__name__} does not train compressed "
            f"kernels, because {reason}: use sparsify(..., storage='mask') or "
            "keras_freetickets.decompress(model). "
            f"Received: method={type(method).__name__}"
        )
    steps = keras_adapter.accumulation_steps(model.optimizer)
    if steps and method.reads_gradients():
        raise ValueError(
            "Gradients of absent weights are not accumulated for compressed "
            "kernels: use gradient_accumulation_steps=None, growth at random "
            "or storage='mask'. Received: "
            f"gradient_accumulation_steps={steps}, "
            f"method={type(method).__name__}"
        )


def check_optimizer(model: Model) -> None:
    """Raises for an optimizer whose step is that of a matrix.

    Args:
        model: A compiled `SparseModel`.

    Raises:
        ValueError: If the model has compressed kernels and the optimizer is
            Muon.
    """
    layers = compressed_layers(model)
    for optimizer in keras_adapter.plain_optimizers(model.optimizer):
        if layers and isinstance(optimizer, keras.optimizers.Muon):
            raise ValueError(
                "Muon takes steps of whole matrices, of which a compressed "
                "kernel has none: use another optimizer or storage='mask'. "
                f"Received: optimizer={type(optimizer).__name__} for "
                f"compressed layer '{layers[0].path}'"
            )


def check_fit(model: Model) -> None:
    """Raises before `fit` for what compressed kernels do not run under.

    Args:
        model: A compiled `SparseModel`.

    Raises:
        ValueError: If the model has compressed kernels, and the model is
            distributed, the optimizer is Muon or positions of a kernel are
            wrong. (XLA on TensorFlow is switched off by Keras, with a warning,
            for a model with layers that do not support it.)
    """
    layers = compressed_layers(model)
    if not layers:
        return
    check_optimizer(model)
    for layer in layers:
        layer.check()
    refused: list[tuple[str, typing.Any]] = []
    if keras.backend.backend() == "tensorflow":
        strategy = model.distribute_strategy
        if strategy.num_replicas_in_sync > 1:
            refused.append(("strategy", type(strategy).__name__))
    distribution = keras.distribution.distribution()
    if distribution is not None:
        refused.append(("distribution", type(distribution).__name__))
    for name, value in refused:
        raise ValueError(
            "Compressed kernels train on one processor: on several replicas or "
            f"devices use storage='mask'. Received: {name}={value}"
        )
