"""Pooling on NumPy arrays: what `ensembles.pooling` does on tensors."""

import typing

import numpy as np

from keras_freetickets.serving import activations

_CLASSIFICATION = ("mean_probability", "mean_logits")
_NAMED = (*_CLASSIFICATION, "mean", "mean_and_variance")
# Below it the logarithm of a float32 probability is not finite.
_TINY = np.float32(1e-37)


def check_named(pooling: typing.Any) -> None:
    """Raises unless a pooling is given by name.

    Raises:
        ValueError: If it is a function, which only Keras finds.
    """
    if pooling not in _NAMED:
        raise ValueError(
            "`predict` needs an ensemble whose pooling is given by name; "
            "`predict_members` returns the outputs to pool. Received: "
            f"pooling={pooling!r}"
        )


def as_members(
    outputs: np.ndarray, pooling: typing.Any, from_logits: bool
) -> np.ndarray:
    """Outputs of members, those of classifiers as probabilities.

    Args:
        outputs: Array `(members, batch, outputs)`, which may be changed.
        pooling: As for `EnsembleModel`.
        from_logits: Whether classifiers return logits.
    """
    if pooling in _CLASSIFICATION and from_logits:
        _to_probabilities(outputs)
    return outputs


def _to_probabilities(logits: np.ndarray) -> None:
    if logits.shape[-1] == 1:
        activations.sigmoid(logits, -1)
    else:
        activations.softmax(logits, -1)


def mean_of_logits(outputs: np.ndarray, from_logits: bool) -> np.ndarray:
    """Probabilities by the mean of the members' logits.

    Args:
        outputs: Array `(members, batch, outputs)` of logits or probabilities.
        from_logits: Which of them.
    """
    one_column = outputs.shape[-1] == 1
    if not from_logits:
        logits = np.log(np.maximum(outputs, _TINY))
        if one_column:
            logits -= np.log(np.maximum(1 - outputs, _TINY))
    else:
        logits = outputs.copy()
        if not one_column:
            activations.log_softmax(logits, -1)
    mean = logits.mean(axis=0)
    _to_probabilities(mean)
    return mean


def mean_and_variance(outputs: np.ndarray) -> np.ndarray:
    """Mean and variance of the mixture of the members' distributions.

    Args:
        outputs: Array `(members, batch, 2 * outputs)`: means, then variances.
    """
    means, variances = np.split(outputs, 2, axis=-1)
    total = variances.mean(axis=0) + means.var(axis=0)
    return np.concatenate([means.mean(axis=0), total], axis=-1)
