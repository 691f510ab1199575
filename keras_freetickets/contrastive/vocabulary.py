"""Words and their numbers, for captions and documents of a few words."""

import typing
from collections.abc import Iterable

import numpy as np

from keras_freetickets.arguments import check_count
from keras_freetickets.types import Array

PADDING, MASK, UNKNOWN = 0, 1, 2


class Vocabulary:
    """The words of some texts, numbered in alphabetical order.

    0 is padding, 1 the mask's token of `MaskedTokens` and 2 any other word.

    Args:
        texts: Iterable of strings of words between spaces; case does not
            matter.

    Attributes:
        words: List of strings; word i has the token i + 3.

    Raises:
        ValueError: If `texts` are not strings, or have no words.

    Example:

    >>> vocabulary = Vocabulary(["a shoe", "a bag"])
    >>> vocabulary.encode(["a red bag"], length=4).tolist()
    [[3, 2, 4, 0]]
    """

    def __init__(self, texts: Iterable[str]) -> None:
        found: set[str] = set()
        for text in _checked(texts):
            found.update(text.lower().split())
        self.words = sorted(found)
        if not self.words:
            raise ValueError(
                "`texts` must have a word. Received: texts without words"
            )
        self._tokens = {
            word: token
            for token, word in enumerate(self.words, start=UNKNOWN + 1)
        }

    def __len__(self) -> int:
        """Tokens, with padding, mask and unknown words."""
        return len(self.words) + UNKNOWN + 1

    def encode(self, texts: Iterable[str], length: int) -> Array:
        """The tokens of texts.

        Args:
            texts: Iterable of strings.
            length: Positive integer, the context: shorter texts are padded.

        Returns:
            Array of integers `(texts, length)`.

        Raises:
            ValueError: If a text has more words than `length`.
        """
        check_count("length", length)
        rows = []
        for text in _checked(texts):
            words = text.lower().split()
            if len(words) > length:
                raise ValueError(
                    f"`texts` must have at most length={length} words, the "
                    f"context. Received: {len(words)} words, {text!r}"
                )
            tokens = [self._tokens.get(word, UNKNOWN) for word in words]
            rows.append(tokens + [PADDING] * (length - len(words)))
        return np.array(rows, "int32").reshape(-1, length)


def _checked(texts: typing.Any) -> list[str]:
    listed = [] if isinstance(texts, str) else list(texts)
    if isinstance(texts, str) or not all(isinstance(t, str) for t in listed):
        raise ValueError(
            f"`texts` must be a list of strings. Received: texts={texts!r}"
        )
    return listed
