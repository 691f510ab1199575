"""MOON's loss: a class for the unknown."""

import typing
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import check_number
from keras_freetickets.data import class_labels
from keras_freetickets.losses.objective import Objective
from keras_freetickets.types import Config
from keras_freetickets.types import Tensor
from keras_freetickets.types import Variable

_ALMOST_ONE = 1.0 - 1e-7
# The gradient of the logarithm is exact down to this number.
_TINY = float(np.finfo("float32").tiny)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class MOON(Objective):
    """Cross-entropy that teaches a class for the unknown without examples.

    The model has one output more than there are classes, the last one. After
    `learn_epochs`, a wrongly classified example weighs
    `1 + alpha / (1 + alpha * q)`, where `q` is the probability of that last
    class: calling an example unknown makes an error cheaper. `alpha` starts
    from the running loss and grows from epoch to epoch.

    It is an `Objective`, since it has a state.
    `keras_freetickets.callbacks.MOON` puts it in place and tells it the epoch.
    In a loop of your own assign the epoch, counted from 1, to
    `model.update_state.state["moon_epoch"]`.

    Args:
        epochs: Positive integer, the epochs of the training.
        learn_epochs: Non-negative integer less than `epochs`, how many of the
            first epochs use plain cross-entropy. Defaults to 5 (the released
            code).
        alpha: Positive float, `alpha` in the last epoch. Defaults to 1 (the
            released README).
        alpha_factor: Positive float, by which the running loss is divided for
            the first `alpha`. Defaults to 64 (the released README).
        smoothing: Float in (0, 1], the weight of a batch in the running loss.
            Defaults to 0.05 (the released code).
        from_logits: Whether the model's outputs are logits. If they are
            probabilities, `model.set_objective` trains on the logits beneath
            them: a probability of the right class that was rounded to 0 has
            no gradient.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    model.set_objective(MOON(epochs=100))
    for epoch in range(100):
        model.update_state.state["moon_epoch"].assign(epoch + 1.0)
        for x, y in train:
            model.train_on_batch(x, y)
    ```

    Reference:
        Lei et al., 2024, arXiv:2403.20047; StevenBoys/MOON.
    """

    # The callback that tells it the epoch; without it `alpha` stays 0.
    companion = "MOON"
    # Name -> initial value of what it keeps; the epoch is counted from 1.
    scalar_state = {
        "moon_epoch": 1.0,
        "moon_mean": 0.0,
        "moon_batches": 0.0,
        "moon_alpha": 0.0,
        "moon_step": 0.0,
        "moon_raised": 0.0,
        "moon_label": -1.0,
    }

    def __init__(
        self,
        epochs: int,
        learn_epochs: int = 5,
        alpha: float = 1.0,
        alpha_factor: float = 64.0,
        smoothing: float = 0.05,
        from_logits: bool = False,
    ) -> None:
        check_count("epochs", epochs, least=0)
        check_count("learn_epochs", learn_epochs, least=0)
        if epochs <= learn_epochs + 1:
            raise ValueError(
                "`epochs` must be greater than `learn_epochs` + 1, so that "
                f"alpha can grow. Received: epochs={epochs}, "
                f"learn_epochs={learn_epochs}"
            )
        check_number("alpha", alpha, "(0, inf)")
        check_number("alpha_factor", alpha_factor, "(0, inf)")
        check_number("smoothing", smoothing, "(0, inf)")
        self.epochs = int(epochs)
        self.learn_epochs = int(learn_epochs)
        self.alpha = float(alpha)
        self.alpha_factor = float(alpha_factor)
        self.smoothing = float(smoothing)
        super().__init__(from_logits)

    def __call__(
        self,
        y: typing.Any,
        y_pred: Tensor,
        state: dict[str, Variable],
        sample_weight: Tensor | None = None,
        of_replicas: Callable[[Tensor], Tensor] = ops.ravel,
        from_logits: bool | None = None,
    ) -> Tensor:
        """Returns the loss of a batch in training, and updates the state.

        Args:
            y: Labels, integers of shape `(batch,)` or `(batch, 1)`, or
                one-hot rows of the classes, with the unknown one or without.
            y_pred: Outputs of shape `(batch, classes + 1)`.
            state: Dict from the names of `scalar_state` to variables.
            sample_weight: Tensor of shape `(batch,)`, or `None`.
            of_replicas: Callable that takes a scalar of this replica's part
                of the batch and returns the vector of those of all replicas.
                The state describes the whole batch.
            from_logits: Whether `y_pred` are logits. `None` for what the loss
                was made with.
        """
        largest = ops.cast(ops.max(_labels(y, y_pred)), "float32")
        largest = ops.max(of_replicas(largest))
        label = state["moon_label"]
        label.assign(ops.maximum(label.value, largest))
        entropy, unknown, correct = self.parts(y, y_pred, from_logits)
        mean = ops.stop_gradient(ops.mean((1.0 - unknown) * entropy))
        alpha = self._next_alpha(ops.mean(of_replicas(mean)), state)
        losses = weighted(entropy, unknown, correct, alpha)
        if sample_weight is not None:
            losses = losses * ops.cast(
                ops.reshape(sample_weight, (-1,)), losses.dtype
            )
        return ops.mean(losses)

    def check_labels(self, state: dict[str, Variable], outputs: int) -> None:
        """Raises for a label that stands for the unknown.

        Args:
            state: Dict from the names of `scalar_state` to variables.
            outputs: Integer, how many outputs the model has.

        Raises:
            ValueError: If the largest label so far is not a class.
        """
        label = int(ops.convert_to_numpy(state["moon_label"].value))
        if label >= outputs - 1:
            raise ValueError(
                "The model must have one output more than there are classes, "
                f"the last for the unknown: {label + 2} for the labels 0 to "
                f"{label}. Received: a model with {outputs} outputs"
            )

    def parts(
        self, y: typing.Any, y_pred: Tensor, from_logits: bool | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Cross-entropy, probability of the unknown, and what is right."""
        y_pred = ops.cast(y_pred, "float32")
        if self.is_from_logits(from_logits):
            log_p = ops.log_softmax(y_pred)
        else:
            log_p = ops.log(ops.clip(y_pred, _TINY, 1.0))
        labels = _labels(y, y_pred)
        classes = y_pred.shape[-1]
        entropy = -ops.sum(log_p * ops.one_hot(labels, classes), axis=-1)
        unknown = ops.minimum(ops.exp(log_p[:, -1]), _ALMOST_ONE)
        predicted = ops.cast(ops.argmax(log_p, axis=-1), "int32")
        return entropy, unknown, ops.equal(predicted, labels)

    def _next_alpha(self, mean, state):
        old, batches = state["moon_mean"].value, state["moon_batches"].value
        moved = self.smoothing * mean + (1.0 - self.smoothing) * old
        running = ops.where(batches > 0, moved, mean)
        state["moon_mean"].assign(running)
        state["moon_batches"].assign(batches + 1.0)
        epoch, raised = state["moon_epoch"].value, state["moon_raised"].value
        learned = epoch > self.learn_epochs
        begins = ops.logical_and(learned, ops.equal(raised, 0.0))
        rises = ops.logical_and(learned, epoch > raised)
        first = running / self.alpha_factor
        epochs_left = self.epochs - (self.learn_epochs + 1)
        step = ops.where(
            begins, (self.alpha - first) / epochs_left, state["moon_step"].value
        )
        alpha = state["moon_alpha"].value
        alpha = ops.where(rises, alpha + step, alpha)
        alpha = ops.where(begins, first, alpha)
        state["moon_step"].assign(step)
        state["moon_alpha"].assign(alpha)
        state["moon_raised"].assign(ops.where(rises, epoch, raised))
        return ops.where(learned, alpha, 0.0)

    def get_config(self) -> Config:
        return {
            "epochs": self.epochs,
            "learn_epochs": self.learn_epochs,
            "alpha": self.alpha,
            "alpha_factor": self.alpha_factor,
            "smoothing": self.smoothing,
            **super().get_config(),
        }


def weighted(
    entropy: Tensor, unknown: Tensor, correct: Tensor, alpha: Tensor
) -> Tensor:
    """The losses of examples, those classified wrongly weighted up.

    Args:
        entropy: Cross-entropies, tensor of shape `(batch,)`.
        unknown: Probabilities of the unknown class.
        correct: Booleans, whether the right class is predicted.
        alpha: Float tensor; 0 for plain cross-entropy.
    """
    factor = 1.0 + alpha / (1.0 + alpha * unknown)
    return ops.where(correct, entropy, factor * entropy)


def _labels(y, y_pred):
    """Integers `(batch,)`; one-hot labels may lack the unknown's column."""
    y = ops.convert_to_tensor(y)
    labels = class_labels(y, y_pred.shape, optional_columns=1)
    return ops.cast(ops.reshape(labels, (-1,)), "int32")
