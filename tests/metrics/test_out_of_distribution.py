import made_up
import numpy as np
import pytest
from made_up import as_array

from keras_freetickets import metrics


def test_scores_against_numpy():
    logits, members = made_up.members()
    logits, p = logits[0], members[0]
    entropy = -(p * np.log(p)).sum(-1)
    pooled = members.mean(0)
    between = -(pooled * np.log(pooled)).sum(-1)
    between += (members * np.log(members)).sum(-1).mean(0)
    for value, expected in (
        (metrics.maximum_probability(p), p.max(-1)),
        (metrics.negative_entropy(p), -entropy),
        (metrics.negative_energy(logits), np.log(np.exp(logits).sum(-1))),
        (
            metrics.negative_energy(logits, temperature=2.0),
            2 * np.log(np.exp(logits / 2).sum(-1)),
        ),
        (metrics.maximum_logit(logits), logits.max(-1)),
        (metrics.negative_mutual_information(members), -between),
        (metrics.unknown_aware_score(p), p[:, :3].max(-1)),
    ):
        np.testing.assert_allclose(as_array(value), expected, atol=1e-5)
    first = metrics.negative_mutual_information(
        members.swapaxes(0, 1), members_axis=1
    )
    np.testing.assert_allclose(as_array(first), -between, atol=1e-5)


def test_bad_temperature():
    with pytest.raises(ValueError, match="`temperature` must be"):
        metrics.negative_energy([[1.0]], 0)
