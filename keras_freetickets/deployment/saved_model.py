"""TensorFlow's SavedModel, with each weight in it once."""

import functools
import os
import typing
from collections.abc import Callable
from collections.abc import Sequence

import keras
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.deployment import formats
from keras_freetickets.deployment.arrays import is_kernel
from keras_freetickets.deployment.arrays import zeros_and_size
from keras_freetickets.deployment.plain import quantized
from keras_freetickets.optional import import_optional
from keras_freetickets.packed_values import halved
from keras_freetickets.types import Array
from keras_freetickets.types import Tensor

ENDPOINT = "serve"
# Where Keras' archive keeps the variables that its endpoints use.
_CHECKPOINT = "variables/variables"


@formats.register
class SavedModel(formats.Format):
    """A directory for TensorFlow and TensorFlow Serving.

    Its signatures are `serve` and `serving_default`. `keras.Model.export`
    hands its model to `ExportArchive.track`, which lists all variables, and
    the archive lists those that the endpoints use once more: the file then
    holds each twice. Here nothing is handed to `track` but models with lookup
    tables, so that there is one list.
    """

    name = "saved_model"
    ending = ""
    dtypes = ("float32", "float16", "int8_dynamic")
    refused = {"int8": "SavedModels have no activations in 8 bits"}
    backends = ("tensorflow", "jax")
    packages = {"": ("tensorflow",)}
    unsparse = dict.fromkeys(
        ("float32", "float16", "int8_dynamic"),
        "zeros are stored like other values: variables are dense arrays",
    )

    def write(self, job: formats.Job, path: str) -> str:
        model = job.model
        if job.dtype == "int8_dynamic":
            model = quantized(model)
        archive = keras.export.ExportArchive()
        backend = keras.backend.backend()
        if backend != "tensorflow" or _has_tables(model):
            archive.track(model)
        function: Callable = functools.partial(model.__call__, training=False)
        if job.dtype == "float16":
            if backend != "tensorflow":
                raise ValueError(
                    "`dtype='float16'` of a SavedModel is written on "
                    "TensorFlow: pass `backend='tensorflow'`. "
                    f"Received: dtype='float16' on {backend}"
                )
            function = _in_half_precision(model)
        archive.add_endpoint(ENDPOINT, function, job.signature)
        archive.write_out(path, verbose=False)
        return self.unsparse[job.dtype] if job.sparse else ""

    def read(self, path: str, specs: typing.Any) -> formats.Artifact:
        tf = import_optional("tensorflow")
        loaded = tf.saved_model.load(path)

        def predict(inputs: Sequence[Array]) -> list[Array]:
            tensors = [tf.constant(one) for one in inputs]
            packed = tensors[0]
            if specs is not None:
                packed = keras.tree.pack_sequence_as(specs, tensors)
            found = keras.tree.flatten(getattr(loaded, ENDPOINT)(packed))
            return [one.numpy() for one in found]

        variables = tf.train.load_checkpoint(os.path.join(path, _CHECKPOINT))
        kernels = [
            variables.get_tensor(name)
            for name, shape in variables.get_variable_to_shape_map().items()
            if is_kernel(shape)
        ]
        return formats.Artifact(
            predict,
            *zeros_and_size(kernels),
            f"tensorflow {tf.__version__}",
        )


def _has_tables(model: keras.Model) -> bool:
    parts = keras_adapter.sublayers(model)
    return any(hasattr(part, "save_assets") for part in parts)


def _in_half_precision(model: keras.Model) -> Callable:
    """The model as a function that reads variables of half precision."""
    tf = import_optional("tensorflow")
    groups = model.trainable_variables, model.non_trainable_variables
    stored = [
        [
            tf.Variable(halved(ops.convert_to_numpy(v.value), v.path))
            for v in group
        ]
        for group in groups
    ]

    def call(inputs: Tensor) -> typing.Any:
        values = [
            [
                tf.cast(half, variable.dtype)
                for half, variable in zip(halves, group, strict=True)
            ]
            for halves, group in zip(stored, groups, strict=True)
        ]
        outputs, _ = model.stateless_call(*values, inputs, training=False)
        return outputs

    return call
