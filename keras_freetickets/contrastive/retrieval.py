"""How well vectors of two towers find each other."""

import typing
from collections.abc import Sequence

import numpy as np

from keras_freetickets.arguments import check_count
from keras_freetickets.types import Array


def similarities(texts: Array, images: Array) -> Array:
    """Cosines of all pairs of vectors.

    Those of several tickets can be averaged: an ensemble of embeddings.

    Args:
        texts: Array `(texts, dimensions)`, of any length but 0.
        images: Array `(images, dimensions)`, of any length but 0.

    Returns:
        Array `(texts, images)`.

    Raises:
        ValueError: If the arrays are not matrices of vectors of one length.

    Example:

    >>> similarities([[2.0, 0.0]], [[1.0, 0.0], [0.0, 3.0]]).tolist()
    [[1.0, 0.0]]
    """
    one, other = _unit("texts", texts), _unit("images", images)
    if one.shape[1] != other.shape[1]:
        raise ValueError(
            "`texts` and `images` must have vectors of one length. Received: "
            f"texts of shape {one.shape} and images of shape {other.shape}"
        )
    return one @ other.T


def pair_cosines(texts: Array, images: Array) -> Array:
    """Cosine of each text with the image of its own row.

    It scores pairs: noisy ones have a small cosine.

    Args:
        texts: Array `(pairs, dimensions)`.
        images: Array `(pairs, dimensions)`.

    Returns:
        Array `(pairs,)`.

    Raises:
        ValueError: If the arrays are not matrices of one shape.

    Example:

    >>> texts = [[2.0, 0.0], [1.0, 0.0]]
    >>> pair_cosines(texts, [[1.0, 0.0], [0.0, 1.0]]).tolist()
    [1.0, 0.0]
    """
    one, other = _unit("texts", texts), _unit("images", images)
    if one.shape != other.shape:
        raise ValueError(
            "`texts` and `images` must have the same shape. Received: texts "
            f"of shape {one.shape} and images of shape {other.shape}"
        )
    return (one * other).sum(-1)


def recall_at(
    scores: Array,
    ks: Sequence[int] = (1, 5, 10),
    labels: typing.Any = None,
) -> dict[int, float]:
    """Shares of queries that find their partner among the first k answers.

    Query i belongs to answer i. Ties count against it. Transpose the scores
    for the other direction.

    Args:
        scores: Array `(queries, answers)`, such as `similarities`; the larger
            the better.
        ks: Positive integers. Defaults to 1, 5 and 10 (the paper).
        labels: Pair of arrays `(queries,)` and `(answers,)`: every answer of
            the query's label is right. `None` (default) if only its partner is.

    Returns:
        Dict from k to a float in [0, 1].

    Raises:
        ValueError: If an argument is out of range, or arrays do not fit.

    Example:

    >>> recall_at([[0.9, 0.1], [0.8, 0.2]], ks=[1, 2])
    {1: 0.5, 2: 1.0}

    Reference:
        Wang et al., 2021, arXiv:2109.04699.
    """
    scores = np.asarray(scores, "float64")
    for k in ks:
        check_count("ks", k)
    if scores.ndim != 2 or (labels is None and len(scores) > scores.shape[1]):
        raise ValueError(
            "`scores` must be (queries, answers), with an answer for each "
            f"query. Received: scores of shape {scores.shape}"
        )
    if labels is None:
        labels = np.arange(len(scores)), np.arange(scores.shape[1])
    queries, answers = (np.asarray(one) for one in labels)
    if (len(queries), len(answers)) != scores.shape:
        raise ValueError(
            f"`labels` must be two arrays for scores of {scores.shape}. "
            f"Received: labels of {len(queries)} and {len(answers)}"
        )
    right = queries[:, None] == answers[None]
    best = np.where(right, scores, -np.inf).max(axis=1)
    # Wrong answers that are as good are ahead of the right one.
    rank = (~right & (scores >= best[:, None])).sum(axis=1)
    return {int(k): float(np.mean(rank < k)) for k in ks}


def _unit(name: str, vectors: Array) -> Array:
    vectors = np.asarray(vectors, "float64")
    if vectors.ndim != 2:
        raise ValueError(
            f"`{name}` must be (examples, dimensions). Received: {name} of "
            f"shape {vectors.shape}"
        )
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo("float64").tiny)
