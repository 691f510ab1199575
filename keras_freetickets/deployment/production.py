"""Writes a file where nothing half done is seen, loads it and compares."""

import contextlib
import dataclasses
import os
import tempfile
import zipfile
from collections.abc import Iterator
from collections.abc import Sequence

from keras import ops

from keras_freetickets.deployment import comparison
from keras_freetickets.deployment import formats
from keras_freetickets.deployment.arrays import zeros_and_size
from keras_freetickets.deployment.plain import kernels_of
from keras_freetickets.deployment.report import ExportReport
from keras_freetickets.files import atomic_path
from keras_freetickets.packed_values import halved
from keras_freetickets.types import Array
from keras_freetickets.types import Model

ZIP = ".zip"
# How much of the share of zeros a file may lack: it holds more than kernels.
_SLACK = 0.02


@dataclasses.dataclass
class Order:
    """What is to be written, and what it is to predict.

    Attributes:
        job: `Job` of the model.
        network: Plain Keras model, one network of it, to compare sizes with.
        format: String, name of a format.
        path: Path that ends as the format's files do, or also with ".zip".
        limit: Float, the largest relative difference, `None` not to check.
        examples: List of an array for each input, to compare on.
        expected: List of what the model predicts for these.
        inputs: String, what the examples are.
        writer: What writes the file, if not the format itself.
    """

    job: formats.Job
    network: Model
    format: str
    path: str
    limit: float | None
    examples: Sequence[Array]
    expected: Sequence[Array]
    inputs: str
    writer: formats.Format | None = None

    @property
    def kind(self) -> formats.Format:
        """The format."""
        return formats.get(self.format)


def produce(order: Order) -> ExportReport:
    """Writes and checks a file; nothing is left of one that is wrong.

    Args:
        order: An `Order`.

    Returns:
        An `ExportReport`.

    Raises:
        ValueError: If a weight does not fit into half precision.
        RuntimeError: If the file cannot be written or loaded, has lost zeros,
            or predicts something else than the model.
    """
    kind = order.kind
    if order.job.dtype == "float16":
        for weight in order.job.model.weights:
            # Converters would write infinity.
            halved(ops.convert_to_numpy(weight.value), weight.path)
    # Of before it is written, lest what writes changes it.
    zeros, size = zeros_and_size(kernels_of(order.job.model))
    with _placed(order) as temporary:
        writer = order.writer or kind
        note = _write(order, writer, order.job, temporary)
        report = ExportReport(
            path=order.path,
            format=order.format,
            dtype=order.job.dtype,
            bytes=_size(temporary, kind),
            zeros=None,
            difference=None,
            relative_difference=None,
            inputs=None,
            runtime=None,
            dense_bytes=_dense_bytes(order),
            note=note,
        )
        if order.limit is not None:
            _check(order, order.limit, temporary, report)
            _check_zeros(order, report, zeros / max(1, size))
        if order.path.endswith(ZIP):
            report.bytes = _zip(temporary, kind)
    return report


@contextlib.contextmanager
def _placed(order: Order) -> Iterator[str]:
    """A path whose files appear at the order's path when all is done."""
    root = os.path.basename(order.path).removesuffix(order.kind.ending)
    beside = [root + ending for ending in order.kind.companions]
    with atomic_path(order.path, beside) as temporary:
        yield temporary.removesuffix(ZIP)


def _zip(path: str, kind: formats.Format) -> int:
    """Puts a file into an archive beside it; returns the archive's size."""
    with zipfile.ZipFile(
        path + ZIP, "w", zipfile.ZIP_DEFLATED, compresslevel=9
    ) as archive:
        archive.write(path, os.path.basename(path))
    os.remove(path)
    return os.path.getsize(path + ZIP)


def _size(path: str, kind: formats.Format) -> int:
    """Bytes of all files of an export."""
    if os.path.isdir(path):
        return sum(
            os.path.getsize(os.path.join(root, name))
            for root, _, names in os.walk(path)
            for name in names
        )
    beside = [path.removesuffix(kind.ending) + one for one in kind.companions]
    return sum(os.path.getsize(one) for one in (path, *beside))


def _write(
    order: Order, writer: formats.Format, job: formats.Job, path: str
) -> str:
    try:
        return writer.write(job, path)
    except (ValueError, ImportError):
        raise
    except Exception as error:
        raise RuntimeError(
            f"The converter of the format {order.format!r} failed for model "
            f"{job.model.name!r} and dtype {job.dtype!r}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _dense_bytes(order: Order) -> int:
    """The size of one network, written as it was dense."""
    job = dataclasses.replace(order.job, model=order.network, sparse=False)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "dense" + order.kind.ending)
        _write(order, order.kind, job, path)
        return _size(path, order.kind)


def _check(order: Order, limit: float, path: str, report: ExportReport) -> None:
    """Loads a file and compares it; adds what was found to the report."""
    try:
        artifact = order.kind.read(path, order.job.specs)
        found = artifact.predict(order.examples)
    except Exception as error:
        raise RuntimeError(
            f"The {order.format!r} file of model {order.job.model.name!r} is "
            "not left behind, as its runtime cannot run it: "
            f"{type(error).__name__}: {error}"
        ) from error
    try:
        off = comparison.difference(found, order.expected, order.job.dtype)
    except ValueError as error:
        raise RuntimeError(
            f"The {order.format!r} file of model {order.job.model.name!r} is "
            f"not left behind: {error}"
        ) from error
    report.difference = off.largest
    report.relative_difference = off.relative
    report.inputs = order.inputs
    report.runtime = artifact.runtime
    # Written so that NaN fails the check.
    if not off.relative <= limit:
        raise RuntimeError(
            f"The {order.format!r} file of model {order.job.model.name!r} is "
            "not left behind, as it predicts something else than the model. "
            f"Received: a relative difference of {off.relative:.3g} on "
            f"{order.inputs}, where check={limit:g} is allowed "
            f"(largest difference {off.largest:.3g}, {artifact.runtime})"
        )
    if artifact.weights:
        report.zeros = artifact.zeros / artifact.weights


def _check_zeros(order: Order, report: ExportReport, wanted: float) -> None:
    if report.zeros is not None and report.zeros < wanted - _SLACK:
        raise RuntimeError(
            f"The {order.format!r} file of model {order.job.model.name!r} is "
            "not left behind, as zeros were lost. Received: a share of "
            f"{report.zeros:.4f} zeros, for {wanted:.4f} in the model"
        )
