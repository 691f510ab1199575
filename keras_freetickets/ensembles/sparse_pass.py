"""All members of compressed layers as one sparse network, on TensorFlow."""

import threading
import typing
from collections.abc import Callable

import keras
import numpy as np

from keras_freetickets import keras_adapter
from keras_freetickets.layers.compressed import Compressed
from keras_freetickets.optional import tensorflow as tf
from keras_freetickets.serving.networks import Network
from keras_freetickets.serving.networks import network_of
from keras_freetickets.types import Tensor


class SparsePass:
    """Computes what all members return, by one call of the kernels.

    It serves networks that `serving` can compute, of which one or more layers
    are compressed, with TensorFlow. Elsewhere each member is computed by its
    own graph: on JAX a program takes the weights as arguments, which this
    would not see.

    Args:
        graph: A Keras model, the members' graph.
        config: Serialized member.
        num_members: Positive integer.
        arrays: Function that returns a dict of arrays `(members, ...)` by the
            path of their variable.

    Attributes:
        is_compressed: Whether a layer of the graph is compressed.
    """

    def __init__(
        self,
        graph: keras.Model,
        config: dict[str, typing.Any],
        num_members: int,
        arrays: Callable[[], dict[str, np.ndarray]],
    ) -> None:
        compressed = any(
            isinstance(layer, Compressed)
            for layer in keras_adapter.sublayers(graph)
        )
        self.is_compressed = compressed
        self._may_serve = compressed and (
            keras.backend.backend() == "tensorflow"
        )
        self._config = config
        self._num_members = num_members
        self._arrays = arrays
        self._shape: tuple[int, ...] = ()
        self._network: Network | None = None
        self._is_old = True
        self._lock = threading.Lock()

    def outdate(self) -> None:
        """Says that a weight has changed."""
        self._is_old = True

    def refresh(self) -> None:
        """Takes over the weights. Not while a program is being traced."""
        if not self._may_serve:
            return
        with self._lock:
            if not self._is_old:
                return
            self._is_old = False  # before they are read: they may change again
            try:
                self._shape, self._network = network_of(
                    self._config, self._arrays(), self._num_members
                )
            except ValueError:  # a layer that only Keras computes
                self._may_serve = False

    def serves(self, inputs: typing.Any) -> bool:
        """Whether `outputs` can be called.

        Args:
            inputs: A batch of inputs.
        """
        return (
            self._network is not None
            and len(keras.tree.flatten(inputs)) == 1
            and tuple(keras.tree.flatten(inputs)[0].shape[1:]) == self._shape
            and not keras_adapter.in_stateless_scope()
        )

    def outputs(self, inputs: typing.Any) -> Tensor:
        """What all members return, `(members, batch, outputs)`.

        Args:
            inputs: A batch of inputs.
        """
        (x,) = keras.tree.flatten(inputs)
        network = typing.cast(Network, self._network)

        def run(x: np.ndarray) -> np.ndarray:
            self.refresh()
            network = typing.cast(Network, self._network)
            return network.predict_members(x)

        batch = x.shape[0]
        x = tf.reshape(tf.cast(x, tf.float32), (-1, network.num_inputs))
        # What XLA names when it refuses.
        name = "compressed_layers_need_jit_compile_False"
        y = tf.numpy_function(run, [x], tf.float32, name=name)
        y.set_shape((self._num_members, batch, network.num_outputs))
        return y
