"""What models cost: parameters, theoretical FLOPs, measured time."""

import time
from typing import Any

import keras
import numpy as np
from absl import flags

import keras_freetickets as kft
from keras_freetickets.inspection import density_of
from keras_freetickets.metrics import flops

FLAGS = flags.FLAGS
# What a training costs, by --growth; `None` for a dense network.
_METHOD_OF = {"gradient": "rigl", "random": "set", None: "dense"}


def training_cost(
    growth: str | None = None, update_interval: int | None = None
) -> keras.callbacks.Callback:
    """The callback that logs the seconds and FLOPs of each epoch."""
    return kft.callbacks.TrainingCost(_METHOD_OF[growth], update_interval)


def relative_flops(dense: keras.Model, model: keras.Model) -> float:
    """FLOPs of a prediction, relative to the dense network's."""
    used = flops.forward_flops(model, density_of(model))
    return used / flops.forward_flops(dense)


def costs(
    dense: keras.Model,
    model: keras.Model,
    epochs: int,
    reference_epochs: int,
    growth: str | None = None,
    update_interval: int | None = None,
) -> dict[str, float]:
    """Parameters, and FLOPs relative to a dense training.

    Args:
        dense: The dense network.
        model: The trained network.
        epochs: Epochs after which it was trained.
        reference_epochs: Epochs of the dense training.
        growth: As --growth; `None` for a dense network.
        update_interval: Optimizer updates between topology updates.
    """
    ratio = relative_flops(dense, model)
    sample = flops.training_flops_per_sample(
        1.0, ratio, _METHOD_OF[growth], update_interval
    )
    return {
        "parameters": active_parameters(model),
        "inference_flops": ratio,
        "train_flops": sample * epochs / (3.0 * reference_epochs),
        "mac_cost": ratio * epochs / reference_epochs,
    }


def flag_costs(
    dense: keras.Model, model: keras.Model, epochs: int, update_interval: int
) -> dict[str, float]:
    """`costs` with --reference_epochs and --growth."""
    return costs(
        dense,
        model,
        epochs,
        FLAGS.reference_epochs,
        FLAGS.growth,
        update_interval,
    )


def of_topology(model: kft.SparseModel) -> dict[str, float]:
    """How sparse a model is, and how often its topology was updated."""
    return {
        "sparsity": 1.0 - model.density,
        "updates": int(model.update_state.update_count.numpy()),
    }


def active_parameters(model: keras.Model) -> int:
    """Active weights of masked kernels and all other trainable weights."""
    total = sum(int(np.prod(w.shape)) for w in model.trainable_variables)
    for masked in getattr(model, "masked_kernels", []):
        # A compressed kernel may have room for more than is active.
        total -= int(np.prod(masked.kernel.shape)) - masked.count()
    return total


def milliseconds(model: keras.Model, images: Any, rounds: int = 20) -> float:
    """The median time to predict a batch."""
    model.predict_on_batch(images)
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        model.predict_on_batch(images)
        found.append(1e3 * (time.perf_counter() - start))
    return float(np.median(found))
