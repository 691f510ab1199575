"""How uncertain an ensemble is, from what its members predict."""

import numpy as np
from keras import ops

from keras_freetickets.metrics import diversity


def of_classifiers(members: np.ndarray) -> dict[str, np.ndarray]:
    """The mean distribution, its entropy and the parts of that.

    Args:
        members: Probabilities `(members, examples, ..., classes)`.

    Returns:
        Dict of arrays, see `EnsembleModel.predict_uncertainty`.
    """
    found = {
        function.__name__: ops.convert_to_numpy(function(members))
        for function in (
            diversity.predictive_entropy,
            diversity.expected_entropy,
            diversity.mutual_information,
            diversity.variation_ratio,
        )
    }
    return {"probabilities": members.mean(axis=0), **found}


def of_regressors(
    means: np.ndarray, variances: np.ndarray | None
) -> dict[str, np.ndarray]:
    """The mean and the variance of a mixture, with the parts of that.

    Args:
        means: Array `(members, examples, ..., outputs)`.
        variances: Array of the same shape, or `None` if members predict none.

    Returns:
        Dict of arrays, see `EnsembleModel.predict_uncertainty`.
    """
    mean, spread = means.mean(axis=0), means.var(axis=0)
    if variances is None:
        return {"mean": mean, "variance": spread}
    expected = variances.mean(axis=0)
    return {
        "mean": mean,
        "variance": expected + spread,
        "expected_variance": expected,
        "variance_of_means": spread,
    }
