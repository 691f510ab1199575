"""ONNX, for ONNX Runtime and other runtimes."""

import math
import os
import tempfile
import typing
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np

from keras_freetickets.deployment import formats
from keras_freetickets.deployment.arrays import is_kernel
from keras_freetickets.deployment.arrays import zeros_and_size
from keras_freetickets.optional import import_optional
from keras_freetickets.packed_values import halved
from keras_freetickets.types import Array

_INT8 = (
    "zeros are stored like other values: with each of the rest goes an index "
    "of 8 bytes; a path that ends with '.onnx.zip' compresses them"
)
_INDEX_BYTES = 8
_OPSET = 17


@formats.register
class ONNX(formats.Format):
    """An `.onnx` file.

    Weights of which few are not zero are `sparse_initializer`s, with indices
    of 64 bits, as onnx.checker demands. Of what reads ONNX files, OpenVINO,
    onnx's reference evaluator and version converter and ONNX Runtime's
    quantizer do not know them: pass `sparse=False` for these.
    """

    name = "onnx"
    ending = ".onnx"
    zips = True
    packages = {"": ("tensorflow", "onnx", "tf2onnx", "onnxruntime")}
    unsparse = {"int8_dynamic": _INT8, "int8": _INT8}

    def write(self, job: formats.Job, path: str) -> str:
        onnx = import_optional("onnx")
        with tempfile.TemporaryDirectory() as folder:
            dense = os.path.join(folder, "dense.onnx")
            _convert(job, dense)
            if job.dtype.startswith("int8"):
                dense = _quantized(job, dense, folder)
            model = onnx.load(dense)
        if job.dtype == "float16":
            _halve(model)
        # Last, as little else reads it.
        if job.sparse and job.dtype not in self.unsparse:
            _sparsify(model)
        onnx.checker.check_model(model)
        onnx.save(model, path)
        return self.unsparse.get(job.dtype, "") if job.sparse else ""

    def read(self, path: str, specs: typing.Any) -> formats.Artifact:
        runtime = import_optional("onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        session = runtime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )

        def predict(inputs: Sequence[Array]) -> list[Array]:
            keys = [one.name for one in session.get_inputs()]
            given = formats.by_name(keys, specs, inputs)
            return session.run(None, dict(zip(keys, given, strict=True)))

        return formats.Artifact(
            predict,
            *_zeros_and_size(import_optional("onnx").load(path)),
            f"onnxruntime {runtime.__version__}",
        )


def _convert(job: formats.Job, path: str) -> None:
    onnx = import_optional("onnx")
    job.model.export(
        path,
        format="onnx",
        verbose=False,
        input_signature=job.signature,
        opset_version=_OPSET,
    )
    model = onnx.load(path)
    _name_outputs(model, formats.output_names(job.model))
    onnx.save(model, path)


def _name_outputs(model: typing.Any, names: list[str]) -> None:
    """Names outputs instead of "Identity:0", "Identity_1:0", ...."""
    # A model without a graph may return several after all.
    if len(names) != len(model.graph.output):
        names = [f"output_{i}" for i in range(len(model.graph.output))]
    for name, output in zip(names, model.graph.output, strict=True):
        for node in model.graph.node:
            for names in (node.input, node.output):
                for j, one in enumerate(names):
                    if one == output.name:
                        names[j] = name
        output.name = name


def _quantized(job: formats.Job, path: str, folder: str) -> str:
    """Quantizes a file; returns the path of the result."""
    tools = import_optional("onnxruntime.quantization")
    shape = import_optional("onnxruntime.quantization.shape_inference")
    prepared = os.path.join(folder, "prepared.onnx")
    # Symbolic shapes would need another package.
    shape.quant_pre_process(path, prepared, skip_symbolic_shape=True)
    result = os.path.join(folder, "quantized.onnx")
    # Symmetric, so that zeros stay zeros.
    settings = {
        "per_channel": True,
        "weight_type": tools.QuantType.QInt8,
        "extra_options": {"WeightSymmetric": True},
    }
    if job.dtype == "int8_dynamic":
        tools.quantize_dynamic(prepared, result, **settings)
    else:
        reader = _reader(job, import_optional("onnx").load(prepared))
        tools.quantize_static(prepared, result, reader, **settings)
    return result


def _reader(job: formats.Job, model: typing.Any) -> typing.Any:
    """ONNX Runtime's calibration reader over the representative examples."""
    tools = import_optional("onnxruntime.quantization")
    keys = [one.name for one in model.graph.input]
    given = formats.by_name(keys, job.specs, job.samples)
    rows = iter(
        dict(zip(keys, (one[i : i + 1] for one in given), strict=True))
        for i in range(len(given[0]))
    )

    base: typing.Any = tools.CalibrationDataReader

    class Reader(base):
        def get_next(self) -> dict[str, Array] | None:
            return next(rows, None)

    return Reader()


def _kernels(model: typing.Any) -> Iterator[tuple[typing.Any, Array]]:
    """The stored arrays that are kernels, and their values."""
    helper = import_optional("onnx.numpy_helper")
    for initializer in model.graph.initializer:
        if is_kernel(initializer.dims):
            yield initializer, helper.to_array(initializer)


def _halve(model: typing.Any) -> None:
    """Stores float32 kernels in half precision, and casts them when read."""
    onnx = import_optional("onnx")
    casts = []
    for initializer, values in list(_kernels(model)):
        if values.dtype != np.float32:
            continue
        name = initializer.name
        half = onnx.numpy_helper.from_array(
            halved(values, name), name=f"{name}_float16"
        )
        initializer.CopyFrom(half)
        casts.append(
            onnx.helper.make_node(
                "Cast", [half.name], [name], to=onnx.TensorProto.FLOAT
            )
        )
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)


def _sparsify(model: typing.Any) -> None:
    """Stores kernels as sparse initializers where that is smaller."""
    onnx = import_optional("onnx")
    for initializer, values in list(_kernels(model)):
        flat = values.reshape(-1)
        places = np.flatnonzero(flat)
        size = flat.dtype.itemsize
        if len(places) * (size + _INDEX_BYTES) >= flat.size * size:
            continue
        name = initializer.name
        sparse = onnx.helper.make_sparse_tensor(
            onnx.numpy_helper.from_array(flat[places], name=name),
            onnx.numpy_helper.from_array(
                places.astype("int64"), name=f"{name}_indices"
            ),
            list(values.shape),
        )
        model.graph.initializer.remove(initializer)
        model.graph.sparse_initializer.append(sparse)


def _zeros_and_size(model: typing.Any) -> tuple[int, int]:
    zeros, size = zeros_and_size(
        values
        for _, values in _kernels(model)
        if values.dtype.kind == "f" or values.dtype == np.int8
    )
    for sparse in model.graph.sparse_initializer:
        size += math.prod(sparse.dims)
        zeros += math.prod(sparse.dims) - sparse.values.dims[0]
    return zeros, size
