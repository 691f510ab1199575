"""LiteRT's (TensorFlow Lite's) flatbuffer."""

import math
import os
import tempfile
import typing
import warnings
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np

from keras_freetickets.deployment import formats
from keras_freetickets.deployment.arrays import is_kernel
from keras_freetickets.deployment.plain import unrolled
from keras_freetickets.deployment.saved_model import SavedModel
from keras_freetickets.optional import import_optional
from keras_freetickets.types import Array

_SIGNATURE = "serving_default"
_INT8 = (
    "zeros are stored like other values: LiteRT does not run 8 bits in its "
    "sparse layout; a path that ends with '.tflite.zip' compresses them"
)

_BLOCKS = (
    "zeros are stored like other values: LiteRT misreads the blocks in which "
    "a kernel would be stored"
)


@formats.register
class LiteRT(formats.Format):
    """A `.tflite` file, for LiteRT on phones, boards and computers.

    In float32 and float16 zeros are left out, by TensorFlow's experimental
    sparse layout. Not in 8 bits, where runtimes refuse that layout, and not
    where TensorFlow would store a kernel in blocks that its runtimes misread.
    """

    name = "litert"
    ending = ".tflite"
    zips = True
    packages = {"": ("tensorflow",)}
    unsparse = {"int8_dynamic": _INT8, "int8": _INT8}

    def write(self, job: formats.Job, path: str) -> str:
        sparse = job.sparse and job.dtype not in self.unsparse
        content = _converted(job, sparse)
        note = self.unsparse.get(job.dtype, "") if job.sparse else ""
        if _is_misread(content, job.dtype):
            content = _converted(job, sparse=False)
            note = _BLOCKS
        with open(path, "wb") as file:
            file.write(content)
        return note

    def read(self, path: str, specs: typing.Any) -> formats.Artifact:
        with open(path, "rb") as file:
            content = file.read()
        kind, runtime = interpreter()
        with warnings.catch_warnings():
            # TensorFlow advises the other package whenever it is used.
            warnings.filterwarnings("ignore", r"\s*Warning: tf.lite.Interp")
            runner = kind(model_content=content)
        signature = runner.get_signature_runner(_SIGNATURE)
        keys = list(signature.get_input_details())

        def predict(inputs: Sequence[Array]) -> list[Array]:
            given = formats.by_name(keys, specs, inputs)
            found = signature(**dict(zip(keys, given, strict=True)))
            return [found[name] for name in sorted(found, key=_place)]

        counts = list(_counts(content))
        return formats.Artifact(
            predict,
            sum(zeros for zeros, _ in counts),
            sum(size for _, size in counts),
            runtime,
        )


def _place(name: str) -> tuple[str, int]:
    """Sorts "output_2" before "output_10", and the keys of a dict by name."""
    root, _, number = name.rpartition("_")
    if root == "output" and number.isdigit():
        return root, int(number)
    return name, 0


def interpreter() -> tuple[typing.Any, str]:
    """The class that runs LiteRT models, and the package it is of.

    Returns:
        Tuple of a class and a string: of the package `ai_edge_litert` if it
        is installed, else of TensorFlow.
    """
    try:
        module = import_optional("ai_edge_litert.interpreter")
        version = import_optional("ai_edge_litert").__version__
        return module.Interpreter, f"ai-edge-litert {version}"
    except ImportError:
        tf = import_optional("tensorflow")
        return tf.lite.Interpreter, f"tensorflow.lite {tf.__version__}"


def _converted(job: formats.Job, sparse: bool) -> bytes:
    tf = import_optional("tensorflow")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model")
        model = unrolled(job.model)
        SavedModel().write(formats.Job(model, job.specs), path)
        converter = tf.lite.TFLiteConverter.from_saved_model(path)
        optimizations = []
        if job.dtype != "float32":
            optimizations.append(tf.lite.Optimize.DEFAULT)
        if sparse:
            optimizations.append(tf.lite.Optimize.EXPERIMENTAL_SPARSITY)
        converter.optimizations = optimizations
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.TFLITE_BUILTINS,
            tf.lite.OpsSet.SELECT_TF_OPS,
        ]
        if job.dtype == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if job.dtype == "int8":
            converter.representative_dataset = lambda: _examples(job)
            converter.target_spec.supported_ops = [
                tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
                tf.lite.OpsSet.TFLITE_BUILTINS,
            ]
        return converter.convert()


def _examples(job: formats.Job) -> Iterator[list[Array]]:
    """Representative examples, one at a time."""
    for i in range(len(job.samples[0])):
        yield [one[i : i + 1] for one in job.samples]


def _tensors(content: bytes) -> Iterator[tuple[typing.Any, Array]]:
    """The tensors of a flatbuffer that hold values, and these."""
    schema = import_optional("tensorflow.lite.python.schema_py_generated")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            if data is not None and len(data) and tensor.shape is not None:
                yield tensor, np.asarray(data, "uint8")


def _is_misread(content: bytes, dtype: str) -> bool:
    """Whether a kernel is stored in blocks that a runtime reads wrongly.

    TensorFlow 2.21 stores a kernel in blocks of 4 or 16 inputs if enough of
    these are zero. Inputs beyond the last whole block are lost, and blocks of
    float16 are read as if they were of float32.
    """
    for tensor, _ in _tensors(content):
        blocks = tensor.sparsity.blockMap if tensor.sparsity else None
        if blocks is None or not len(blocks):
            continue
        sizes = tensor.sparsity.dimMetadata[len(tensor.shape) :]
        whole = all(
            tensor.shape[axis] % part.denseSize == 0
            for axis, part in zip(blocks, sizes, strict=True)
        )
        if not whole or dtype == "float16":
            return True
    return False


def _counts(content: bytes) -> Iterator[tuple[int, int]]:
    """Zeros and size of each constant that is a kernel."""
    schema = import_optional("tensorflow.lite.python.schema_py_generated")
    types = {
        schema.TensorType.FLOAT32: "float32",
        schema.TensorType.FLOAT16: "float16",
        schema.TensorType.INT8: "int8",
    }
    for tensor, data in _tensors(content):
        if not is_kernel(tensor.shape) or tensor.type not in types:
            continue
        values = data.view(types[tensor.type])
        size = math.prod(tensor.shape)
        yield size - int(np.count_nonzero(values)), size
