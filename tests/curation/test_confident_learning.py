"""Batches of the examples left, and the callback that drops them."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft
from keras_freetickets.curation import ConfidentLearning
from keras_freetickets.curation import FilteredBatches
from keras_freetickets.curation import NestedFilter
from keras_freetickets.curation import label_scores

X = np.arange(20.0, dtype="float32")[:, None]
Y = np.arange(20) % 2


def test_batches_hold_examples_that_are_left():
    nested = NestedFilter(20, keep=0.5)
    batches = FilteredBatches(X, Y, nested, batch_size=6)
    assert batches.num_batches == 4
    found = [batches[i] for i in range(4)]
    first = np.concatenate([x[:, 0] for x, _ in found])
    assert sorted(first[:20]) == X[:, 0].tolist()  # all before any repeats
    assert all((x[:, 0] % 2 == y).all() for x, y in found)
    nested.update(-X[:, 0])
    later = np.concatenate([batches[i][0][:, 0] for i in range(4)])
    assert sorted(set(later)) == list(range(10))


def test_the_order_follows_from_seed_and_epoch():
    def order(seed, epoch):
        batches = FilteredBatches(X, Y, NestedFilter(20), 5, seed=seed)
        batches.epoch_order().on_epoch_begin(epoch)
        return np.concatenate([batches[i][0][:, 0] for i in range(4)]).tolist()

    assert order(0, 3) == order(0, 3)
    assert order(0, 3) != order(0, 4) and order(0, 3) != order(1, 3)


def test_pairs_and_documents():
    documents = {"documents": np.arange(7)[:, None]}
    batches = FilteredBatches(
        {"text": X, "image": 2 * X},
        None,
        NestedFilter(20),
        batch_size=4,
        documents=documents,
        documents_per_batch=3,
    )
    ((batch,), (other,)) = batches[0], batches[1]
    np.testing.assert_array_equal(batch["image"], 2 * batch["text"])
    assert batch["documents"].shape == (3, 1)
    seen = [*batch["documents"][:, 0], *other["documents"][:, 0]]
    assert len(set(seen)) == 6


def network(sparsity=0.5):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(16, "relu"),
            layers.Dense(2, "softmax"),
        ]
    )
    model = kft.sparsify(model, sparsity, seed=1)
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    return model


def data():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 4)).astype("float32")
    return x, (x[:, 0] > 0).astype(int)


needs_a_step = pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="has no training step"
)


@needs_a_step
def test_keeping_all_is_plain_training():
    x, y = data()
    weights = []
    for filtered in (False, True):
        model = network()
        nested = NestedFilter(60, keep=1.0)
        batches = FilteredBatches(x, y, nested, 16)
        callbacks = [batches.epoch_order()]
        if filtered:

            def score(model, indices):
                p = model.predict(x[indices], verbose=0)
                return label_scores(p, y[indices])

            callbacks.append(ConfidentLearning(nested, score, range(4)))
        model.fit(batches, epochs=4, verbose=0, callbacks=callbacks)
        weights.append([np.array(v) for v in model.weights])
    assert nested.rounds == 4
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)


@needs_a_step
def test_tickets_score_as_they_finish(tmp_path):
    x, y = data()
    nested = NestedFilter(60, keep=0.8)
    batches = FilteredBatches(x, y, nested, 16)
    edst = kft.callbacks.EDST(
        1, 2, 3, update_interval=2, monitor=None, directory=tmp_path
    )
    scored = []

    def score(model, indices):
        p = model.predict(x[indices], verbose=0)
        scored.append((indices, p))
        return label_scores(p, y[indices])

    ends = [phase.stop_epoch - 1 for phase in edst.phases[1:]]
    confident = ConfidentLearning(nested, score, ends)
    history = network()
    logs = history.fit(
        batches,
        epochs=edst.epochs,
        verbose=0,
        callbacks=[batches.epoch_order(), edst, confident],
    ).history
    assert logs["examples"] == [60, 60, 48, 48, 38, 38, 30]
    ensemble = edst.ensemble()
    for i, (indices, p) in enumerate(scored):
        ticket = ensemble.member(i).predict(x[indices], verbose=0)
        np.testing.assert_allclose(p, ticket, atol=1e-6)


@needs_a_step
def test_a_killed_training_goes_on_with_the_same_examples(tmp_path):
    x, y = data()

    def train(directory, epochs):
        nested = NestedFilter(60, keep=0.8)
        batches = FilteredBatches(x, y, nested, 16)

        def score(model, indices):
            p = model.predict(x[indices], verbose=0)
            return label_scores(p, y[indices])

        confident = ConfidentLearning(nested, score, range(6))
        backup = kft.callbacks.Backup(directory, [confident])
        model = network()
        model.fit(
            batches,
            epochs=epochs,
            shuffle=False,
            verbose=0,
            callbacks=[batches.epoch_order(), confident, backup],
        )
        return nested, [np.array(v) for v in model.weights], backup.history

    whole, weights, history = train(tmp_path / "whole", 5)
    train(tmp_path / "killed", 2)
    resumed, others, logs = train(tmp_path / "killed", 5)
    assert history["examples"] == [48, 38, 30, 30, 30]
    assert logs == history and resumed.rounds == 5
    for name in ("active", "totals", "counts"):
        np.testing.assert_array_equal(
            getattr(resumed, name), getattr(whole, name)
        )
    np.testing.assert_array_equal(resumed.spreads(), whole.spreads())
    for a, b in zip(weights, others, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda n: FilteredBatches(X[:5], Y, n), "must hold 20 examples"),
        (
            lambda n: FilteredBatches(X, Y, n, 21),
            "`batch_size` must be at",
        ),
        (
            lambda n: FilteredBatches(
                {"a": X}, None, n, 4, documents={"documents": X[:5]}
            ),
            "`documents_per_batch` must be at most",
        ),
        (
            lambda n: FilteredBatches(
                {"a": X}, None, n, 4, documents={"b": X, "c": X}
            ),
            "`documents` must be a dict of one array",
        ),
        (lambda n: ConfidentLearning(None, len, [1]), "`nested`"),
        (lambda n: ConfidentLearning(n, None, [1]), "`score`"),
        (lambda n: ConfidentLearning(n, len, [-1]), "`epochs`"),
    ],
)
def test_bad_arguments(make, said):
    with pytest.raises(ValueError, match=said):
        make(NestedFilter(20))
