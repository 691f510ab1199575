"""Tokens that a text tower learns to restore."""

import typing

import numpy as np
from keras import ops

from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import check_number
from keras_freetickets.topology.randomness import bits_at
from keras_freetickets.topology.randomness import random_keys
from keras_freetickets.topology.randomness import typed
from keras_freetickets.types import Batch
from keras_freetickets.types import Tensor

UNCHOSEN = -1


class MaskedTokens:
    """A batch transform that hides tokens of documents, as in BERT.

    Each token is chosen with a probability; a chosen one becomes the mask's
    token, or else a random one. The labels become the chosen tokens, and -1
    elsewhere. Which tokens are chosen follows from the seed and the step.

    Args:
        vocabulary_size: Integer of at least 2, the number of tokens. Random
            ones are drawn from `first_token` up to it.
        mask_token: Non-negative integer.
        name: Key of the documents, integers `(documents, length)`, in a dict
            of inputs. Defaults to `"documents"`.
        probability: Float in [0, 1], of a token to be chosen. Defaults to
            0.15, and `masked_share` to 0.8 (released code).
        masked_share: Float in [0, 1], the share of chosen tokens that become
            the mask's; the others become random ones.
        padding: Integer that is never chosen, the padding. Defaults to 0.
        first_token: Integer, the first token that is a word. Defaults to 1.
        seed: Non-negative integer. Defaults to 0.

    Raises:
        ValueError: If an argument is out of range; in a step, if a batch has
            no documents.

    Example:

    ```python
    model.add_batch_transform(MaskedTokens(vocabulary_size=30, mask_token=1))
    ```

    Reference:
        xxaxxx/EfficientCLIP, where no chosen token is kept as it is; Devlin et
        al., 2018, arXiv:1810.04805.
    """

    def __init__(
        self,
        vocabulary_size: int,
        mask_token: int,
        name: str = "documents",
        probability: float = 0.15,
        masked_share: float = 0.8,
        padding: int = 0,
        first_token: int = 1,
        seed: int = 0,
    ) -> None:
        check_count("vocabulary_size", vocabulary_size, least=2)
        check_count("mask_token", mask_token, least=0)
        check_count("first_token", first_token, least=0)
        check_count("seed", seed, least=0)
        check_number("probability", probability)
        check_number("masked_share", masked_share)
        for key, value in (
            ("mask_token", mask_token),
            ("first_token", first_token),
        ):
            if value >= vocabulary_size:
                raise ValueError(
                    f"`{key}` must be less than vocabulary_size="
                    f"{vocabulary_size}. Received: {key}={value}"
                )
        self.vocabulary_size = vocabulary_size
        self.mask_token = mask_token
        self.name = name
        self.probability = probability
        self.masked_share = masked_share
        self.padding = padding
        self.first_token = first_token
        self.seed = seed

    def __call__(
        self,
        x: typing.Any,
        y: typing.Any,
        sample_weight: typing.Any,
        step: Tensor,
    ) -> Batch:
        """The batch with hidden tokens, and its labels."""
        if not isinstance(x, dict) or self.name not in x:
            raise ValueError(
                f"Inputs must be a dict with {self.name!r}, the documents. "
                f"Received: {sorted(x) if isinstance(x, dict) else type(x)}"
            )
        tokens, targets = self.hidden(x[self.name], step)
        return {**x, self.name: tokens}, targets, sample_weight

    def hidden(self, tokens: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens with hidden ones, and their targets.

        Args:
            tokens: Integer tensor.
            step: Integer, which decides what is chosen.

        Returns:
            Tuple of two tensors of the shape of `tokens`.
        """
        tokens = ops.cast(tokens, "int32")
        shape = ops.shape(tokens)
        positions = ops.arange(ops.size(tokens), dtype="int32")
        chance, kind, word = (
            ops.reshape(_uniform(positions, key), shape)
            for key in ops.unstack(random_keys(self.seed, step, range(3)), 3)
        )
        chosen = ops.logical_and(
            chance < self.probability, ops.not_equal(tokens, self.padding)
        )
        count = self.vocabulary_size - self.first_token
        random = self.first_token + ops.cast(word * count, "int32")
        other = ops.where(kind < self.masked_share, self.mask_token, random)
        hidden = ops.where(chosen, ops.cast(other, "int32"), tokens)
        return hidden, ops.where(chosen, tokens, UNCHOSEN)


def _uniform(positions: Tensor, key: Tensor) -> Tensor:
    """Numbers in [0, 1), of 24 bits: all that a float32 holds."""
    bits = ops.right_shift(bits_at(positions, key), typed(np.uint32(8)))
    return ops.cast(ops.cast(bits, "int32"), "float32") / float(1 << 24)


def masked_token_loss(targets: Tensor, logits: Tensor) -> Tensor:
    """The mean cross-entropy of the chosen tokens, 0 if there are none.

    Args:
        targets: Integer tensor `(documents, length)`, -1 where a token was not
            chosen.
        logits: Tensor `(documents, length, vocabulary)`.

    Returns:
        Float scalar.

    Example:

    >>> logits = np.zeros((1, 3, 8), "float32")
    >>> round(float(masked_token_loss([[-1, 5, -1]], logits)), 3)  # log(8)
    2.079
    """
    targets = ops.cast(ops.convert_to_tensor(targets), "int32")
    chosen = ops.cast(targets >= 0, "float32")
    log_p = ops.log_softmax(ops.cast(logits, "float32"))
    words = ops.one_hot(ops.maximum(targets, 0), log_p.shape[-1])
    losses = -ops.sum(log_p * words, axis=-1)
    return ops.sum(chosen * losses) / ops.maximum(ops.sum(chosen), 1.0)
