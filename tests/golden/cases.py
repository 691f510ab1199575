"""The predictions that golden.json holds numbers of."""

import numpy as np


def _softmax(logits):
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (exponents / exponents.sum(axis=1, keepdims=True)).astype("float32")


def _random(seed, count, classes, scale):
    """Labels drawn from a softmax, predictions of `scale` times its logits."""
    generator = np.random.RandomState(seed)
    logits = 1.5 * generator.normal(size=(count, classes))
    chances = _softmax(logits).astype("float64")
    draws = generator.uniform(size=(count, 1))
    labels = (draws > chances.cumsum(axis=1)).sum(axis=1)
    return _softmax(scale * logits), np.minimum(labels, classes - 1)


def predictions():
    """Dict from a name to probabilities and labels."""
    sure = np.array([[1.0, 0.0], [0.0, 1.0]] * 25, "float32")
    tied = np.array([[0.7, 0.2, 0.1]] * 60, "float32")
    return {
        "calibrated": _random(1, 1000, 10, 1.0),
        "overconfident": _random(2, 1000, 5, 2.5),
        "underconfident": _random(3, 1000, 3, 0.4),
        "sure": (sure, np.arange(50) % 3 % 2),
        "tied": (tied, np.arange(60) % 3),
    }


def scores():
    """Dict from a name to the scores of known and of unknown inputs."""
    generator = np.random.RandomState(4)
    known = generator.beta(5, 2, 700).astype("float32")
    unknown = generator.beta(2, 3, 400).astype("float32")
    return {
        "separate": (known, unknown),
        "few_values": (np.round(known * 8) / 8, np.round(unknown * 8) / 8),
        "constant": (np.full(30, 0.5, "f"), np.full(20, 0.5, "f")),
    }


def members():
    """Dict from a name to probabilities `(members, examples, classes)`."""
    generator = np.random.RandomState(5)
    shared = generator.normal(size=(300, 6))
    own = generator.normal(size=(3, 300, 6))
    apart = np.stack([_softmax(1.5 * shared + one) for one in own])
    return {
        "members_apart": apart,
        "members_alike": np.repeat(apart[:1], 3, axis=0),
    }
