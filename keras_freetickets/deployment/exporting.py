"""`export`: one call from a model to a file that was tried."""

import os
import typing

import keras
import numpy as np

from keras_freetickets.arguments import check_boolean
from keras_freetickets.arguments import check_choice
from keras_freetickets.arguments import check_model
from keras_freetickets.arguments import is_within
from keras_freetickets.deployment import apart
from keras_freetickets.deployment import comparison
from keras_freetickets.deployment import formats
from keras_freetickets.deployment import keras_file
from keras_freetickets.deployment import litert
from keras_freetickets.deployment import onnx
from keras_freetickets.deployment import openvino
from keras_freetickets.deployment import saved_model
from keras_freetickets.deployment.plain import one_network
from keras_freetickets.deployment.plain import outputs_of
from keras_freetickets.deployment.plain import plain_model
from keras_freetickets.deployment.production import ZIP
from keras_freetickets.deployment.production import Order
from keras_freetickets.deployment.production import produce
from keras_freetickets.deployment.report import ExportReport
from keras_freetickets.types import Array
from keras_freetickets.types import PathLike

# Imported so that their formats are registered, in the order of docs.
MODULES = (keras_file, saved_model, litert, onnx, openvino)


def export(
    model: keras.Model,
    path: PathLike,
    format: str | None = None,
    dtype: str = "float32",
    representative_data: typing.Any = None,
    sparse: bool = True,
    check: bool | float = True,
    overwrite: bool = False,
    backend: str | None = None,
    verbose: bool = True,
) -> ExportReport:
    """Writes a model for a runtime, loads it there and compares predictions.

    Masks are not exported: the file holds plain layers, with kernels that are
    exactly zero where the masks were; an ensemble is one graph. A file that
    cannot be loaded, that has lost zeros or that predicts something else is
    an error, and is not left behind.

    Args:
        model: A built Keras model: a `SparseModel`, what `strip` returned, an
            `EnsembleModel`, `MIMO`, a calibrated model, or any other.
        path: Path to write. It ends with `.keras`, `.tflite`, `.onnx` or
            `.xml` (OpenVINO, which writes a `.bin` file beside it); for a
            SavedModel it is a directory. `.tflite.zip` and `.onnx.zip` are
            archives that hold the file, to be unpacked on the device.
        format: `"keras"`, `"saved_model"`, `"litert"`, `"onnx"` or
            `"openvino"`. `None` (default) to tell by the ending of `path`.
        dtype: `"float32"` (default); `"float16"`, weights rounded to half
            precision; `"int8_dynamic"`, weights rounded to 8 bits; or
            `"int8"`, where activations are too.
        representative_data: Array of examples `(examples, ...)`, or a list or
            dict of arrays as the model has inputs. `"int8"` needs it, 100
            examples or more, to choose the ranges of activations. If given,
            predictions are compared on it (on the first 64 examples), else on
            random inputs.
        sparse: Whether to store zeros in little space where the format and
            its runtime can; the report's `note` says where they cannot.
        check: Whether to load the file and compare. A float is the largest
            `relative_difference` that is allowed, in place of 0.001 for
            float32, 0.05 for float16 and 0.5 for 8 bits.
        overwrite: Whether to replace what is at `path`.
        backend: `"tensorflow"` to convert in a process of its own that runs
            on TensorFlow, where Keras runs on a backend whose models cannot
            be converted; classes of your own are not known there. `None`
            (default) for this process.
        verbose: Whether to print the report.

    Returns:
        An `ExportReport`.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If an argument is not one of those above, the format does
            not have the dtype or is not written on this backend, `"int8"` has
            no representative data or it is of another shape, `path` has
            another ending or cannot be written, or the model is not built.
        FileExistsError: If there is something at `path`.
        ImportError: If a package of the format is not installed.
        RuntimeError: If the file cannot be written or loaded, or computes
            something else than the model.

    Example:

    ```python
    report = keras_freetickets.export(ensemble, "run/ensemble.onnx")
    print(report.bytes, report.dense_bytes, report.difference)
    ```
    """
    check_boolean("verbose", verbose)
    order = order_of(
        model,
        path,
        format,
        dtype,
        representative_data,
        sparse,
        check,
        overwrite,
        backend,
    )
    elsewhere = backend not in (None, keras.backend.backend())
    report = apart.produce(order, backend) if elsewhere else produce(order)
    if verbose:
        print(report)
    return report


def order_of(
    model: keras.Model,
    path: PathLike,
    format: str | None,
    dtype: str,
    representative_data: typing.Any = None,
    sparse: bool = True,
    check: bool | float = True,
    overwrite: bool = False,
    backend: str | None = None,
) -> Order:
    """What `export` is to do; arguments are its own, and checked."""
    path = _checked_path(path)
    kind = formats.get(_format_of(path) if format is None else format)
    _check_ending(path, kind)
    kind.check_dtype(dtype)
    check_boolean("sparse", sparse)
    check_boolean("overwrite", overwrite)
    limit = _limit(check, dtype)
    _check_built(model)
    if not _is_elsewhere(kind, backend):
        kind.check_installed(dtype)
    _check_place(path, kind, overwrite)
    plain = plain_model(model)
    specs = formats.specs_of(plain)
    samples = _samples(specs, representative_data)
    if not samples and kind.needs_data(dtype):
        raise ValueError(
            f"`representative_data` must be given for dtype={dtype!r}, whose "
            "ranges of activations are chosen by it; 'int8_dynamic' needs "
            "none. Received: representative_data=None"
        )
    examples, named = _examples(plain, samples)
    return Order(
        job=formats.Job(plain, specs, dtype, sparse, samples),
        network=plain if _is_one(model) else one_network(model),
        format=kind.name,
        path=path,
        limit=limit,
        examples=examples,
        # Predicted before it is written: Keras exports no subclass that was
        # never called.
        expected=outputs_of(model, specs, examples),
        inputs=named,
    )


def _checked_path(path: typing.Any) -> str:
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise ValueError(
            f"`path` must be a path to write. Received: path={path!r}"
        )
    return os.path.abspath(os.fspath(path))


def _format_of(path: str) -> str:
    """The format that the ending of a path tells."""
    for name in formats.names():
        ending = formats.get(name).ending
        if ending and path.removesuffix(ZIP).endswith(ending):
            return name
    if os.path.splitext(path)[1]:
        raise ValueError(
            "`format` must be given for a path that does not end as the files "
            f"of a format do, one of {formats.names()}. Received: "
            f"format=None, path={path}"
        )
    return "saved_model"


def _check_ending(path: str, kind: formats.Format) -> None:
    endings = [kind.ending, kind.ending + ZIP] if kind.zips else [kind.ending]
    if not path.endswith(tuple(endings)):
        raise ValueError(
            f"`path` must end with one of {endings} for the format "
            f"{kind.name!r}. Received: path={path}"
        )


def _limit(check: typing.Any, dtype: str) -> float | None:
    if isinstance(check, bool):
        return comparison.LIMITS[dtype] if check else None
    if not is_within(check, "(0, inf)"):
        raise ValueError(
            "`check` must be True, False or a positive number, the largest "
            f"relative difference. Received: check={check!r}"
        )
    return float(check)


def _check_built(model: typing.Any) -> None:
    check_model("model", model)
    if not model.built:
        raise ValueError(
            "`model` must be built: call it once, or begin it with "
            f"keras.Input. Received: model={model.name!r}"
        )


def _is_elsewhere(kind: formats.Format, backend: str | None) -> bool:
    """Whether another process is to convert; raises if one has to."""
    if backend is not None:
        check_choice("backend", backend, ["tensorflow"])
    own = keras.backend.backend()
    if backend not in (None, own):
        return True
    if own not in kind.backends:
        raise ValueError(
            f"`backend` must be 'tensorflow' for the format {kind.name!r}, "
            f"which is written on {' or '.join(kind.backends)}: the model is "
            "then converted in a process of its own. "
            f"Received: backend={backend!r}, where Keras runs on {own}"
        )
    return False


def _check_place(path: str, kind: formats.Format, overwrite: bool) -> None:
    """Raises unless the path is free and its folder can be written."""
    root = path.removesuffix(kind.ending)
    taken = [
        one
        for one in (path, *(root + ending for ending in kind.companions))
        if os.path.lexists(one)
    ]
    if taken and not overwrite:
        raise FileExistsError(
            "`path` must be free, or `overwrite` True. "
            f"Received: path={path}, where there is {taken[0]}"
        )
    for one in taken:
        served = os.path.exists(os.path.join(one, "saved_model.pb"))
        if served if kind.ending == "" else os.path.isfile(one):
            continue
        raise ValueError(
            "`path` must name an earlier export to be overwritten. "
            f"Received: path={path}, where there is something else"
        )
    # A directory that is not there yet is made when all else is done.
    folder = os.path.dirname(path)
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    writable = os.path.isdir(folder) and os.access(folder, os.W_OK)
    if not writable:
        raise ValueError(
            "`path` must be in a directory that can be written. "
            f"Received: path={path}"
        )


def _is_one(model: keras.Model) -> bool:
    """Whether the plain model is one network, not several."""
    return not hasattr(getattr(model, "model", model), "num_members")


def _samples(specs: typing.Any, given: typing.Any) -> list[Array]:
    """Representative data as a list of an array for each input."""
    if given is None:
        return []
    arrays = [np.asarray(one) for one in keras.tree.flatten(given)]
    expected = keras.tree.flatten(specs) if specs is not None else arrays
    shapes = [one.shape for one in arrays]
    wanted = [tuple(one.shape) for one in expected]
    fits = len(shapes) == len(wanted) and all(
        _fits(shape, like) for shape, like in zip(shapes, wanted, strict=True)
    )
    lengths = {shape[:1] for shape in shapes}
    if not fits or len(lengths) != 1 or 0 in lengths.pop():
        raise ValueError(
            "`representative_data` must hold one example or more for each of "
            f"the model's inputs, which have the shapes {wanted}. "
            f"Received: representative_data of the shapes {shapes}"
        )
    if specs is None:
        return arrays
    return [
        one.astype(spec.dtype)
        for one, spec in zip(arrays, expected, strict=True)
    ]


def _fits(shape: tuple, like: tuple) -> bool:
    return len(shape) == len(like) and all(
        wanted in (None, size)
        for size, wanted in zip(shape[1:], like[1:], strict=True)
    )


def _examples(
    plain: keras.Model, samples: list[Array]
) -> tuple[list[Array], str]:
    """What predictions are compared on, and what to call it."""
    if samples:
        return comparison.first_examples(samples), "representative data"
    if not getattr(plain, "inputs", None):
        raise ValueError(
            "`representative_data` must be given for a model without a graph "
            "of layers, whose inputs are not known. "
            f"Received: representative_data=None, model={plain.name!r}"
        )
    kinds = [tensor.dtype for tensor in plain.inputs]
    if "string" in kinds:
        raise ValueError(
            "`representative_data` must be given for inputs of strings. "
            f"Received: representative_data=None, inputs of {kinds}"
        )
    return comparison.random_inputs(plain), "random inputs"
