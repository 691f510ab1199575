"""A chain of dense and convolutional layers, and what it computes in NumPy."""

import numpy as np

from keras_freetickets.discrete.stage_reader import StageReader
from keras_freetickets.discrete.stage_reader import layers_of
from keras_freetickets.discrete.stage_reader import unsupported
from keras_freetickets.types import Model


class Network:
    """The stages of a model, and what they compute in NumPy.

    Args:
        model: A built Sequential model, or a Functional one that is a chain.

    Raises:
        ValueError: If the search cannot evaluate the model.
    """

    def __init__(self, model: Model) -> None:
        if not getattr(model, "built", False):
            raise ValueError(
                "`model` must be built: give it a keras.Input. Received: "
                f"model={model.name!r}"
            )
        self.layers = layers_of(model)
        shape = model.input_shape[1:]
        self._image = tuple(shape) if len(shape) == 3 else None
        reader = StageReader(shape)
        for layer in self.layers:
            reader.read(layer)
        self.stages = reader.stages
        self.input_shape = tuple(shape)
        if not self.stages:
            raise ValueError(
                "`model` must have a Dense or Conv2D layer. Received: "
                f"model={model.name!r}"
            )
        last = self.stages[-1]
        # A classifier has one sum for each class.
        if (
            last.rectified
            or last.pools is not None
            or last.taps.shape[1] != 1
            or last.units < 2
        ):
            raise unsupported(
                last.layer,
                "the last one must give logits or softmax of two classes or "
                "more",
            )

    def inputs(self, x: np.ndarray) -> np.ndarray:
        """Examples as `(channels, positions, examples)` in float64."""
        x = np.asarray(x)
        if x.shape[1:] != self.input_shape or not len(x):
            raise ValueError(
                f"`x` must be an array of shape (examples, "
                f"{', '.join(map(str, self.input_shape))}). "
                f"Received: x of shape {x.shape}"
            )
        if x.dtype.kind not in "fiub" or not np.isfinite(x).all():
            raise ValueError(
                "`x` must hold finite numbers. Received: x of dtype "
                f"{x.dtype} with NaN or infinite values"
            )
        first = self.stages[0]
        shape = (len(x), first.positions_in, first.channels_in)
        return np.ascontiguousarray(x.reshape(shape).T, "float64")

    def forward(
        self, inputs: np.ndarray
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Inputs and sums of each stage; the last sums are the logits."""
        all_inputs, all_sums = [], []
        for stage in self.stages:
            shape = (stage.channels_in, stage.positions_in, inputs.shape[-1])
            inputs = inputs.reshape(shape)
            all_inputs.append(inputs)
            sums = stage.sums(inputs)
            all_sums.append(sums)
            inputs = stage.activate(sums)
        return all_inputs, all_sums

    def loss(self, inputs: np.ndarray, labels: np.ndarray) -> float:
        """Mean cross-entropy, from nothing but weights and inputs."""
        logits = self.forward(inputs)[1][-1][:, 0]
        top = logits.max(axis=0)
        logs = np.log(np.exp(logits - top).sum(axis=0)) + top
        return float(np.mean(logs - logits[labels, np.arange(len(labels))]))

    def gradients(
        self, inputs: np.ndarray, labels: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Gradient of the loss by the weights and biases of each stage."""
        all_inputs, all_sums = self.forward(inputs)
        logits = all_sums[-1][:, 0]
        exps = np.exp(logits - logits.max(axis=0))
        slope = exps / exps.sum(axis=0)
        slope[labels, np.arange(len(labels))] -= 1.0
        gradient = slope[:, None] / len(labels)
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for i in reversed(range(len(self.stages))):
            stage = self.stages[i]
            if i < len(self.stages) - 1:
                shape = (stage.units, stage.positions_out, len(labels))
                gradient = stage.activation_gradient(
                    all_sums[i], gradient.reshape(shape)
                )
            by_weights, by_biases, gradient = stage.gradients(
                all_inputs[i], gradient, below=i > 0
            )
            found.append((by_weights, by_biases))
        return found[::-1]
