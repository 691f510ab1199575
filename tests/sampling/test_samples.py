"""Summaries of chains by hand, and what known chains are worth."""

import numpy as np
import pytest

from keras_freetickets.sampling import Samples
from keras_freetickets.sampling import effective_sample_size


def test_summaries_of_samples():
    states = np.array([[[1, 0, 1], [1, 0, 0]], [[1, 1, 1], [0, 0, 1]]])
    values = np.array([[1.0, 3.0], [2.0, 0.0]])
    samples = Samples(states, values, 1.0, 1.0, 1.0, 4, 0.0)
    assert samples.means().tolist() == [0.75, 0.25, 0.75]
    assert samples.best().tolist() == [1, 0, 0]
    assert samples.majority().tolist() == [1, 0, 1]
    assert samples.most_frequent(1).tolist() == [1, 0, 0]
    with pytest.raises(ValueError, match="`budget` must be at most 3"):
        samples.most_frequent(4)


def test_effective_sample_size_of_known_chains():
    random = np.random.default_rng(0)
    noise = random.normal(size=(4, 5000))
    assert effective_sample_size(noise) == pytest.approx(20_000, rel=0.1)
    chain = np.zeros_like(noise)
    for i in range(1, 5000):  # correlation .9: (1 - .9) / (1 + .9) of them
        chain[:, i] = 0.9 * chain[:, i - 1] + noise[:, i]
    assert effective_sample_size(chain) == pytest.approx(20_000 / 19, rel=0.2)
    # Chains that disagree are worth little.
    apart = chain + 100 * np.arange(4)[:, None]
    assert effective_sample_size(apart) < 20
    assert np.isnan(effective_sample_size(np.ones((2, 10))))
    for wrong in (np.zeros(3), np.zeros((2, 2, 5)), [0, 1, np.nan, 2, 3]):
        with pytest.raises(ValueError, match="`values` must"):
            effective_sample_size(wrong)
