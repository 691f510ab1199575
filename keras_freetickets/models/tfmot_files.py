"""Models that tensorflow-model-optimization has pruned, as sparse models."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import typing

import keras
import numpy as np
from keras import ops

from keras_freetickets.models import read_tfmot
from keras_freetickets.models.conversion import sparsify
from keras_freetickets.models.sparse_model import SparseModel
from keras_freetickets.optional import import_optional
from keras_freetickets.topology.methods import GMP
from keras_freetickets.types import PathLike

# The end of what a process wrote that failed.
_TAIL = 1500


@dataclasses.dataclass
class TfmotModel:
    """What `from_tfmot` read.

    Args:
        model: `SparseModel`, not compiled.
        method: The schedule, as a method for the callback `DropAndGrow`;
            `None` if the file holds no wrappers of tfmot.
        step: Integer, the pruning step at which the model was saved; `None`
            if the file does not say.

    Example:

    ```python
    found = keras_freetickets.from_tfmot("pruned.h5")
    found.model.compile("adam", "mse")
    found.model.optimizer.iterations.assign(found.step)
    gmp = keras_freetickets.callbacks.DropAndGrow(found.method)
    found.model.fit(x, y, callbacks=[gmp])
    ```
    """

    model: SparseModel
    method: GMP | None = None
    step: int | None = None


class _Schedule:
    """A schedule of tfmot of which all values are known."""

    def __init__(self, facts: dict[str, typing.Any]) -> None:
        self.begin_step = facts["begin_step"]
        self.end_step = facts["end_step"]
        self.frequency = facts["frequency"]
        self._values = facts["values"]

    def __call__(self, step: typing.Any) -> tuple[bool, float]:
        return True, self._values[str(int(step))]


def from_tfmot(path: PathLike) -> TfmotModel:
    """Reads a model that tensorflow-model-optimization (tfmot) has pruned.

    The file is read in a process of its own, in which Keras is `tf_keras`
    (Keras 2).

    Args:
        path: `.h5` or `.keras` file of tf_keras, of a Sequential or
            Functional model, with the wrappers of `prune_low_magnitude` or
            without, after `strip_pruning`.

    Returns:
        A `TfmotModel`: the model with masks where weights are not zero, in
        the layers that were pruned (of a stripped model, those that have
        zeros); and the schedule and step, if the file has wrappers.

    Raises:
        ValueError: If the file cannot be read, its layers are not known to
            Keras 3, or nothing in it is pruned.
        ImportError: If tfmot or tf_keras is not installed.

    Example:

    ```python
    model = keras_freetickets.from_tfmot("pruned.h5").model
    keras_freetickets.sparsity_summary(model)
    ```
    """
    for package in ("tensorflow_model_optimization", "tf_keras"):
        if importlib.util.find_spec(package) is None:
            import_optional(package)
    if not isinstance(path, (str, os.PathLike)) or not os.path.isfile(path):
        raise ValueError(f"`path` must be a file. Received: path={path!r}")
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            # -P: no module beside the script is to be taken for another.
            [sys.executable, "-P", read_tfmot.__file__, str(path), folder],
            capture_output=True,
            text=True,
        )
        written = os.path.join(folder, "facts.json")
        if done.returncode or not os.path.exists(written):
            raise ValueError(
                "`path` must be a model of tf_keras, pruned by tfmot. "
                f"Received: path={path} ({done.stderr[-_TAIL:]})"
            )
        with open(written) as file:
            facts = json.load(file)
        base = keras.models.load_model(
            os.path.join(folder, "model.h5"), compile=False
        )
    model = _masked(base, facts["layers"] or _with_zeros(base), path)
    method = facts["schedule"] and GMP.from_schedule(
        _Schedule(facts["schedule"])
    )
    return TfmotModel(model, method, facts["step"])


def _with_zeros(model: keras.Model) -> dict[str, list[str]]:
    """The names of kernels that have zeros, by the names of their layers."""
    return {
        layer.name: names
        for layer in model.layers
        if (
            names := [
                weight.name
                for weight in layer.weights
                if len(weight.shape) > 1
                and not ops.convert_to_numpy(weight.value).all()
            ]
        )
    }


def _masked(
    base: keras.Model, pruned: dict[str, list[str]], path: PathLike
) -> SparseModel:
    """A sparse copy whose masks are where weights are not zero."""
    if not pruned:
        raise ValueError(
            "`path` must be a model of which weights are pruned. "
            f"Received: path={path}, without zeros"
        )
    model = sparsify(
        base,
        0.0,
        filters=lambda layer: layer.name in pruned,
        mask_initializer="magnitude",
        kernels=lambda layer: tuple(pruned.get(layer.name, ())) or None,
    )
    for masked in model.masked_kernels:
        mask = ops.convert_to_numpy(masked.kernel.value) != 0
        masked.mask.assign(mask)
        masked.active = int(np.sum(mask))
    model.project()
    return model
