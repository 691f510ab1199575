"""Predictions made up for tests of metrics."""

import keras
import numpy as np
from hypothesis import strategies as st

# Few values, so that there are ties; quarters are exact in float32.
SCORES = st.lists(
    st.integers(-8, 8).map(lambda n: n / 4), min_size=1, max_size=30
)
# Scores of known and unknown inputs.
KNOWN = [0.9, 0.8, 0.7, 0.6]
UNKNOWN = [0.75, 0.5, 0.4, 0.3]


def truth_of(known, unknown):
    return np.repeat([1, 0], [len(known), len(unknown)])


def softmax(logits):
    exponents = np.exp(logits)
    return exponents / exponents.sum(axis=-1, keepdims=True)


def members(seed=0):
    """Logits and probabilities of 3 members, 40 examples and 4 classes."""
    logits = 2 * np.random.default_rng(seed).normal(size=(3, 40, 4))
    return logits.astype("float32"), softmax(logits).astype("float32")


def as_array(tensor):
    return keras.ops.convert_to_numpy(tensor)
