"""The `.keras` file, with weights that are compressed."""

import json
import os
import typing
import zipfile
from collections.abc import Sequence

import h5py
import keras

from keras_freetickets.deployment import formats
from keras_freetickets.deployment.arrays import zeros_and_size
from keras_freetickets.deployment.plain import kernels_of
from keras_freetickets.deployment.plain import outputs_of
from keras_freetickets.deployment.plain import quantized
from keras_freetickets.packed_values import halved
from keras_freetickets.types import Array

_WEIGHTS, _CONFIG = "model.weights.h5", "config.json"
# Below it what HDF5 adds for a compressed array is more than it saves.
_LEAST_BYTES = 512


@formats.register
class KerasFile(formats.Format):
    """A whole model for Keras, of plain layers.

    The weights are compressed within their HDF5 file, which Keras reads as
    any other. Half precision is that of the file: variables keep their dtype.
    """

    name = "keras"
    ending = ".keras"
    dtypes = ("float32", "float16", "int8_dynamic")
    refused = {"int8": "Keras quantizes what layers are given as it comes"}
    backends = ("tensorflow", "jax", "torch")

    def write(self, job: formats.Job, path: str) -> str:
        model = job.model
        if job.dtype == "int8_dynamic":
            model = quantized(model)
        model.save(path)
        half, compiled = (
            job.dtype == "float16",
            getattr(model, "compiled", False),
        )
        if job.sparse or half or compiled:
            _rewrite(path, job.sparse, half)
        return ""

    def read(self, path: str, specs: typing.Any) -> formats.Artifact:
        model = keras.models.load_model(path)

        def predict(inputs: Sequence[Array]) -> list[Array]:
            return outputs_of(model, specs, inputs)

        return formats.Artifact(
            predict,
            *zeros_and_size(kernels_of(model)),
            f"keras {keras.__version__}, {keras.backend.backend()}",
        )


def _rewrite(path: str, compress: bool, half: bool) -> None:
    """Stores a `.keras` file again: in less space, and without optimizer."""
    folder = os.path.dirname(path)
    source, target = (os.path.join(folder, n) for n in ("old.h5", "new.h5"))
    with zipfile.ZipFile(path) as archive:
        parts = {n: archive.read(n) for n in archive.namelist()}
    config = json.loads(parts[_CONFIG])
    config.pop("compile_config", None)
    parts[_CONFIG] = json.dumps(config).encode()
    with open(source, "wb") as file:
        file.write(parts[_WEIGHTS])
    with h5py.File(source, "r+") as old, h5py.File(target, "w") as new:
        if "optimizer" in old:
            del old["optimizer"]
        _copy(old, new, compress, half)
    with open(target, "rb") as file:
        parts[_WEIGHTS] = file.read()
    os.remove(source)
    os.remove(target)
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def _copy(old: h5py.Group, new: h5py.Group, compress: bool, half: bool) -> None:
    """Copies a group of an HDF5 file with all that is in it."""
    for key, value in old.attrs.items():
        new.attrs[key] = value
    for name, item in old.items():
        if isinstance(item, h5py.Group):
            _copy(item, new.create_group(name), compress, half)
            continue
        values = item[()]
        if half:
            values = halved(values, item.name)
        settings = {}
        if compress and values.nbytes > _LEAST_BYTES:
            # Without a shuffle of bytes: between zeros it costs a third more.
            settings = {"compression": "gzip", "compression_opts": 9}
        copy = new.create_dataset(name, data=values, **settings)
        for key, value in item.attrs.items():
            copy.attrs[key] = value
