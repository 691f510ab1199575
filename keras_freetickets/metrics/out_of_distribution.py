"""Out-of-distribution scores: higher for inputs that look familiar.

`detection.py` measures how well they tell unknown inputs from known ones.
"""

from keras import ops

from keras_freetickets.arguments import check_number
from keras_freetickets.metrics import diversity
from keras_freetickets.metrics import validation
from keras_freetickets.types import Tensor


def maximum_probability(probabilities: Tensor) -> Tensor:
    """The largest probability.

    Args:
        probabilities: Tensor `(examples, ..., classes)`, or
            `(examples, ..., 1)` of class 1.

    Returns:
        Tensor `(examples, ...)`, higher for familiar inputs.

    Raises:
        ValueError: If rows do not sum to one.

    Example:

    >>> score = maximum_probability([[0.75, 0.25]])
    >>> round(float(score[0]), 4)
    0.75

    Reference:
        Hendrycks and Gimpel, 2017, arXiv:1610.02136.
    """
    return ops.max(validation.read_predictions(probabilities, False), axis=-1)


def negative_entropy(probabilities: Tensor) -> Tensor:
    """Minus the entropy of the probabilities, in nats.

    Args:
        probabilities: As for `maximum_probability`.

    Returns:
        Tensor `(examples, ...)` in [-log(classes), 0], higher for familiar
        inputs.

    Raises:
        ValueError: As for `maximum_probability`.

    Example:

    >>> score = negative_entropy([[0.5, 0.5]])  # -log 2
    >>> round(float(score[0]), 4)
    -0.6931
    """
    probabilities = validation.read_predictions(probabilities, False)
    return -diversity.predictive_entropy(probabilities[None])


def negative_energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Minus the energy, `T log sum_k exp(z_k / T)`.

    Args:
        logits: Tensor `(examples, ..., classes)`, two classes or more.
        temperature: Positive float. Defaults to 1 (Liu et al., 2020).

    Returns:
        Tensor `(examples, ...)`, higher for familiar inputs.

    Raises:
        ValueError: If the temperature is not positive, or there is one column
            of logits: a sigmoid has no energy, for it is a softmax of any
            two logits with that difference.

    Example:

    >>> score = negative_energy([[0.0, 0.0]])  # log 2
    >>> round(float(score[0]), 4)
    0.6931

    Reference:
        Liu et al., 2020, arXiv:2010.03759.
    """
    check_number("temperature", temperature, "(0, inf)")
    logits = _read_logits(logits)
    return temperature * ops.logsumexp(logits / temperature, axis=-1)


def maximum_logit(logits: Tensor) -> Tensor:
    """The largest logit.

    Args:
        logits: Tensor `(examples, ..., classes)`, two classes or more.

    Returns:
        Tensor `(examples, ...)`, higher for familiar inputs.

    Raises:
        ValueError: If there is one column of logits, as `negative_energy`.

    Example:

    >>> score = maximum_logit([[3.0, -1.0]])
    >>> round(float(score[0]), 4)
    3.0

    Reference:
        Hendrycks et al., 2022, arXiv:1911.11132.
    """
    return ops.max(_read_logits(logits), axis=-1)


def _read_logits(logits):
    logits = ops.cast(ops.convert_to_tensor(logits), "float32")
    if len(logits.shape) < 2 or logits.shape[-1] == 1:
        raise ValueError(
            "`logits` must have a column for each of two classes or more; of "
            "a binary classifier's one column take `maximum_probability` of "
            "its sigmoid. "
            f"Received: logits of shape {tuple(logits.shape)}"
        )
    return logits


def negative_mutual_information(
    members: Tensor, members_axis: int = 0
) -> Tensor:
    """Minus the mutual information of an ensemble's members, in nats.

    Args:
        members: Probabilities `(members, examples, ..., classes)`, or
            `(members, examples, ..., 1)` of class 1.
        members_axis: As for `keras_freetickets.metrics.mutual_information`.

    Returns:
        Tensor `(examples, ...)` in [-log(members), 0], higher for familiar
        inputs.

    Raises:
        ValueError: If the shape is wrong or rows do not sum to one.

    Example:

    >>> score = negative_mutual_information([[[1.0, 0.0]], [[0.0, 1.0]]])
    >>> round(float(score[0]), 4)  # -log 2
    -0.6931
    """
    return -diversity.mutual_information(members, members_axis)


def unknown_aware_score(probabilities: Tensor) -> Tensor:
    """MOON's score: the largest probability of all classes but the last.

    The last output stands for "unknown"; what it takes lowers the score.

    Args:
        probabilities: Tensor `(examples, ..., classes + 1)`, summing to one
            with the unknown.

    Returns:
        Tensor `(examples, ...)`, higher for familiar inputs.

    Raises:
        ValueError: If rows do not sum to one, or there is one column.

    Example:

    >>> score = unknown_aware_score([[0.3, 0.2, 0.5]])
    >>> round(float(score[0]), 4)
    0.3

    Reference:
        Lei et al., 2024, arXiv:2403.20047.
    """
    probabilities = ops.convert_to_tensor(probabilities)
    if probabilities.shape[-1] == 1:
        raise ValueError(
            "`probabilities` must have a column for the unknown, the last, "
            "and one or more for classes. Received: probabilities of shape "
            f"{tuple(probabilities.shape)}"
        )
    probabilities = validation.read_predictions(probabilities, False)
    best = ops.max(probabilities[..., :-1], axis=-1)
    return validation.keep_nan(best, probabilities)
