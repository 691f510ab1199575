"""Shares, weights and order of a student's batches."""

import keras
import numpy as np
import pytest

from keras_freetickets.curation import MixedBatches

X, TARGETS = np.arange(6.0)[:, None], np.eye(2)[[0, 1, 0, 1, 0, 1]]
PSEUDO = 100 + np.arange(30.0)[:, None]
SOFT = np.tile([0.25, 0.75], (30, 1))


def test_each_batch_has_its_share_of_labelled_examples():
    batches = MixedBatches(X, TARGETS, PSEUDO, SOFT, batch_size=8)
    assert batches.num_batches == 5  # 30 of six a batch
    found = [batches[i] for i in range(5)]
    for x, targets, weights in found:
        assert (x[:2] < 100).all() and (x[2:] >= 100).all()
        np.testing.assert_array_equal(
            targets[:2], TARGETS[x[:2, 0].astype(int)]
        )
        np.testing.assert_allclose(targets[2:], SOFT[:6])
        # 8 / 2 and 8 / 6: means of both parts, added up.
        np.testing.assert_allclose(weights, [4.0] * 2 + [4 / 3] * 6)
    seen = np.concatenate([x[2:, 0] for x, _, _ in found])
    assert sorted(seen) == PSEUDO[:, 0].tolist()
    labelled = np.concatenate([x[:2, 0] for x, _, _ in found])
    # Ten of six: each once before any comes again.
    assert sorted(labelled[:6]) == X[:, 0].tolist()


def test_the_loss_is_the_mean_of_both_parts():
    batches = MixedBatches(
        X, TARGETS, PSEUDO, SOFT, batch_size=8, pseudo_weight=0.5
    )
    _, targets, weights = batches[0]
    predicted = np.tile([0.5, 0.5], (8, 1))
    predicted[:2] = [0.9, 0.1]
    loss = keras.losses.CategoricalCrossentropy()
    found = float(loss(targets, predicted, weights))
    each = -(targets * np.log(predicted)).sum(axis=-1)
    wanted = each[:2].mean() + 0.5 * each[2:].mean()
    assert found == pytest.approx(wanted, rel=1e-5)


def test_the_order_follows_from_seed_and_epoch():
    def order(seed, epoch):
        batches = MixedBatches(
            X, TARGETS, PSEUDO, SOFT, batch_size=8, seed=seed
        )
        batches.epoch_order().on_epoch_begin(epoch)
        return np.concatenate([batches[i][0][:, 0] for i in range(5)]).tolist()

    assert order(0, 3) == order(0, 3)
    assert order(0, 3) != order(0, 4) and order(0, 3) != order(1, 3)


def test_without_pseudo_labels_it_is_supervised_training():
    for pseudo in [(None, None), (PSEUDO[:0], SOFT[:0])]:
        batches = MixedBatches(X, TARGETS, *pseudo, batch_size=3)
        assert batches.num_batches == 2
        x, _, weights = batches[0]
        assert (x < 100).all() and weights.tolist() == [1.0] * 3
    longer = MixedBatches(X, TARGETS, batch_size=16, steps_per_epoch=7)
    assert longer.num_batches == 7 and longer[6][0].shape == (16, 1)


def test_augmentation_follows_from_the_batch():
    def shift(x, generator):
        return x + generator.uniform()

    batches = MixedBatches(X, TARGETS, batch_size=3, augment=shift)
    plain = MixedBatches(X, TARGETS, batch_size=3)
    moved = [batches[i][0] - plain[i][0] for i in (0, 0, 1)]
    assert np.ptp(moved[0]) == pytest.approx(0) and moved[0][0] != moved[2][0]
    np.testing.assert_array_equal(moved[0], moved[1])


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="trains")
def test_fit_learns_from_them():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)).astype("float32")
    targets = np.eye(2)[(x[:, 0] > 0).astype(int)]
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2, activation="softmax")]
    )
    model.compile(
        keras.optimizers.Adam(0.1),
        "categorical_crossentropy",
        metrics=["accuracy"],
    )
    batches = MixedBatches(x[:20], targets[:20], x[20:], targets[20:], 40)
    model.fit(batches, epochs=5, verbose=0, callbacks=[batches.epoch_order()])
    assert model.evaluate(x, targets, verbose=0)[1] > 0.9


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"x": X[:0], "targets": TARGETS[:0]}, "`x` must hold one labelled"),
        ({"targets": TARGETS[:3]}, "`targets` must hold a row"),
        ({"targets": TARGETS.argmax(-1)}, "`targets` must hold a row"),
        ({"pseudo_x": PSEUDO}, "`pseudo_targets` must hold a row"),
        (
            {"pseudo_x": np.ones((4, 2)), "pseudo_targets": SOFT[:4]},
            r"`pseudo_x` must have examples of the shape \(1,\)",
        ),
        (
            {"pseudo_x": PSEUDO, "pseudo_targets": np.ones((30, 3))},
            r"`pseudo_targets` must have examples of the shape \(2,\)",
        ),
        ({"batch_size": 1}, "`batch_size` must be"),
        ({"labelled_share": 1.0}, "`labelled_share` must be in"),
        ({"pseudo_weight": -1.0}, "`pseudo_weight` must be"),
        ({"steps_per_epoch": 0}, "`steps_per_epoch` must be"),
        ({"augment": 3}, "`augment` must be a function"),
        ({"seed": -1}, "`seed` must be"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments, said):
    with pytest.raises(ValueError, match=said):
        MixedBatches(**{"x": X, "targets": TARGETS, **arguments})
