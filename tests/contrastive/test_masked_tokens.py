"""Which tokens are hidden, and their loss."""

import numpy as np
import pytest
from keras import ops

from keras_freetickets.contrastive import MaskedTokens
from keras_freetickets.contrastive import masked_token_loss


def hidden(tokens, step=0, **settings):
    transform = MaskedTokens(50, 1, first_token=2, **settings)
    found = transform.hidden(np.asarray(tokens), step)
    return [ops.convert_to_numpy(one) for one in found]


def test_shares_of_a_hundred_thousand_tokens():
    tokens = np.full((1000, 100), 7)
    new, targets = hidden(tokens)
    chosen = targets >= 0
    assert (targets[chosen] == 7).all() and (new[~chosen] == 7).all()
    masked, others = chosen & (new == 1), chosen & (new != 1)
    assert chosen.mean() == pytest.approx(0.15, abs=0.005)
    assert masked.mean() == pytest.approx(0.12, abs=0.005)
    assert others.mean() == pytest.approx(0.03, abs=0.005)
    drawn = new[others]
    assert drawn.min() == 2 and drawn.max() == 49
    assert len(np.unique(drawn)) == 48


def test_what_is_chosen_follows_from_seed_and_step():
    tokens = np.full((20, 10), 7)
    same = [hidden(tokens, 3)[1], hidden(tokens, 3)[1]]
    np.testing.assert_array_equal(*same)
    assert not np.array_equal(same[0], hidden(tokens, 4)[1])
    assert not np.array_equal(same[0], hidden(tokens, 3, seed=1)[1])


def test_padding_is_never_chosen():
    tokens = np.array([[7, 8, 0, 0]] * 100)
    new, targets = hidden(tokens, probability=1.0)
    assert (targets[:, 2:] == -1).all() and (new[:, 2:] == 0).all()
    np.testing.assert_array_equal(targets[:, :2], tokens[:, :2])


def test_the_loss_ignores_other_positions():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(2, 4, 6)).astype("float32")
    targets = np.full((2, 4), -1)
    targets[0, 1], targets[1, 3] = 5, 2
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -(log_p[0, 1, 5] + log_p[1, 3, 2]) / 2
    assert float(masked_token_loss(targets, logits)) == pytest.approx(
        expected, rel=1e-5
    )
    other = logits.copy()
    other[targets < 0] = 100 * generator.normal(size=(6, 6))
    same = masked_token_loss(targets, other)
    assert float(same) == pytest.approx(expected, rel=1e-5)
    assert float(masked_token_loss(np.full((2, 4), -1), logits)) == 0.0


def test_a_batch():
    transform = MaskedTokens(50, 1)
    x = {"text": np.ones((3, 4)), "documents": np.full((2, 5), 9)}
    new, targets, weights = transform(x, None, None, 0)
    assert new["text"] is x["text"] and weights is None
    assert targets.shape == new["documents"].shape == (2, 5)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: MaskedTokens(1, 0), "`vocabulary_size`"),
        (lambda: MaskedTokens(5, 5), "`mask_token` must be less than"),
        (lambda: MaskedTokens(5, 1, first_token=5), "`first_token`"),
        (lambda: MaskedTokens(5, 1, probability=2.0), "`probability`"),
        (lambda: MaskedTokens(5, 1, masked_share=-1.0), "`masked_share`"),
        (
            lambda: MaskedTokens(5, 1)({"text": 0}, None, None, 0),
            r"with 'documents'.*\['text'\]",
        ),
    ],
)
def test_bad_arguments(make, said):
    with pytest.raises(ValueError, match=said):
        make()
