"""Changes that two batches share, and CutMix."""

import numpy as np
import pytest
from keras import ops

from keras_freetickets import distillation
from keras_freetickets.distillation import SharedAugmentation

NOTHING = {
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "shift": 0.0,
    "cutout": 0.0,
}


def changed(augmentation, x, seed=0):
    change = augmentation.draw(x.shape[1:], np.random.default_rng(seed))
    found = augmentation.apply(ops.convert_to_tensor(x), change)
    return ops.convert_to_numpy(found)


def images(count=5, channels=3):
    rng = np.random.default_rng(1)
    return rng.random((count, 8, 10, channels)).astype("float32")


def test_all_sizes_zero_changes_nothing():
    x = images()
    found = changed(SharedAugmentation(**NOTHING), x)
    np.testing.assert_allclose(found, x, atol=1e-6)


def test_each_image_of_a_batch_changes_alike():
    """As a batch or one by one: nothing is drawn but in `draw`."""
    x = images()
    whole = changed(SharedAugmentation(), x, seed=4)
    each = [
        changed(SharedAugmentation(), x[i : i + 1], seed=4) for i in range(5)
    ]
    np.testing.assert_allclose(whole, np.concatenate(each), atol=1e-6)
    assert (whole != changed(SharedAugmentation(), x, seed=5)).any()


def test_shift_moves_whole_pixels():
    augmentation = SharedAugmentation(**{**NOTHING, "shift": 0.25})
    x, seen = images(), set()
    for seed in range(40):
        found = changed(augmentation, x, seed)
        down, right = (
            int(np.flatnonzero(found.any(axis=axes))[0])
            for axes in ((0, 2, 3), (0, 1, 3))
        )
        part = found[:, down:, right:]
        seen.add((down, right))
        if part.shape[1] == 8 - down and part.shape[2] == 10 - right:
            inside = x[:, : 8 - down, : 10 - right]
            if down and right:
                np.testing.assert_allclose(part, inside, atol=1e-6)
    assert max(down for down, _ in seen) == 2
    assert max(right for _, right in seen) == 2


def test_cutout_is_a_square_of_at_most_its_share():
    augmentation = SharedAugmentation(**{**NOTHING, "cutout": 0.5})
    x = np.ones((2, 8, 8, 1), "float32")
    sizes = [
        int((changed(augmentation, x, seed)[0] == 0).sum())
        for seed in range(30)
    ]
    assert max(sizes) == 16 and min(sizes) >= 4


def test_color():
    x = images()
    contrast = SharedAugmentation(**{**NOTHING, "contrast": 0.5})
    found = changed(contrast, x)
    axes = (1, 2, 3)
    np.testing.assert_allclose(found.mean(axes), x.mean(axes), rtol=1e-5)
    ratio = found.std(axes) / x.std(axes)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)
    assert 0.5 <= ratio[0] <= 1.5
    bright = changed(SharedAugmentation(**{**NOTHING, "brightness": 0.3}), x)
    gap = bright - x
    np.testing.assert_allclose(gap, gap.mean(), atol=1e-6)
    assert 0 < abs(gap.mean()) <= 0.3
    gray = images(channels=1)
    saturated = SharedAugmentation(**{**NOTHING, "saturation": 1.0})
    np.testing.assert_allclose(changed(saturated, gray), gray, atol=1e-6)


def test_cutmix_weighs_labels_by_area():
    rng = np.random.default_rng(0)
    x = np.broadcast_to(np.arange(4.0)[:, None, None, None], (4, 6, 6, 1))
    for _ in range(20):
        mixed, targets = distillation.cutmix(x, np.eye(4), rng)
        np.testing.assert_allclose(targets.sum(axis=1), 1)
        np.testing.assert_allclose(
            mixed.mean(axis=(1, 2, 3)), targets @ np.arange(4), atol=1e-9
        )
    assert (x[1] == 1).all()  # the given images stay


@pytest.mark.parametrize(
    "change, rule",
    [
        ({"brightness": -1}, "`brightness` must be a non-negative"),
        ({"contrast": 2}, r"`contrast` must be in \[0, 1\]"),
        ({"saturation": "no"}, "`saturation` must be"),
        ({"shift": 1.0}, r"`shift` must be in \[0, 1\)"),
        ({"cutout": 1.0}, r"`cutout` must be in \[0, 1\)"),
    ],
)
def test_wrong_sizes(change, rule):
    with pytest.raises(ValueError, match=rule):
        SharedAugmentation(**change)
