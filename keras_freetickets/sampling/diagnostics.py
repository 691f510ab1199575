"""How much a chain is worth."""

import numpy as np

from keras_freetickets.types import Array


def effective_sample_size(values: Array) -> float:
    """Independent samples that are worth as much as chains of values.

    Autocorrelations are pooled over the chains, with the variance between
    them, and summed until a pair of them is no longer positive (Geyer, 1992;
    Vehtari et al., 2021).

    Args:
        values: Array `(steps,)` or `(chains, steps)` of one number for each
            state, such as its energy; 4 steps or more.

    Returns:
        Float, at most the number of values times `log10` of it. NaN if the
        values never change: then nothing is known.

    Raises:
        ValueError: If the values have another shape or are not finite.

    Example:

    >>> independent = np.random.default_rng(0).normal(size=(4, 1000))
    >>> bool(3000 < effective_sample_size(independent) < 5000)
    True

    Reference:
        Geyer, "Practical Markov chain Monte Carlo", 1992.
        Vehtari et al., "Rank-normalization, folding, and localization",
        https://arxiv.org/abs/1903.08008
    """
    chains = np.atleast_2d(np.asarray(values, "float64"))
    if chains.ndim != 2 or chains.shape[1] < 4:
        raise ValueError(
            "`values` must have the shape (steps,) or (chains, steps), of 4 "
            f"steps or more. Received: values of shape {np.shape(values)}"
        )
    if not np.isfinite(chains).all():
        raise ValueError(
            "`values` must be finite. Received: values with NaN or infinite "
            "entries"
        )
    count, steps = chains.shape
    centered = chains - chains.mean(axis=1, keepdims=True)
    # Zeros behind the values, so that the convolution is not circular.
    spectrum = np.fft.rfft(centered, n=2 * steps, axis=1)
    covariances = np.fft.irfft(np.abs(spectrum) ** 2, axis=1)[:, :steps]
    covariances = covariances.mean(axis=0) / steps
    within = covariances[0] * steps / (steps - 1)
    between = chains.mean(axis=1).var(ddof=1) if count > 1 else 0.0
    variance = covariances[0] + between
    if not variance > 0:
        return float("nan")
    correlations = 1 - (within - covariances) / variance
    correlations[0] = 1.0
    pairs = correlations[: steps // 2 * 2].reshape(-1, 2).sum(axis=1)
    ends = np.flatnonzero(pairs <= 0)
    pairs = pairs[: ends[0]] if len(ends) else pairs
    pairs = np.minimum.accumulate(pairs)  # they fall in a reversible chain
    total = count * steps
    time = max(2 * pairs.sum() - 1, 1 / np.log10(total))
    return float(total / time)
