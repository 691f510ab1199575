"""The contrastive loss of pairs, with a queue of earlier examples."""

import typing
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from keras_freetickets.arguments import check_count
from keras_freetickets.contrastive.masked_tokens import masked_token_loss
from keras_freetickets.losses.objective import Objective
from keras_freetickets.types import Config
from keras_freetickets.types import Tensor
from keras_freetickets.types import Variable

_QUEUE = "contrastive_queue"
_FILLED = "contrastive_filled"
# A logit that no softmax sees; -inf would make products of 0 and inf NaN.
_ABSENT = -1e9


@keras.saving.register_keras_serializable(package="keras_freetickets")
class Contrastive(Objective):
    """Cross-entropy of finding the partner among the others, both ways.

    The model has the outputs `[texts, images]`: of each pair a vector that has
    been multiplied by the scale (`LearnedScale`) and a unit vector. Their
    products are the logits of a text for all images of the batch, and of an
    image for all texts. Images of earlier batches, which a queue keeps, are
    further wrong answers for texts. The loss is the sum of both means.

    With a third output, logits of tokens `(documents, length, vocabulary)`, and
    the targets of `MaskedTokens` as labels, it is half of the sum of the
    contrastive loss and of that of masked tokens.

    Put it in place with `model.set_objective(Contrastive(64, 512))`. The queue
    begins empty; one replica at a time has one of its own.

    Args:
        dimensions: Positive integer, the length of the vectors.
        queue_length: Non-negative integer, the images that are kept. Defaults
            to 0, no queue (the released code has 20,000 by default).
        from_logits: True, the only value; outputs are logits.

    Raises:
        ValueError: If an argument is out of range; in a step, if the model's
            outputs or labels do not fit.

    Example:

    ```python
    model = kft.SparseModel([tokens, pixels], [texts, images])
    model.compile("adam")
    model.set_objective(kft.contrastive.Contrastive(64, queue_length=512))
    ```

    Reference:
        Wang et al., 2021, arXiv:2109.04699 (EfficientCLIP); the loss is that
        of xxaxxx/EfficientCLIP.
    """

    scalar_state: typing.ClassVar[dict[str, float]] = {_FILLED: 0.0}

    def __init__(
        self,
        dimensions: int,
        queue_length: int = 0,
        from_logits: bool = True,
    ) -> None:
        check_count("dimensions", dimensions)
        check_count("queue_length", queue_length, least=0)
        if from_logits is not True:
            raise ValueError(
                "`from_logits` must be True: vectors are no probabilities. "
                f"Received: from_logits={from_logits!r}"
            )
        super().__init__(from_logits)
        self.dimensions = int(dimensions)
        self.queue_length = int(queue_length)
        self.tensor_state = {_QUEUE: (self.queue_length, self.dimensions)}

    def __call__(
        self,
        y_true: typing.Any,
        y_pred: typing.Any,
        state: dict[str, Variable],
        sample_weight: Tensor | None = None,
        of_replicas: Callable[[Tensor], Tensor] = ops.ravel,
        from_logits: bool | None = None,
    ) -> Tensor:
        """Returns the loss of a batch in training, and updates the queue.

        Args:
            y_true: Targets of masked tokens, or `None`.
            y_pred: List of two or three outputs.
            state: Dict from the names of the state to variables.
            sample_weight: Not supported: `None`.
            of_replicas: Not used.
            from_logits: Not used.
        """
        texts, images = self._checked(y_pred, sample_weight)
        queue, filled = state[_QUEUE], state[_FILLED]
        loss = contrastive_loss(texts, images, queue.value, filled.value)
        if self.queue_length:
            newest = ops.stop_gradient(ops.cast(images, queue.dtype))
            joined = ops.concatenate([newest, queue.value])
            queue.assign(joined[: self.queue_length])
            count = ops.cast(ops.shape(images)[0], filled.dtype)
            total = filled.value + count
            filled.assign(ops.minimum(total, float(self.queue_length)))
        if len(y_pred) == 2:
            return loss
        if y_true is None:
            raise ValueError(
                "A model with logits of tokens needs labels: add a "
                "kft.contrastive.MaskedTokens to its batch transforms. "
                "Received: y_true=None"
            )
        return (masked_token_loss(y_true, y_pred[2]) + loss) / 2.0

    def _checked(
        self, y_pred: typing.Any, sample_weight: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        listed = isinstance(y_pred, (list, tuple)) and len(y_pred) in (2, 3)
        shapes = [tuple(y.shape) for y in keras.tree.flatten(y_pred)]
        if not listed or any(
            shape[1:] != (self.dimensions,) for shape in shapes[:2]
        ):
            raise ValueError(
                "The model must have the outputs [texts, images], each "
                f"(batch, {self.dimensions}), and perhaps logits of tokens. "
                f"Received: outputs of {shapes}"
            )
        if sample_weight is not None:
            raise ValueError(
                "`sample_weight` must be None with a contrastive loss, in "
                "which each example is a wrong answer for the others. "
                f"Received: weights of shape {tuple(sample_weight.shape)}"
            )
        return y_pred[0], y_pred[1]

    def get_config(self) -> Config:
        return {
            "dimensions": self.dimensions,
            "queue_length": self.queue_length,
            **super().get_config(),
        }


def contrastive_loss(
    texts: Tensor,
    images: Tensor,
    queue: Tensor,
    filled: Tensor,
) -> Tensor:
    """The sum of the mean cross-entropies of texts and of images.

    Args:
        texts: Tensor `(batch, dimensions)`, scaled.
        images: Tensor `(batch, dimensions)`, of length 1.
        queue: Tensor `(queue_length, dimensions)` of earlier images.
        filled: Float scalar, how many rows of the queue are images.

    Returns:
        Float scalar.

    Example:

    ```python
    contrastive_loss(texts, images, keras.ops.zeros((0, 64)), 0.0)
    ```
    """
    texts = ops.cast(texts, "float32")
    images = ops.cast(images, "float32")
    logits = texts @ ops.transpose(images)
    positions = ops.arange(ops.shape(texts)[0])
    of_images = _entropy(ops.transpose(logits), positions)
    length = queue.shape[0]
    if length:
        absent = np.arange(length, dtype="float32") >= filled
        earlier = texts @ ops.transpose(ops.stop_gradient(queue))
        earlier = ops.where(absent[None], _ABSENT, earlier)
        logits = ops.concatenate([logits, earlier], axis=1)
    return _entropy(logits, positions) + of_images


def _entropy(logits: Tensor, positions: Tensor) -> Tensor:
    losses = keras.losses.sparse_categorical_crossentropy(
        positions, logits, from_logits=True
    )
    return ops.mean(losses)
