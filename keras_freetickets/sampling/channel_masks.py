"""The distribution over channel masks of a trained network."""

import itertools

import keras
import numpy as np

from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import check_model
from keras_freetickets.arguments import check_number
from keras_freetickets.metrics import arrays
from keras_freetickets.sampling.energies import check_states
from keras_freetickets.types import Array
from keras_freetickets.types import Model

_SMALLEST = 1e-12


def _parts(model, place):
    """A model up to a layer, and the layers behind it."""
    behind = model.layers[place + 1 :]
    if isinstance(model, keras.Sequential):
        # A layer's first call may be one before the model was whole.
        outputs = inputs = keras.Input(model.input_shape[1:])
        for layer in model.layers[: place + 1]:
            outputs = layer(outputs)
        return keras.Model(inputs, outputs), behind
    for before, above in itertools.pairwise(model.layers[place:]):
        if above.input is not before.output:
            raise ValueError(
                "`model` must be a chain behind the masked layer. "
                f"Received: layer {above.name!r} with another input"
            )
    return keras.Model(model.inputs, model.layers[place].output), behind


class ChannelMasks:
    """Energy of masks over the channels that a layer outputs.

    Bit c of a state says whether channel (or unit) c is kept; the others are
    set to zero. The energy is `-beta * NLL - cost * kept` with the mean
    negative log-likelihood on a fixed batch. The layers up to the masked one
    run once.

    A sampled mask was not trained: train briefly after cutting channels.

    Args:
        model: A built classifier of softmax: Sequential, or Functional and a
            chain behind the masked layer.
        layer: Name of the layer whose outputs `(examples, ..., channels)` are
            masked.
        x: Inputs `(examples, ...)` of a validation batch, a few hundred.
        y_true: Integer labels `(examples,)`.
        beta: Positive float, or `None` for the number of examples.
        cost: Float, what a channel costs.
        batch_size: Positive integer, rows of a prediction.

    Raises:
        TypeError: If `model` is not a model of Keras 3.
        ValueError: If there is no such layer, the layers behind it are not a
            chain, or the data do not fit.

    Example:

    ```python
    energy = kft.sampling.ChannelMasks(model, "dense", x_valid, y_valid, cost=1)
    start = np.ones((8, energy.num_channels), int)
    samples = kft.sampling.DiscreteSampler().run(energy, start, 500, 200)
    ```
    """

    def __init__(
        self,
        model: Model,
        layer: str,
        x: Array,
        y_true: Array,
        beta: float | None = None,
        cost: float = 0.0,
        batch_size: int = 65_536,
    ) -> None:
        check_model("model", model)
        names = [one.name for one in model.layers]
        if layer not in names[:-1]:
            raise ValueError(
                f"`layer` must be the name of a layer before the last, one of "
                f"{names[:-1]}. Received: layer={layer!r}"
            )
        if beta is not None:
            check_number("beta", beta, "(0, inf)")
        check_number("cost", cost, "(-inf, inf)")
        check_count("batch_size", batch_size)
        place = names.index(layer)
        below, behind = _parts(model, place)
        outputs = head_inputs = keras.Input(below.output_shape[1:])
        for above in behind:
            outputs = above(outputs)
        self._head = keras.Model(head_inputs, outputs)
        self._features = below.predict(x, verbose=0)
        shape = (len(self._features), model.output_shape[-1])
        self._labels = arrays.read_label_array(y_true, shape, None, "y_true")[0]
        self.num_channels = int(self._features.shape[-1])
        self.beta = float(len(self._labels) if beta is None else beta)
        self.cost = float(cost)
        self._batch_size = int(batch_size)

    def __call__(self, states: Array) -> np.ndarray:
        """Energies of masks.

        Args:
            states: Integer array `(states, channels)` of 0 and 1.

        Returns:
            Array `(states,)` of float64.

        Raises:
            ValueError: If the states do not fit the channels.
        """
        states = check_states("states", states, 2)
        if states.shape[1] != self.num_channels:
            raise ValueError(
                f"`states` must have a bit for each of the "
                f"{self.num_channels} channels. Received: states of shape "
                f"{states.shape}"
            )
        examples = len(self._labels)
        each = max(1, self._batch_size // examples)
        found = []
        for at in range(0, len(states), each):
            masks = states[at : at + each].astype(self._features.dtype)
            shape = (len(masks), *(1,) * (self._features.ndim - 1), -1)
            rows = self._features[None] * masks.reshape(shape)
            rows = rows.reshape(-1, *self._features.shape[1:])
            outputs = keras.ops.convert_to_numpy(self._head(rows))
            outputs = outputs.reshape(len(masks), examples, -1)
            chosen = outputs[:, np.arange(examples), self._labels]
            logs = np.log(np.maximum(chosen.astype("float64"), _SMALLEST))
            found.append(logs.mean(axis=1))
        mean = np.concatenate(found)
        return self.beta * mean - self.cost * states.sum(axis=1)
