"""Training for 8 bits that keeps the zeros of a ticket (PQAT of tfmot)."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import typing

import keras
import numpy as np
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.arguments import check_boolean
from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import check_number
from keras_freetickets.data import check_examples
from keras_freetickets.deployment import formats
from keras_freetickets.deployment import on_tf_keras
from keras_freetickets.deployment.exporting import order_of
from keras_freetickets.deployment.litert import LiteRT
from keras_freetickets.deployment.production import produce
from keras_freetickets.deployment.report import ExportReport
from keras_freetickets.types import Array
from keras_freetickets.types import PathLike
from keras_freetickets.types import Tensor

_PACKAGES = ("tensorflow_model_optimization", "tf_keras")
# The end of what a process wrote that failed.
_TAIL = 1500


def train_for_8_bits(
    model: keras.Model,
    path: PathLike,
    x: Array,
    y: Array,
    epochs: int = 3,
    batch_size: int = 32,
    learning_rate: float = 1e-4,
    loss: str = "sparse_categorical_crossentropy",
    seed: int = 0,
    overwrite: bool = False,
    verbose: bool = True,
) -> ExportReport:
    """Trains a ticket on for 8 bits, zeros kept, and writes it for LiteRT.

    Prune-preserving quantization-aware training (PQAT) of
    tensorflow-model-optimization: weights and activations are rounded in the
    forward pass, and weights that are zero stay zero. It runs in a process of
    its own, in which Keras is `tf_keras`. `model` does not change.

    Args:
        model: A `SparseModel`, or what `strip` returned: a graph of layers
            that Keras 2 has too, with one output and no model within it.
        path: Path to write, which ends with `.tflite` or `.tflite.zip`.
        x: Array of inputs `(examples, ...)`.
        y: Array of labels, as `loss` takes them.
        epochs: Positive integer. Defaults to 3 (ours).
        batch_size: Positive integer.
        learning_rate: Positive float, of Adam. Defaults to 1e-4 (ours: a tenth
            of Adam's own, as the model is trained).
        loss: Name of a loss of Keras.
        seed: Non-negative integer, of the order of the examples.
        overwrite: Whether to replace what is at `path`.
        verbose: Whether to print the report.

    Returns:
        An `ExportReport`, of dtype `"int8"`. Its differences are those from
        `model`, which training makes larger; there is no limit for them.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If an argument is out of range, `path` has another ending
            or cannot be written, or the model has a layer that Keras 2 has
            not.
        FileExistsError: If there is something at `path`.
        ImportError: If tfmot, tf_keras or TensorFlow is not installed.
        RuntimeError: If the process fails, or the file cannot be loaded or
            has lost zeros.

    Example:

    ```python
    keras_freetickets.deployment.train_for_8_bits(
        ticket, "run/ticket.tflite", x_train, y_train
    )
    ```

    Reference:
        Default8BitPrunePreserveQuantizeScheme of tfmot 0.8.1.
    """
    check_count("epochs", epochs)
    check_count("batch_size", batch_size)
    check_count("seed", seed, least=0)
    check_number("learning_rate", learning_rate, "(0, inf)")
    check_boolean("verbose", verbose)
    _check_backend()
    for package in _PACKAGES:
        formats.check_package(package)
    x, y = np.asarray(x), np.asarray(y)
    check_examples(x, y)
    order = order_of(
        model, path, "litert", "int8", x, check=True, overwrite=overwrite
    )
    settings = {
        "parts": blueprint(order.job.model),
        "epochs": int(epochs),
        "batch_size": int(batch_size),
        "learning_rate": float(learning_rate),
        "loss": loss,
        "seed": int(seed),
    }
    report = produce(
        dataclasses.replace(
            order,
            # No limit but that of numbers: NaN is not below it.
            limit=float("inf"),
            writer=_Trained(settings, order.job.samples[0], y),
        )
    )
    if verbose:
        print(report)
    return report


def _check_backend() -> None:
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ValueError(
            "Training for 8 bits is TensorFlow's: load the model's .keras file "
            "in a process with KERAS_BACKEND=tensorflow. "
            f"Received: a call on {backend}"
        )


def blueprint(model: keras.Model) -> list[dict[str, typing.Any]]:
    """A graph of layers as data, which another Keras can build.

    Args:
        model: A plain Keras model with one output.

    Returns:
        List of a dict for each tensor, after those that it is computed from:
        `"class_name"`, `"name"` and `"config"` of the layer that computes it,
        `"inputs"`, the places of the tensors in the list that it is given,
        and `"is_output"`.

    Raises:
        ValueError: If the model has no graph, several outputs, or holds
            another model.

    Example:

    ```python
    [part["class_name"] for part in blueprint(model)]
    ```
    """
    if len(getattr(model, "outputs", None) or []) != 1:
        raise ValueError(
            "`model` must be a graph of layers with one output. "
            f"Received: model={model.name!r} of type {type(model).__name__}"
        )
    parts: list[dict[str, typing.Any]] = []
    places: dict[int, int] = {}

    def visit(tensor: Tensor) -> int:
        if id(tensor) not in places:
            layer, given = keras_adapter.origin(tensor)
            inputs = [visit(one) for one in given]
            places[id(tensor)] = len(parts)
            parts.append(_part(layer, inputs))
        return places[id(tensor)]

    visit(model.outputs[0])
    parts[-1]["is_output"] = True
    return parts


def _part(layer: typing.Any, inputs: list[int]) -> dict[str, typing.Any]:
    if isinstance(layer, keras.Model):
        raise ValueError(
            "`model` must not hold a model, as ensembles do: train their "
            f"members one by one. Received: model {layer.name!r} within it"
        )
    return {
        "class_name": type(layer).__name__,
        "name": layer.name,
        "config": layer.get_config(),
        "inputs": inputs,
        "is_output": False,
    }


class _Trained(LiteRT):
    """Writes a `.tflite` file by training in another process.

    Args:
        settings: Dict for `order.json` of the other process.
        x: Array of inputs.
        y: Array of labels.
    """

    def __init__(self, settings: dict[str, typing.Any], x: Array, y: Array):
        self.settings = settings
        self.x, self.y = x, y

    def write(self, job: formats.Job, path: str) -> str:
        weights = {
            f"{layer.name}/{i}": ops.convert_to_numpy(weight.value)
            for layer in job.model.layers
            for i, weight in enumerate(layer.weights)
        }
        with tempfile.TemporaryDirectory() as folder:
            arrays: dict[str, typing.Any] = {"x": self.x, "y": self.y}
            np.savez(os.path.join(folder, "arrays.npz"), **arrays, **weights)
            with open(os.path.join(folder, "order.json"), "w") as file:
                json.dump(self.settings, file)
            done = subprocess.run(
                # -P: the modules beside the script have names of packages.
                [sys.executable, "-P", on_tf_keras.__file__, folder],
                capture_output=True,
                text=True,
            )
            written = os.path.join(folder, "model.tflite")
            refused = os.path.join(folder, on_tf_keras.REFUSED)
            if os.path.exists(refused):
                with open(refused) as file:
                    raise ValueError(file.read())
            if done.returncode or not os.path.exists(written):
                raise RuntimeError(
                    "the process on tf_keras ended without a file: "
                    f"{done.stderr[-_TAIL:]}"
                )
            shutil.move(written, path)
        return f"trained for 8 bits in {self.settings['epochs']} epochs"
