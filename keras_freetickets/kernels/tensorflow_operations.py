"""Functions that numba compiled, as operations of TensorFlow's graphs.

TensorFlow's C interface registers an operation and its kernel at run time. A
call takes no Python and no GIL, and its memory is TensorFlow's.
"""

import ctypes
import functools
import os
import typing
from collections.abc import Sequence

from keras_freetickets.optional import import_optional
from keras_freetickets.optional import tensorflow as tf
from keras_freetickets.types import Tensor

# TF_FLOAT, TF_INT32, TF_UINT16, TF_INVALID_ARGUMENT of TensorFlow's
# C interface.
FLOAT32, INT32, UINT16, INVALID_ARGUMENT = 1, 3, 17, 3
_kept: list[typing.Any] = []  # what TensorFlow holds addresses of


def call(
    name: str, tensors: Sequence[typing.Any], kinds: Sequence[str]
) -> list[Tensor]:
    """Calls a registered operation.

    Args:
        name: String.
        tensors: List of what it takes.
        kinds: List of the dtypes of what it returns.
    """
    tensors = [tf.convert_to_tensor(one) for one in tensors]
    if tf.executing_eagerly():
        specs = tuple((one.dtype, one.shape.rank) for one in tensors)
        return list(_in_a_graph(name, tuple(kinds), specs)(*tensors))
    graph = tf.compat.v1.get_default_graph()
    dtypes = [tf.as_dtype(kind) for kind in kinds]
    # XLA refuses it by its name.
    return graph.create_op(name, tensors, dtypes, name=name).outputs


@functools.cache
def _in_a_graph(
    name: str, kinds: tuple[str, ...], specs: tuple[tuple[typing.Any, int], ...]
) -> typing.Callable:
    """An operation for eager calls, which know no operation by its name.

    It is a concrete function: of what is only traced at a call,
    `tf.config.run_functions_eagerly` makes eager calls again.
    """

    def run(*tensors):
        return call(name, tensors, kinds)

    return tf.function(run, autograph=False).get_concrete_function(
        *[tf.TensorSpec([None] * rank, dtype) for dtype, rank in specs]
    )


@functools.cache
def library() -> typing.Any:
    """TensorFlow's C interface, with the types of what is called."""
    folder = os.path.dirname(import_optional("tensorflow").__file__)
    library = ctypes.CDLL(os.path.join(folder, "libtensorflow_framework.so.2"))
    address, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    signatures: dict[str, list] = {
        "TF_NewStatus": [address],
        "TF_DeleteStatus": [None, address],
        "TF_GetCode": [number, address],
        "TF_Message": [text, address],
        "TF_NewOpDefinitionBuilder": [address, text],
        "TF_OpDefinitionBuilderAddInput": [None, address, text],
        "TF_OpDefinitionBuilderAddOutput": [None, address, text],
        "TF_OpDefinitionBuilderSetShapeInferenceFunction": [
            None,
            address,
            address,
        ],
        "TF_RegisterOpDefinition": [None, address, address],
        "TF_NewKernelBuilder": [address, text, text, *[address] * 3],
        "TF_RegisterKernelBuilder": [None, text, address, address],
    }
    for name, (result, *arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Registration:
    """An operation that TensorFlow gets to know.

    Args:
        name: String.
        inputs: List of the dtypes of its inputs.
        outputs: List of the dtypes of its outputs.
    """

    def __init__(
        self, name: str, inputs: Sequence[str], outputs: Sequence[str]
    ) -> None:
        self.name = name.encode()
        use = self.library = library()
        builder = use.TF_NewOpDefinitionBuilder(self.name)
        for i, kind in enumerate(inputs):
            one = f"input_{i}: {_in_definitions(kind)}".encode()
            use.TF_OpDefinitionBuilderAddInput(builder, one)
        for i, kind in enumerate(outputs):
            one = f"output_{i}: {_in_definitions(kind)}".encode()
            use.TF_OpDefinitionBuilderAddOutput(builder, one)
        self._checked(use.TF_RegisterOpDefinition, builder)

    def add(self, kernel: typing.Any) -> None:
        """Registers its kernel for processors.

        Args:
            kernel: A function compiled by `numba.cfunc`.
        """
        _kept.append(kernel)
        builder = self.library.TF_NewKernelBuilder(
            self.name, b"CPU", None, kernel.address, None
        )
        self._checked(self.library.TF_RegisterKernelBuilder, self.name, builder)

    def _checked(self, function, *arguments):
        status = self.library.TF_NewStatus()
        function(*arguments, status)
        code = self.library.TF_GetCode(status)
        message = self.library.TF_Message(status).decode()
        self.library.TF_DeleteStatus(status)
        if code:
            raise RuntimeError(
                f"TensorFlow does not take the operation: {message} "
                f"Received: name={self.name.decode()!r}"
            )


def _in_definitions(kind: str) -> str:
    """A dtype as TensorFlow's definitions of operations name it."""
    return "float" if kind == "float32" else kind
