"""OpenVINO's intermediate representation: an `.xml` and a `.bin` file."""

import os
import tempfile
import typing
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np

from keras_freetickets.deployment import formats
from keras_freetickets.deployment.arrays import is_kernel
from keras_freetickets.deployment.arrays import zeros_and_size
from keras_freetickets.deployment.plain import unrolled
from keras_freetickets.optional import import_optional
from keras_freetickets.types import Array

# By default OpenVINO computes in bfloat16 where the processor can.
_SETTINGS = {"INFERENCE_PRECISION_HINT": "f32"}
_CONSTANTS = ("f32", "f16", "i8")


@formats.register
class OpenVINO(formats.Format):
    """An `.xml` file and, beside it, a `.bin` file, for OpenVINO.

    8 bits are NNCF's: `int8_dynamic` compresses weights alone, `int8`
    quantizes activations too.
    """

    name = "openvino"
    ending = ".xml"
    companions = (".bin",)
    packages = {
        "": ("tensorflow", "openvino"),
        "int8_dynamic": ("nncf",),
        "int8": ("nncf",),
    }
    unsparse = dict.fromkeys(
        formats.DTYPES,
        "zeros are stored like other values: constants are dense arrays",
    )

    def write(self, job: formats.Job, path: str) -> str:
        openvino = import_optional("openvino")
        with tempfile.TemporaryDirectory() as folder:
            # Not at `path`: a file that is mapped cannot be written again.
            exported = os.path.join(folder, "model.xml")
            unrolled(job.model).export(
                exported,
                format="openvino",
                verbose=False,
                input_signature=job.signature,
            )
            model = openvino.Core().read_model(exported)
            _name_outputs(model, formats.output_names(job.model))
            if job.dtype == "int8_dynamic":
                model = _compressed(model)
            elif job.dtype == "int8":
                model = _quantized(job, model)
            half = job.dtype == "float16"
            openvino.save_model(model, path, compress_to_fp16=half)
        return self.unsparse[job.dtype] if job.sparse else ""

    def read(self, path: str, specs: typing.Any) -> formats.Artifact:
        openvino = import_optional("openvino")
        core = openvino.Core()
        model = core.read_model(path)
        compiled = core.compile_model(model, "CPU", _SETTINGS)

        def predict(inputs: Sequence[Array]) -> list[Array]:
            keys = [one.get_any_name() for one in compiled.inputs]
            given = formats.by_name(keys, specs, inputs)
            found = compiled(given)
            return [found[output] for output in compiled.outputs]

        return formats.Artifact(
            predict,
            *zeros_and_size(_kernels(model)),
            f"openvino {openvino.__version__.partition('-')[0]}",
        )


def _name_outputs(model: typing.Any, names: list[str]) -> None:
    """Names the outputs of the function that was converted.

    The conversion makes outputs of what nothing reads, too: these go, if it
    is known which they are. What a function returns is "Identity:0",
    "Identity_1:0", ....
    """
    ends = [f"Identity_{i}:0" if i else "Identity:0" for i in range(len(names))]
    by_end = {
        end: output
        for output in model.outputs
        for end in output.get_names()
        if end in ends
    }
    found = [by_end[end] for end in ends if end in by_end]
    if len(found) < len(names) == len(model.outputs):
        found = list(model.outputs)
    if len(found) != len(names):
        return
    for output in list(model.outputs):
        if output not in found:
            model.remove_result(output.get_node())
    for name, output in zip(names, found, strict=True):
        output.tensor.add_names({name})


def _compressed(model: typing.Any) -> typing.Any:
    nncf = import_optional("nncf")
    mode = nncf.CompressWeightsMode.INT8_SYM  # so that zeros stay zeros
    return nncf.compress_weights(model, mode=mode)


def _quantized(job: formats.Job, model: typing.Any) -> typing.Any:
    nncf = import_optional("nncf")
    keys = [one.get_any_name() for one in model.inputs]
    given = formats.by_name(keys, job.specs, job.samples)
    rows = [[one[i : i + 1] for one in given] for i in range(len(given[0]))]
    data = nncf.Dataset(rows, lambda row: dict(zip(keys, row, strict=True)))
    return nncf.quantize(model, data, subset_size=len(rows))


def _kernels(model: typing.Any) -> Iterator[Array]:
    """The constants that are kernels."""
    for node in model.get_ops():
        if node.get_type_name() != "Constant":
            continue
        kind = node.get_element_type().get_type_name()
        if kind in _CONSTANTS and is_kernel(node.shape):
            yield np.asarray(node.data)
