"""Training on logits of models whose outputs are probabilities.

Losses take the logarithm of a probability. In float32 a probability is 0 if
logits differ by more than 104, and Keras clips it at 1e-7, where logits differ
by 16. Beyond that an example has no gradient, however wrong it is.
"""

import contextlib
import contextvars
import threading
import typing
from collections.abc import Iterator

import keras

from keras_freetickets.ensembles.members import last_layer
from keras_freetickets.types import Model

# Models whose training step is running in this thread (replicas have one
# each).
_trained: contextvars.ContextVar[tuple[int, ...]] = contextvars.ContextVar(
    "trained", default=()
)


@contextlib.contextmanager
def training(model: Model) -> Iterator[None]:
    """Marks the training step of a model."""
    token = _trained.set((*_trained.get(), id(model)))
    try:
        yield
    finally:
        _trained.reset(token)


def in_training(model: Model) -> bool:
    """Whether the training step of a model runs."""
    return id(model) in _trained.get()


def _identity(inputs, *args, **kwargs):
    return inputs


class SoftmaxEnd:
    """The softmax at the end of a model, which training can leave out.

    Args:
        model: A functional model with one output.

    Raises:
        ValueError: If the outputs do not come from a single softmax.
    """

    def __init__(self, model: Model) -> None:
        if len(getattr(model, "outputs", None) or []) != 1:
            raise ValueError(
                "To get logits, the model must be Functional or Sequential "
                "and have one output. Received: model "
                f"{model.name!r} of type {type(model).__name__}"
            )
        layer = last_layer(model, passing=(keras.layers.Identity,))
        activation = getattr(layer, "activation", None)
        if isinstance(layer, keras.layers.Softmax):
            self.name, self.value = "call", layer.call
            fits = layer.axis in (-1, 1)
        else:
            self.name, self.value = "activation", activation
            fits = activation is keras.activations.softmax
        if not fits:
            raise ValueError(
                "The last layer of the model must be a softmax over its last "
                "axis, or the outputs must be logits, so that a loss can be "
                f"computed from logits. Received: model {model.name!r}, whose "
                f"last layer is {layer.name!r} of type {type(layer).__name__} "
                f"with activation {getattr(activation, '__name__', None)}"
            )
        self.layer = layer
        self._lock = threading.Lock()
        self._uses = 0

    @contextlib.contextmanager
    def left_out(self) -> Iterator[None]:
        """Context in which the model returns logits."""
        # Replicas take turns within a step; the last one restores it.
        with self._lock:
            self._uses += 1
            setattr(self.layer, self.name, _identity)
        try:
            yield
        finally:
            with self._lock:
                self._uses -= 1
                if not self._uses:
                    self._put_back()

    def _put_back(self):
        if self.name == "call":
            del self.layer.call  # restores the method of its class
        else:
            self.layer.activation = self.value


_SPARSE = "sparse_categorical_crossentropy"
# Losses for which Keras has a version that takes logits and does not clip.
_ENTROPIES = {
    "categorical_crossentropy": keras.losses.CategoricalCrossentropy,
    _SPARSE: keras.losses.SparseCategoricalCrossentropy,
}


def loss_of_logits(loss: typing.Any, y: typing.Any) -> typing.Any:
    """Returns the version of a loss that takes logits.

    Args:
        loss: A loss of probabilities, as given to `compile`.
        y: Labels, by which Keras decides what "crossentropy" means.

    Returns:
        A `keras.losses.Loss`, or `None` for losses without such a version:
        Keras' other losses, which clip, and custom losses.
    """
    leaves = keras.tree.flatten(loss)
    if len(leaves) != 1:
        return None
    loss = leaves[0]
    if isinstance(loss, str) and loss.lower() in ("crossentropy", "ce"):
        wide = len(y.shape) == 2 and y.shape[-1] > 1
        loss = "categorical_crossentropy" if wide else _SPARSE
    loss = keras.losses.get(loss)
    kinds = tuple(_ENTROPIES.values())
    if isinstance(loss, kinds):
        config = {**loss.get_config(), "from_logits": True}
        return type(loss).from_config(config)
    name = getattr(loss, "__name__", None)
    if name in _ENTROPIES and loss is getattr(keras.losses, name):
        return _ENTROPIES[name](from_logits=True)
    return None
