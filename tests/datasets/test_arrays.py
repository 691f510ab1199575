import numpy as np
import pytest

from keras_freetickets import datasets
from keras_freetickets.datasets.augmentations import Augmentation

X = np.arange(20, dtype="float32").reshape(10, 2)
Y = np.arange(10)


def _epochs(count, **arguments):
    """The batches of some epochs, each a list of pairs."""
    batches = datasets.from_arrays(X, Y, **arguments)
    told = batches.epoch_order()
    found = []
    for epoch in range(count):
        told.on_epoch_begin(epoch)
        found.append(list(batches.dataset.as_numpy_iterator()))
        assert len(found[-1]) == batches.num_steps
        assert int(batches.dataset.cardinality()) == batches.num_steps
    return found


def test_each_epoch_holds_all_in_an_order_of_its_own():
    orders = []
    for batches in _epochs(3, batch_size=4):
        assert [len(y) for _, y in batches] == [4, 4, 2]
        for x, y in batches:
            np.testing.assert_array_equal(x, X[y])
        orders.append(np.concatenate([y for _, y in batches]).tolist())
        assert sorted(orders[-1]) == Y.tolist()
    assert len(set(map(tuple, orders))) == 3


def test_the_order_is_that_of_seed_and_epoch():
    def order(epochs, seed):
        (*_, last) = _epochs(epochs, batch_size=3, seed=seed)
        return np.concatenate([y for _, y in last]).tolist()

    assert order(2, seed=1) == order(2, seed=1)
    assert order(2, seed=1) != order(2, seed=2)
    # A run that begins at epoch 1 sees what the run from 0 on saw.
    batches = datasets.from_arrays(X, Y, batch_size=3, seed=1)
    batches.epoch_order().on_epoch_begin(1)
    found = [y for _, y in batches.dataset.as_numpy_iterator()]
    assert np.concatenate(found).tolist() == order(2, seed=1)


def test_the_remainder_is_dropped():
    (first, second) = _epochs(2, batch_size=4, drop_remainder=True)
    left = [
        set(Y) - {n for _, y in part for n in y} for part in (first, second)
    ]
    assert [len(one) for one in left] == [2, 2]
    assert left[0] != left[1]


def test_images_are_augmented():
    images = np.random.default_rng(0).random((8, 6, 6, 1)).astype("float32")
    batches = datasets.from_arrays(
        images, np.arange(8), 8, augmentation=Augmentation(flip=True)
    )
    ((found, rows),) = batches.dataset.as_numpy_iterator()
    as_they_are = [
        np.array_equal(a, images[i]) for a, i in zip(found, rows, strict=True)
    ]
    mirrored = [
        np.array_equal(a[:, ::-1], images[i])
        for a, i in zip(found, rows, strict=True)
    ]
    assert all(np.logical_xor(as_they_are, mirrored))
    assert any(mirrored) and not all(mirrored)


@pytest.mark.parametrize(
    "x, y, arguments, message",
    [
        (X, Y[:3], {}, "must be arrays of as many examples"),
        (X[:0], Y[:0], {}, "must be arrays of as many examples"),
        (1.0, Y, {}, "must be arrays of as many examples"),
        (X, Y, {"batch_size": 0}, "`batch_size`"),
        (X, Y, {"seed": -1}, "`seed`"),
        (X, Y, {"batch_size": 11, "drop_remainder": True}, r"in \[1, 10\]"),
    ],
)
def test_wrong_arguments(x, y, arguments, message):
    with pytest.raises(ValueError, match=message):
        datasets.from_arrays(x, y, **arguments)
