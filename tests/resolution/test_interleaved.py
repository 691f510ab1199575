"""Training that takes turns between two resolutions."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_freetickets as kft
from keras_freetickets import resolution

pytestmark = pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="has no training step"
)
Interleaved = resolution.InterleavedResolution
Periodic = resolution.Periodic


def network(sparsity=None):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(6, 3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.5),
            layers.ReLU(),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    return model if sparsity is None else kft.sparsify(model, sparsity, seed=1)


def compiled(model, **settings):
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        **settings,
    )
    return model


def data(count=24):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(count, 8, 8, 1)).astype("float32")
    return x, generator.integers(0, 3, count)


def fit(model, *callbacks, epochs=2, **arguments):
    x, y = data()
    return model.fit(
        x,
        y,
        epochs=epochs,
        batch_size=4,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
        **arguments,
    ).history


class Watch(keras.callbacks.Callback):
    """Masks and statistics after each step, and whether it was reduced."""

    def __init__(self):
        super().__init__()
        self.masks, self.reduced, self.means = [], [], []

    def on_train_batch_end(self, batch, logs=None):
        kft.keras_adapter.synchronize(self.model)
        self.reduced.append(self.model.run.variant is not None)
        self.masks.append([m.mask_array() for m in self.model.masked_kernels])
        (norm,) = (
            layer
            for layer in self.model.layers
            if isinstance(layer, resolution.ReducibleBatchNormalization)
        )
        self.means.append(
            [
                ops.convert_to_numpy(v.value)
                for v in (norm.moving_mean, norm.reduced_moving_mean)
            ]
        )


@pytest.mark.parametrize("sparsity", [None, 0.6])
def test_without_reduced_steps_it_is_plain_training(sparsity):
    """Losses and weights equal those of the model itself bit for bit."""
    model = compiled(network(sparsity))
    method = [] if sparsity is None else [kft.callbacks.SET(update_interval=3)]
    expected = fit(model, *method)
    made = compiled(resolution.reducible(network(sparsity)))
    method = [] if sparsity is None else [kft.callbacks.SET(update_interval=3)]
    found = fit(made, *method, Interleaved(Periodic(0, 1)))
    assert found.pop("reduced_share") == [0.0, 0.0]
    assert found == expected
    for old, new in zip(
        model.trainable_variables, made.trainable_variables, strict=True
    ):
        np.testing.assert_array_equal(old, new)


def test_a_reduced_step_by_hand():
    made = compiled(resolution.reducible(network()))
    other = compiled(resolution.reducible(network()))
    x, y = data(4)
    made.run.use_variant(resolution.interleaved.REDUCED)
    loss, _ = made.train_on_batch(x, y)
    with resolution.reduced():
        small = resolution.downsample(x)
        p = ops.convert_to_numpy(other(small, training=True))
    expected = -np.mean(np.log(p[np.arange(4), y]))
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_steps_take_turns():
    model = compiled(resolution.reducible(network()))
    watch = Watch()
    history = fit(model, Interleaved(Periodic(1, 3, until=0.5)), watch)
    assert watch.reduced == [True, False, False] * 2 + [False] * 6
    assert history["reduced_share"] == [pytest.approx(1 / 3), 0.0]
    assert model.run.variant is None
    # Each set of statistics changes in its own steps.
    for i in range(1, 12):
        changed = [
            not np.array_equal(a, b)
            for a, b in zip(watch.means[i], watch.means[i - 1], strict=True)
        ]
        assert changed == [not watch.reduced[i], watch.reduced[i]]


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("method", ["set", "rigl", "snfs"])
def test_masks_change_in_full_steps_alone(method):
    model = compiled(resolution.reducible(network(0.6)))
    watch = Watch()
    grows = kft.callbacks.DropAndGrow(method, update_interval=2)
    fit(model, grows, Interleaved(Periodic(2, 3, until=1.0)), watch)
    changed = [
        any(not np.array_equal(a, b) for a, b in zip(new, old, strict=True))
        for new, old in zip(watch.masks[1:], watch.masks, strict=False)
    ]
    assert any(changed)
    assert not any(np.array(changed) & np.array(watch.reduced[1:]))
    for masked in model.masked_kernels:
        outside = masked.kernel_array()[~masked.mask_array()]
        np.testing.assert_array_equal(outside, 0.0)
        assert masked.count() == masked.initial


def test_an_update_that_is_due_waits_for_a_full_step():
    model = compiled(resolution.reducible(network(0.6)))
    watch = Watch()
    grows = kft.callbacks.SET(update_interval=2)
    # Steps 0 to 4 of 6 are reduced: one update instead of two.
    fit(model, grows, Interleaved(Periodic(5, 6, until=1.0)), watch, epochs=1)
    assert int(model.update_state.update_count.numpy()) == 1
    np.testing.assert_array_equal(watch.masks[0][1], watch.masks[4][1])
    assert not np.array_equal(watch.masks[4][1], watch.masks[5][1])


def test_edst_explores_at_reduced_resolution(tmp_path):
    model = compiled(resolution.reducible(network(0.6)))
    watch = Watch()
    edst = kft.callbacks.EDST(
        2, 1, 2, update_interval=2, monitor=None, directory=tmp_path
    )
    stop = edst.phases[0].stop_epoch
    interleaved = Interleaved(Periodic(1, 2, until=1.0), stop_epoch=stop)
    history = fit(model, edst, interleaved, watch, epochs=edst.epochs)
    assert history["reduced_share"] == [0.5, 0.5, 0.0, 0.0]
    assert watch.reduced == [True, False] * 6 + [False] * 12
    ensemble = edst.ensemble()
    x, _ = data()
    assert ensemble.predict(x, verbose=0).shape == (24, 3)
    ticket = resolution.plain(ensemble.member(0))
    np.testing.assert_allclose(
        ticket(x), ensemble.predict_members(x)[0], atol=1e-6
    )


def test_a_killed_training_reduces_the_same_steps(tmp_path):
    def train(epochs, folder):
        model = compiled(resolution.reducible(network(0.6)))
        schedule = resolution.Bernoulli(0.5, until=0.8, seed=3)
        callbacks = [
            kft.callbacks.SET(update_interval=2),
            Interleaved(schedule, stop_epoch=3),
            kft.callbacks.Backup(tmp_path / folder),
        ]
        return model, callbacks, fit

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    whole, callbacks, _ = train(3, "whole")
    fit(whole, *callbacks, epochs=3)
    first, callbacks, _ = train(3, "killed")
    with pytest.raises(KeyboardInterrupt):
        fit(first, *callbacks, Stop(), epochs=3)
    second, callbacks, _ = train(3, "killed")
    fit(second, *callbacks, epochs=3)
    for a, b in zip(whole.weights, second.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_compile_options_change_nothing():
    weights = []
    for settings in ({"run_eagerly": True}, {"run_eagerly": False}):
        model = compiled(resolution.reducible(network(0.6)), **settings)
        fit(model, Interleaved(), epochs=1)
        weights.append([np.array(v) for v in model.trainable_variables])
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"`schedule` must be .*'periodic'"):
        Interleaved("periodic")
    with pytest.raises(ValueError, match="`stop_epoch`"):
        Interleaved(stop_epoch=0)
    with pytest.raises(ValueError, match=r"must be one of kft.resolution"):
        fit(compiled(network(0.5)), Interleaved())
    reducible = resolution.reducible(network())
    with pytest.raises(ValueError, match="steps_per_execution=2"):
        fit(compiled(reducible, steps_per_execution=2), Interleaved())
    with pytest.raises(ValueError, match="at most one that chooses the res"):
        fit(compiled(reducible), Interleaved(), Interleaved())
    reducible.compile(
        keras.optimizers.SGD(gradient_accumulation_steps=2),
        "sparse_categorical_crossentropy",
    )
    with pytest.raises(ValueError, match="gradient_accumulation_steps=2"):
        fit(reducible, Interleaved())

    def batches():
        while True:
            yield data(4)

    with pytest.raises(ValueError, match="steps_per_epoch"):
        compiled(reducible).fit(
            batches(), epochs=1, verbose=0, callbacks=[Interleaved()]
        )


def enlarged_digits():
    from sklearn.datasets import load_digits

    found = load_digits()
    x = (found.images[..., None] / 16.0).astype("float32")
    x = np.repeat(np.repeat(x, 2, axis=1), 2, axis=2)
    return (x[:1300], found.target[:1300]), (x[1300:], found.target[1300:])


@pytest.mark.slow
def test_interleaved_beats_front_loaded():
    """The statistical test of the method, on seeds fixed beforehand."""
    (x, y), test = enlarged_digits()

    def accuracy(schedule, seed):
        keras.utils.set_random_seed(seed)
        model = keras.Sequential(
            [
                keras.Input((16, 16, 1)),
                layers.Conv2D(32, 3, padding="same", activation="relu"),
                layers.Conv2D(64, 3, padding="same", activation="relu"),
                layers.GlobalAveragePooling2D(),
                layers.Dense(10, activation="softmax"),
            ]
        )
        model = resolution.reducible(model)
        model.compile(
            keras.optimizers.Adam(4e-3),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        model.fit(
            x,
            y,
            batch_size=64,
            epochs=40,
            verbose=0,
            callbacks=[Interleaved(schedule)],
        )
        return model.evaluate(*test, verbose=0)[1]

    steps = 40 * -(-len(x) // 64)
    front = round(0.4 * steps)
    full, fourth, alternating, loaded = (
        np.mean([accuracy(schedule, seed) for seed in (0, 1, 2)])
        for schedule in (
            Periodic(0, 1),
            Periodic(1, 4, until=0.8),
            Periodic(1, 2, until=0.8),
            Periodic(front, steps, until=1.0),
        )
    )
    assert alternating > loaded
    assert fourth > full - 0.02
