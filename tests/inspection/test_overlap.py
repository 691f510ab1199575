import keras
import numpy as np
import pytest

import keras_freetickets as kft


def _member(masks, wrap=True):
    """Two layers of 2x2 and 2x1 weights with the given masks."""
    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(2, use_bias=False),
            keras.layers.Dense(1, use_bias=False),
        ]
    )
    if not wrap:
        return model
    model = kft.sparsify(model, sparsity=0.5, distribution="uniform")
    for record, mask in zip(model.masked_kernels, masks, strict=True):
        record.mask.assign(np.array(mask, bool))
    return model


def test_by_hand():
    first = _member([[[1, 1], [0, 0]], [[1], [0]]])
    # 2 of the 4 connections that either has are shared; none; 1 of 4.
    second = _member([[[1, 0], [1, 0]], [[1], [0]]])
    third = _member([[[0, 0], [1, 0]], [[0], [1]]])
    np.testing.assert_allclose(
        kft.mask_overlap([first, second, third]),
        [[1, 1 / 2, 0], [1 / 2, 1, 1 / 4], [0, 1 / 4, 1]],
    )


def test_models_without_masks_or_with_others_are_refused():
    sparse = _member([[[1, 1], [0, 0]], [[1], [0]]])
    with pytest.raises(ValueError, match="member 1, a Sequential without"):
        kft.mask_overlap([sparse, _member(None, wrap=False)])
    other = kft.sparsify(
        keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), 0.5
    )
    with pytest.raises(ValueError, match="kernels of the same shapes"):
        kft.mask_overlap([sparse, other])
