"""Exports in a process of their own, on another backend."""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import typing

import keras
import numpy as np

from keras_freetickets.deployment import formats
from keras_freetickets.deployment import production
from keras_freetickets.deployment.report import ExportReport
from keras_freetickets.types import Array
from keras_freetickets.types import PathLike

_ERRORS = (ValueError, ImportError, RuntimeError)
_CALL = (
    "import sys\n"
    "from keras_freetickets.deployment import apart\n"
    "apart.answer(sys.argv[1])"
)
# The end of what a process wrote that did not answer.
_TAIL = 2000


def produce(order: production.Order, backend: str | None) -> ExportReport:
    """As `production.produce`, in a process that runs on another backend.

    Args:
        order: An `Order` of a model with a graph.
        backend: String, a backend of Keras.

    Raises:
        ValueError: As in this process.
        ImportError: As in this process.
        RuntimeError: As in this process, or if the other one ends early.
    """
    with tempfile.TemporaryDirectory() as folder:
        _ask(order, folder)
        done = subprocess.run(
            [sys.executable, "-c", _CALL, folder],
            env={**os.environ, "KERAS_BACKEND": str(backend)},
            capture_output=True,
            text=True,
        )
        answer = os.path.join(folder, "answer.json")
        if not os.path.exists(answer):
            raise RuntimeError(
                f"The process on {backend} ended without an answer: "
                f"{done.stderr[-_TAIL:]}"
            )
        with open(answer) as file:
            found = json.load(file)
    if "error" in found:
        kinds = {kind.__name__: kind for kind in _ERRORS}
        raise kinds.get(found["error"], RuntimeError)(found["message"])
    return ExportReport(**found)


def _ask(order: production.Order, folder: str) -> None:
    """Writes an order into a folder."""
    order.job.model.save(os.path.join(folder, "model.keras"))
    if order.network is not order.job.model:
        order.network.save(os.path.join(folder, "network.keras"))
    settings = {
        "format": order.format,
        "path": order.path,
        "limit": order.limit,
        "inputs": order.inputs,
        "dtype": order.job.dtype,
        "sparse": order.job.sparse,
    }
    with open(os.path.join(folder, "order.json"), "w") as file:
        json.dump(settings, file)
    groups = {
        "examples": order.examples,
        "expected": order.expected,
        "samples": order.job.samples,
    }
    arrays: dict[str, typing.Any] = {
        f"{name}_{i:04d}": one
        for name, group in groups.items()
        for i, one in enumerate(group)
    }
    np.savez(os.path.join(folder, "arrays.npz"), **arrays)


def answer(folder: PathLike) -> None:
    """Does what an order in a folder says, and writes what became of it.

    Args:
        folder: Directory that `produce` has written to.
    """
    try:
        report = production.produce(_order(os.fspath(folder)))
        found = json.loads(report.to_json())
    except Exception as error:
        known = isinstance(error, _ERRORS)
        name = type(error).__name__
        kind = next((k for k in _ERRORS if isinstance(error, k)), RuntimeError)
        message = str(error) if known else f"{name}: {error}"
        found = {"error": kind.__name__, "message": message}
    path = os.path.join(folder, "answer.json")
    with open(path + ".part", "w") as file:
        json.dump(found, file)
    os.replace(path + ".part", path)


def _order(folder: str) -> production.Order:
    # Registers the formats.
    importlib.import_module("keras_freetickets.deployment.exporting")
    with open(os.path.join(folder, "order.json")) as file:
        settings = json.load(file)
    with np.load(os.path.join(folder, "arrays.npz")) as archive:
        arrays = {name: archive[name] for name in sorted(archive.files)}

    def group(name: str) -> list[Array]:
        return [one for key, one in arrays.items() if key.startswith(name)]

    model = keras.models.load_model(os.path.join(folder, "model.keras"))
    network, path = model, os.path.join(folder, "network.keras")
    if os.path.exists(path):
        network = keras.models.load_model(path)
    formats.get(settings["format"]).check_installed(settings["dtype"])
    job = formats.Job(
        model,
        formats.specs_of(model),
        settings["dtype"],
        settings["sparse"],
        group("samples"),
    )
    return production.Order(
        job=job,
        network=network,
        format=settings["format"],
        path=settings["path"],
        limit=settings["limit"],
        examples=group("examples"),
        expected=group("expected"),
        inputs=settings["inputs"],
    )
